"""The guard: for each check a test that fails without it."""

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from rl_ros.errors import UserError
from rl_ros.graph import node_specs
from rl_ros.robots.arm import Arm
from rl_ros.robots.guard import Code, Command, Guard, Limits

PERIOD = 0.1
OPEN, CLOSED = np.array([1.0]), np.array([0.0])
LIMITS = Limits(
    workspace_low=(0.30, -0.30, 0.012),
    workspace_high=(0.75, 0.30, 0.50),
    speed=0.3,
    joint_margin=0.05,
    joint_speed_share=0.9,
    action_age=0.2,
)
HELD_GRIPPER = 0.25
"""What the gripper was told before; unlike anything a test commands."""


@pytest.fixture(scope="module")
def arm() -> Arm:
    return Arm()


@pytest.fixture(scope="module")
def guard(arm: Arm) -> Guard:
    return Guard(arm, LIMITS, PERIOD)


def command(
    guard: Guard,
    velocity: object = (0.0, 0.0, 0.0),
    gripper: object = OPEN,
    age: float = 0.0,
    measured: NDArray[np.float64] | None = None,
) -> Command:
    measured = guard.arm.home if measured is None else measured
    return guard.command(np.asarray(velocity), np.asarray(gripper), age, measured, HELD_GRIPPER)


def at(arm: Arm, position: tuple[float, float, float]) -> NDArray[np.float64]:
    """Joint positions with the tool there, straight down."""
    positions, error = arm.inverse(arm.home, position, arm.down(), iterations=200)
    assert error < 1e-5
    return positions


def assert_holds(given: Command, measured: NDArray[np.float64], code: Code) -> None:
    assert given.code is code
    assert given.code.rejected
    np.testing.assert_array_equal(given.positions, measured)
    assert given.gripper == HELD_GRIPPER
    assert given.detail


def test_the_limits_of_these_tests_are_the_shipped_ones() -> None:
    shipped = {name: spec.default for name, spec in node_specs()["arm_guard"].parameters.items()}
    for field in dataclasses.fields(Limits):
        if field.name in shipped:
            expected = shipped[field.name]
            value = getattr(LIMITS, field.name)
            assert value == (tuple(expected) if isinstance(expected, list) else expected), field.name


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("speed", [-0.3, -0.1, 0.1, 0.3])
def test_a_good_action_moves_the_tool_as_it_says(guard: Guard, axis: int, speed: float) -> None:
    velocity = np.zeros(3)
    velocity[axis] = speed
    given = command(guard, velocity, CLOSED)
    assert given.code is Code.OK
    assert not given.code.rejected
    before, _ = guard.arm.forward(guard.arm.home)
    after, rotation = guard.arm.forward(given.positions)
    np.testing.assert_allclose(after - before, velocity * PERIOD, atol=1e-5)
    np.testing.assert_allclose(rotation[:, 2], [0.0, 0.0, -1.0], atol=1e-4)
    assert given.gripper == 0.0


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_velocity_that_is_not_finite_is_rejected(guard: Guard, axis: int, number: float) -> None:
    velocity = np.zeros(3)
    velocity[axis] = number
    assert_holds(command(guard, velocity), guard.arm.home, Code.NOT_FINITE)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_gripper_that_is_not_finite_is_rejected(guard: Guard, number: float) -> None:
    assert_holds(command(guard, gripper=[number]), guard.arm.home, Code.NOT_FINITE)


@pytest.mark.parametrize(
    ("velocity", "gripper"),
    [
        ((), (1.0,)),
        ((0.1,), (1.0,)),
        ((0.1, 0.1), (1.0,)),
        ((0.1, 0.1, 0.1, 0.1), (1.0,)),
        (((0.1, 0.1, 0.1),), (1.0,)),
        (0.1, (1.0,)),
        ((0.1, 0.1, 0.1), ()),
        ((0.1, 0.1, 0.1), (1.0, 1.0)),
        ((0.1, 0.1, 0.1), 1.0),
    ],
)
def test_an_action_of_the_wrong_size_is_rejected(guard: Guard, velocity: object, gripper: object) -> None:
    assert_holds(command(guard, velocity, gripper), guard.arm.home, Code.WRONG_SIZE)


@pytest.mark.parametrize("age", [0.201, 5.0, np.inf, np.nan])
def test_an_action_that_answers_an_old_observation_is_rejected(guard: Guard, age: float) -> None:
    assert_holds(command(guard, (0.1, 0.0, 0.0), age=age), guard.arm.home, Code.STALE_ACTION)


@pytest.mark.parametrize("age", [-0.001, -1.0, -np.inf])
def test_an_action_that_answers_an_observation_of_the_future_is_rejected(guard: Guard, age: float) -> None:
    assert_holds(command(guard, (0.1, 0.0, 0.0), age=age), guard.arm.home, Code.STALE_ACTION)


@pytest.mark.parametrize("age", [0.0, 0.2])
def test_an_action_just_young_enough_is_taken(guard: Guard, age: float) -> None:
    assert command(guard, (0.1, 0.0, 0.0), age=age).code is Code.OK


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_velocity_above_the_limit_is_reduced_to_it(guard: Guard, axis: int, sign: float) -> None:
    velocity, allowed = np.zeros(3), np.zeros(3)
    velocity[axis], allowed[axis] = sign * 0.5, sign * 0.3
    given = command(guard, velocity)
    assert given.code is Code.SPEED_LIMITED
    assert not given.code.rejected
    before, _ = guard.arm.forward(guard.arm.home)
    after, _ = guard.arm.forward(given.positions)
    np.testing.assert_allclose(after - before, allowed * PERIOD, atol=1e-5)


def test_the_limit_itself_as_float32_is_no_reason_to_report_a_limit(guard: Guard) -> None:
    assert command(guard, np.array([0.3, -0.3, 0.0], np.float32)).code is Code.OK


@pytest.mark.parametrize(
    ("near", "axis", "sign"),
    [
        ((0.302, 0.0, 0.2), 0, -1.0),
        ((0.50, -0.298, 0.2), 1, -1.0),
        ((0.50, 0.0, 0.014), 2, -1.0),
        ((0.718, 0.0, 0.2), 0, 1.0),
        ((0.50, 0.298, 0.2), 1, 1.0),
        ((0.50, 0.0, 0.488), 2, 1.0),
    ],
)
def test_the_tool_stays_in_the_workspace_on_each_side(
    arm: Arm, near: tuple[float, float, float], axis: int, sign: float
) -> None:
    # A little smaller than shipped where the arm would be at its own limits.
    limits = dataclasses.replace(LIMITS, workspace_high=(0.72, 0.30, 0.49))
    guard = Guard(arm, limits, PERIOD)
    edge = (limits.workspace_low if sign < 0 else limits.workspace_high)[axis]
    velocity = np.zeros(3)
    velocity[axis] = sign * 0.3
    given = command(guard, velocity, measured=at(arm, near))
    assert given.code is Code.WORKSPACE_LIMITED
    after, _ = arm.forward(given.positions)
    assert after[axis] == pytest.approx(edge, abs=1e-4)


def test_a_tool_outside_the_workspace_is_brought_back_in(guard: Guard) -> None:
    measured = at(guard.arm, (0.5, 0.34, 0.2))
    for _ in range(10):
        given = command(guard, (0.0, 0.3, 0.0), measured=measured)
        assert not given.code.rejected
        measured = given.positions
    assert guard.arm.forward(measured)[0][1] == pytest.approx(0.30, abs=1e-3)


@pytest.mark.parametrize("side", ["lower", "upper"])
def test_joints_keep_a_margin_from_their_limits(arm: Arm, side: str) -> None:
    """Seen from a pose near the limits of an arm whose limits lie close around it."""
    tight = Arm()
    home = arm.home.copy()
    tight.lower, tight.upper = home - 0.5, home + 0.5
    if side == "lower":
        tight.lower = home - LIMITS.joint_margin - 0.004
    else:
        tight.upper = home + LIMITS.joint_margin + 0.004
    guard = Guard(tight, dataclasses.replace(LIMITS, joint_speed_share=1.0), PERIOD)
    limited = 0
    for velocity in np.vstack([np.eye(3), -np.eye(3)]) * 0.3:
        given = command(guard, velocity)
        assert (given.positions >= tight.lower + LIMITS.joint_margin - 1e-12).all()
        assert (given.positions <= tight.upper - LIMITS.joint_margin + 1e-12).all()
        limited += given.code is Code.JOINTS_LIMITED
    assert limited >= 3


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_joint_already_beyond_its_margin_goes_no_further_but_may_come_back(arm: Arm, sign: float) -> None:
    tight = Arm()
    first = np.arange(7) == 0  # the first joint: within its margin, and thus where it should not be
    tight.lower = arm.home - np.where(first & (sign < 0), 0.01, 10.0)
    tight.upper = arm.home + np.where(first & (sign > 0), 0.01, 10.0)
    guard = Guard(tight, LIMITS, PERIOD)
    outwards, inwards = (command(guard, (0.0, sign * speed, 0.0)) for speed in (0.2, -0.05))
    assert outwards.positions[0] == arm.home[0]
    assert outwards.code is Code.JOINTS_LIMITED
    # Back as fast as the action says, not at once.
    free = command(Guard(arm, LIMITS, PERIOD), (0.0, sign * -0.05, 0.0))
    np.testing.assert_allclose(inwards.positions, free.positions, atol=1e-9)
    assert inwards.code is Code.OK


def test_a_tool_that_leans_is_straightened_without_turning(guard: Guard) -> None:
    leaning = guard.arm.home + np.array([0.0, 0.0, 0.0, 0.0, 0.03, 0.05, 0.2])
    before, rotation = guard.arm.forward(leaning)
    assert rotation[2, 2] > -0.9999
    given = command(guard, measured=leaning)
    after, straight = guard.arm.forward(given.positions)
    assert given.code is Code.OK
    np.testing.assert_allclose(straight[:, 2], [0.0, 0.0, -1.0], atol=1e-4)
    np.testing.assert_allclose(straight[:2, 0], rotation[:2, 0], atol=0.01)
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_joints_that_would_be_too_fast_slow_down_together(arm: Arm) -> None:
    free = Guard(arm, dataclasses.replace(LIMITS, joint_speed_share=1.0), PERIOD)
    slow = Guard(arm, dataclasses.replace(LIMITS, joint_speed_share=0.02), PERIOD)
    velocity = (0.2, 0.1, -0.2)
    wanted = command(free, velocity)
    given = command(slow, velocity)
    assert wanted.code is Code.OK
    assert given.code is Code.JOINTS_LIMITED
    step, whole = given.positions - arm.home, wanted.positions - arm.home
    allowed = 0.02 * arm.velocity_limit * PERIOD
    assert np.max(np.abs(step) / allowed) == pytest.approx(1.0)
    share = np.linalg.norm(step) / np.linalg.norm(whole)
    np.testing.assert_allclose(step, share * whole, atol=1e-12)
    moved = arm.forward(given.positions)[0] - arm.forward(arm.home)[0]
    direction = moved / np.linalg.norm(moved)
    np.testing.assert_allclose(direction, np.array(velocity) / np.linalg.norm(velocity), atol=0.05)


def test_a_share_of_nothing_is_refused_where_it_is_configured() -> None:
    with pytest.raises(UserError, match="expected at least"):
        node_specs()["arm_guard"].parameters["joint_speed_share"].read(0.0, "joint_speed_share")


def test_a_target_out_of_reach_is_rejected(arm: Arm) -> None:
    guard = Guard(arm, dataclasses.replace(LIMITS, workspace_high=(2.0, 0.3, 0.5)), PERIOD)
    measured, reached = arm.home.copy(), 0.0
    for _ in range(100):
        given = command(guard, (0.3, 0.0, 0.0), measured=measured)
        if given.code.rejected:
            break
        measured, reached = given.positions, arm.forward(given.positions)[0][0]
    assert_holds(given, measured, Code.OUT_OF_REACH)
    assert 0.6 < reached < 0.9


def test_the_gripper_stays_between_closed_and_open(guard: Guard) -> None:
    assert [command(guard, gripper=[opening]).gripper for opening in (-3.0, 0.0, 0.4, 1.0, 7.0)] == [0, 0, 0.4, 1, 1]


def test_holding_gives_the_measured_positions_and_the_reason(guard: Guard) -> None:
    measured = guard.arm.home + 0.01
    given = guard.hold(measured, 0.5, Code.WATCHDOG, "silence")
    np.testing.assert_array_equal(given.positions, measured)
    assert (given.gripper, given.code, given.detail) == (0.5, Code.WATCHDOG, "silence")
    given.positions[:] = 0.0
    assert measured.any()  # what was measured is not handed out to be changed


def test_only_limits_are_no_rejection() -> None:
    passed = {code for code in Code if not code.rejected}
    assert passed == {Code.OK, Code.SPEED_LIMITED, Code.WORKSPACE_LIMITED, Code.JOINTS_LIMITED}


def test_no_command_ever_exceeds_a_limit_whatever_is_asked(guard: Guard) -> None:
    rng = np.random.default_rng(0)
    arm = guard.arm
    low, high = arm.lower + LIMITS.joint_margin, arm.upper - LIMITS.joint_margin
    largest = arm.velocity_limit * LIMITS.joint_speed_share * PERIOD
    measured = arm.home.copy()
    seen = set()
    for _ in range(2000):
        velocity = rng.normal(size=3) * rng.choice([0.1, 0.3, 10.0, 1e30])
        gripper = rng.normal(size=1) * 2
        if rng.random() < 0.1:
            velocity[rng.integers(0, 3)] = rng.choice([np.nan, np.inf, -np.inf])
        age = float(rng.choice([0.0, 0.1, 0.3, -0.1], p=[0.45, 0.45, 0.05, 0.05]))
        given = guard.command(velocity, gripper, age, measured, HELD_GRIPPER)
        seen.add(given.code)
        assert np.isfinite(given.positions).all()
        assert (np.abs(given.positions - measured) <= largest * (1 + 1e-9)).all()
        assert (given.positions >= np.minimum(low, measured) - 1e-12).all()
        assert (given.positions <= np.maximum(high, measured) + 1e-12).all()
        assert 0.0 <= given.gripper <= 1.0
        tool, _ = arm.forward(given.positions)
        before, _ = arm.forward(measured)
        assert np.abs(tool - before).max() <= LIMITS.speed * PERIOD + LIMITS.reach_error
        assert (tool >= np.array(LIMITS.workspace_low) - LIMITS.reach_error).all()
        assert (tool <= np.array(LIMITS.workspace_high) + LIMITS.reach_error).all()
        measured = given.positions
    assert seen >= {Code.OK, Code.SPEED_LIMITED, Code.WORKSPACE_LIMITED, Code.NOT_FINITE, Code.STALE_ACTION}
