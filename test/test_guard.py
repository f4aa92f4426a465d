"""The guard: for each check a test that fails without it, and one that tells so."""

import dataclasses
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from rl_ros.errors import UserError
from rl_ros.graph import node_specs
from rl_ros.robots.arm import Arm
from rl_ros.robots.collisions import Clearance
from rl_ros.robots.guard import CHECKS, EDGE, HOLD_TOLERANCE, Guard
from rl_ros.robots.verdict import Code, Command, Limits, Request

PERIOD = 0.1
TICK = 100_000_000
"""ns."""
OPEN, CLOSED = np.array([1.0]), np.array([0.0])
FREE = Limits.shipped(ramp=0.0, joint_acceleration=(1e6,) * 7, joint_jerk=(1e9,) * 7)
"""As shipped, without what depends on the command before."""
HELD_GRIPPER = 0.25
"""What the gripper was told before; unlike anything a test commands."""


@pytest.fixture(scope="module")
def arm() -> Arm:
    return Arm()


@pytest.fixture
def guard(arm: Arm) -> Guard:
    return Guard(arm, FREE, PERIOD)


def request(
    guard: Guard,
    velocity: object = (0.0, 0.0, 0.0),
    gripper: object = OPEN,
    age: float = 0.0,
    measured: NDArray[np.float64] | None = None,
    stamp: int | None = None,
    waited: float = 0.0,
    goal: NDArray[np.float64] | None = None,
) -> Request:
    """One action, a control period after the last one that was accepted."""
    measured = guard.arm.home if measured is None else measured
    if stamp is None:
        stamp = TICK if guard.accepted is None else guard.accepted + TICK
    newest = stamp + round(age * 1e9)
    return Request(
        stamp, np.asarray(velocity), np.asarray(gripper), measured, newest, HELD_GRIPPER, goal, waited=waited
    )


def command(guard: Guard, velocity: object = (0.0, 0.0, 0.0), gripper: object = OPEN, **more: object) -> Command:
    return guard.command(request(guard, velocity, gripper, **more))  # type: ignore[arg-type]


def follow(guard: Guard, velocities: object, measured: NDArray[np.float64] | None = None) -> list[Command]:
    """Commands to an arm that goes where it is told."""
    given, measured = [], guard.arm.home if measured is None else measured
    for velocity in velocities:  # type: ignore[attr-defined]
        given.append(command(guard, velocity, measured=measured))
        measured = given[-1].positions
    return given


def joint_velocities(arm: Arm, given: list[Command], start: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """rad/s (n, 7) of an arm that goes where it is told."""
    positions = [arm.home if start is None else start, *(each.positions for each in given)]
    return np.array([(after - before) / PERIOD for before, after in pairwise(positions)])


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


def test_the_shipped_limits_are_those_of_the_nodes_file() -> None:
    shipped = Limits.shipped()
    parameters = node_specs()["arm_guard"].parameters
    for field in dataclasses.fields(Limits):
        if field.name in parameters:
            expected = parameters[field.name].default
            assert getattr(shipped, field.name) == (tuple(expected) if isinstance(expected, list) else expected)


def test_a_limit_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(UserError, match="joint_jerk: expected 7 numbers, got 2"):
        Limits.shipped(joint_jerk=(1.0, 1.0))


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


@pytest.mark.parametrize("age", [0.201, 5.0])
def test_an_action_that_answers_an_old_observation_is_rejected(guard: Guard, age: float) -> None:
    assert_holds(command(guard, (0.1, 0.0, 0.0), age=age), guard.arm.home, Code.STALE_ACTION)


@pytest.mark.parametrize("age", [-0.001, -1.0])
def test_an_action_that_answers_an_observation_of_the_future_is_rejected(guard: Guard, age: float) -> None:
    assert_holds(command(guard, (0.1, 0.0, 0.0), age=age), guard.arm.home, Code.FUTURE_ACTION)


def test_an_action_that_has_waited_too_long_is_rejected_whatever_its_stamp_says(guard: Guard) -> None:
    assert_holds(command(guard, (0.1, 0.0, 0.0), waited=0.3), guard.arm.home, Code.STALE_ACTION)


@pytest.mark.parametrize("goal", [[np.nan], [0.1, np.inf, 0.1]])
def test_a_goal_that_its_encoder_does_not_vouch_for_is_no_goal(guard: Guard, goal: list[float]) -> None:
    assert_holds(command(guard, (0.1, 0.0, 0.0), goal=np.array(goal)), guard.arm.home, Code.GOAL_INVALID)
    assert command(guard, (0.1, 0.0, 0.0), goal=np.array([0.5, 0.0, 0.1])).code is Code.OK


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
    limits = dataclasses.replace(FREE, workspace_high=(0.72, 0.30, 0.49))
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
    for given in follow(guard, [(0.0, 0.3, 0.0)] * 10, measured):
        assert given.code is Code.WORKSPACE_LIMITED
        before, after = (guard.arm.forward(each)[0][1] for each in (measured, given.positions))
        assert before - after <= FREE.speed * PERIOD + 1e-4  # no faster than it may go
        measured = given.positions
    assert guard.arm.forward(measured)[0][1] == pytest.approx(0.30, abs=1e-3)


def test_a_workspace_without_height_keeps_the_tool_in_its_plane(arm: Arm) -> None:
    """An arm that sags by what its motors do not hold is brought back at each tick, and nothing is said about that."""
    plane = dataclasses.replace(FREE, workspace_low=(0.30, -0.30, 0.2), workspace_high=(0.75, 0.30, 0.2))
    measured = at(arm, (0.5, 0.0, 0.1997))
    along = command(Guard(arm, plane, PERIOD), (0.0, 0.2, -0.001), measured=measured)
    assert along.code is Code.OK
    after, _ = arm.forward(along.positions)
    np.testing.assert_allclose(after, [0.5, 0.2 * PERIOD, 0.2], atol=1e-4)
    upwards = command(Guard(arm, plane, PERIOD), (0.0, 0.0, 0.1), measured=measured)
    assert upwards.code is Code.WORKSPACE_LIMITED
    assert arm.forward(upwards.positions)[0][2] == pytest.approx(0.2, abs=1e-4)


def test_joint_limits_that_would_lead_the_tool_out_of_the_workspace_hold_it(arm: Arm) -> None:
    """A joint that stops at its limit bends the tool's way."""
    tight = Arm()
    tight.upper = arm.home + np.where(np.arange(7) == 1, FREE.joint_margin, 10.0)  # the shoulder may not bend forward
    tight.lower = arm.home - 10.0
    height = arm.forward(arm.home)[0][2]
    limits = dataclasses.replace(FREE, workspace_high=(0.75, 0.30, height + 0.002))
    given = command(Guard(tight, limits, PERIOD), (0.1, 0.0, 0.0))
    assert_holds(given, arm.home, Code.OUTSIDE_WORKSPACE)
    assert command(Guard(tight, FREE, PERIOD), (0.1, 0.0, 0.0)).code is Code.JOINT_POSITION_LIMITED


@pytest.mark.parametrize("side", ["lower", "upper"])
def test_joints_keep_a_margin_from_their_limits(arm: Arm, side: str) -> None:
    """Seen from a pose near the limits of an arm whose limits lie close around it."""
    tight = Arm()
    home = arm.home.copy()
    tight.lower, tight.upper = home - 0.5, home + 0.5
    if side == "lower":
        tight.lower = home - FREE.joint_margin - 0.004
    else:
        tight.upper = home + FREE.joint_margin + 0.004
    limited = 0
    for velocity in np.vstack([np.eye(3), -np.eye(3)]) * 0.3:
        given = command(Guard(tight, dataclasses.replace(FREE, joint_speed_share=1.0), PERIOD), velocity)
        assert (given.positions >= tight.lower + FREE.joint_margin - 1e-12).all()
        assert (given.positions <= tight.upper - FREE.joint_margin + 1e-12).all()
        limited += given.code is Code.JOINT_POSITION_LIMITED
    assert limited >= 3


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_joint_already_beyond_its_margin_goes_no_further_but_may_come_back(arm: Arm, sign: float) -> None:
    tight = Arm()
    first = np.arange(7) == 0  # the first joint: within its margin, and thus where it should not be
    tight.lower = arm.home - np.where(first & (sign < 0), 0.01, 10.0)
    tight.upper = arm.home + np.where(first & (sign > 0), 0.01, 10.0)
    outwards, inwards = (command(Guard(tight, FREE, PERIOD), (0.0, sign * speed, 0.0)) for speed in (0.2, -0.05))
    assert outwards.positions[0] == arm.home[0]
    assert outwards.code is Code.JOINT_POSITION_LIMITED
    # Back as fast as the action says, not at once.
    free = command(Guard(arm, FREE, PERIOD), (0.0, sign * -0.05, 0.0))
    np.testing.assert_allclose(inwards.positions, free.positions, atol=1e-9)
    assert inwards.code is Code.OK


def test_a_joint_brakes_before_its_limit_no_harder_than_it_may(arm: Arm) -> None:
    tight = Arm()
    tight.upper = arm.home + np.where(np.arange(7) == 0, FREE.joint_margin + 0.25, 10.0)
    limits = Limits.shipped(ramp=0.0, joint_acceleration=(2.0,) * 7)
    given = follow(Guard(tight, limits, PERIOD), [(0.0, 0.3, 0.0)] * 30)
    base = joint_velocities(arm, given)[:, 0]
    assert np.abs(np.diff(base)).max() <= 2.0 * PERIOD + 1e-9
    end = given[-1].positions[0]
    assert tight.upper[0] - FREE.joint_margin - 0.01 < end <= tight.upper[0] - FREE.joint_margin + 1e-9
    assert Code.JOINT_POSITION_LIMITED in given[-1].codes


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
    free = Guard(arm, dataclasses.replace(FREE, joint_speed_share=1.0), PERIOD)
    slow = Guard(arm, dataclasses.replace(FREE, joint_speed_share=0.02), PERIOD)
    velocity = (0.2, 0.1, -0.2)
    wanted = command(free, velocity)
    given = command(slow, velocity)
    assert wanted.code is Code.OK
    assert given.code is Code.JOINT_SPEED_LIMITED
    step, whole = given.positions - arm.home, wanted.positions - arm.home
    allowed = 0.02 * arm.velocity_limit * PERIOD
    assert np.max(np.abs(step) / allowed) == pytest.approx(1.0)
    share = np.linalg.norm(step) / np.linalg.norm(whole)
    np.testing.assert_allclose(step, share * whole, atol=1e-12)
    moved = arm.forward(given.positions)[0] - arm.forward(arm.home)[0]
    direction = moved / np.linalg.norm(moved)
    np.testing.assert_allclose(direction, np.array(velocity) / np.linalg.norm(velocity), atol=0.05)


def test_a_target_out_of_reach_is_rejected(arm: Arm) -> None:
    guard = Guard(arm, dataclasses.replace(FREE, workspace_high=(2.0, 0.3, 0.5)), PERIOD)
    measured, reached = arm.home.copy(), 0.0
    for _ in range(100):
        given = command(guard, (0.3, 0.0, 0.0), measured=measured)
        if given.code.rejected:
            break
        measured, reached = given.positions, arm.forward(given.positions)[0][0]
    assert_holds(given, measured, Code.OUT_OF_REACH)
    assert 0.6 < reached < 0.9


def test_no_command_is_further_from_the_last_one_than_the_joints_can_go(guard: Guard) -> None:
    """An arm that lags behind its command, and is then sent the other way."""
    ahead = follow(guard, [(0.3, 0.3, 0.0)])[-1].positions
    lagging = guard.arm.home - 0.3 * (ahead - guard.arm.home)
    slow = dataclasses.replace(FREE, joint_speed_share=0.25)
    tight = Guard(guard.arm, slow, PERIOD)
    first = command(tight, (0.3, 0.3, 0.0)).positions
    given = command(tight, (-0.3, -0.3, 0.0), measured=lagging)
    assert Code.JOINT_SPEED_LIMITED in given.codes
    largest = 0.25 * guard.arm.velocity_limit * PERIOD + 1e-9
    assert (np.abs(given.positions - first) <= largest).all()
    assert (np.abs(given.positions - lagging) <= largest).all()


ZIGZAG = [(0.3, 0.3, 0.0), (0.3, 0.3, 0.0), (-0.3, -0.3, 0.0), (-0.3, -0.3, 0.0), (0.3, -0.3, 0.2), (0.0, 0.0, 0.0)]


def test_no_joint_speeds_up_or_slows_down_harder_than_it_may(arm: Arm) -> None:
    limits = Limits.shipped(ramp=0.0)
    largest = np.array(limits.joint_acceleration)
    free = joint_velocities(arm, follow(Guard(arm, FREE, PERIOD), ZIGZAG))
    assert (np.abs(np.diff(free, axis=0)) / PERIOD > largest).any()
    given = follow(Guard(arm, limits, PERIOD), ZIGZAG)
    assert any(Code.ACCELERATION_LIMITED in each.codes for each in given)
    velocities = np.vstack([np.zeros(7), joint_velocities(arm, given)])
    assert (np.abs(np.diff(velocities, axis=0)) / PERIOD <= largest + 1e-6).all()


def test_an_arm_that_was_stopped_from_outside_starts_from_rest(arm: Arm) -> None:
    """Commanded and moving are two things: what is measured counts."""
    limits = Limits.shipped(ramp=0.0, joint_acceleration=(2.0,) * 7)
    guard = Guard(arm, limits, PERIOD)
    follow(guard, [(0.0, 0.3, 0.0)] * 3)
    blocked = guard.last.measured  # type: ignore[union-attr]
    command(guard, (0.0, 0.3, 0.0), measured=blocked)
    given = command(guard, (0.0, 0.3, 0.0), measured=blocked)
    assert (np.abs(given.positions - blocked) <= 2.0 * PERIOD**2 + 1e-9).all()


def test_no_joint_jerks_more_than_it_may(arm: Arm) -> None:
    limits = dataclasses.replace(FREE, joint_jerk=(40.0,) * 7)
    velocities = np.array([(0.1, 0.1, 0.0), (0.2, 0.1, 0.0), (0.1, 0.0, 0.0), (0.0, 0.1, 0.0)])
    given = follow(Guard(arm, limits, PERIOD), velocities)
    assert any(Code.JERK_LIMITED in each.codes for each in given)
    speeds = np.vstack([np.zeros((2, 7)), joint_velocities(arm, given)])
    assert (np.abs(np.diff(speeds, n=2, axis=0)) / PERIOD**2 <= 40.0 + 1e-6).all()
    free = np.vstack([np.zeros((2, 7)), joint_velocities(arm, follow(Guard(arm, FREE, PERIOD), velocities))])
    assert (np.abs(np.diff(free, n=2, axis=0)) / PERIOD**2 > 40.0).any()


def test_the_arm_brakes_as_hard_as_it_must_to_stay_in_the_workspace(arm: Arm) -> None:
    limits = Limits.shipped(ramp=0.0, joint_acceleration=(1.0,) * 7)
    given = follow(Guard(arm, limits, PERIOD), [(0.0, 0.3, 0.0)] * 30)
    assert not any(each.code.rejected for each in given)
    assert any(Code.BRAKED in each.codes for each in given)
    assert all(arm.forward(each.positions)[0][1] <= 0.30 + EDGE for each in given)


def test_after_a_pause_the_arm_is_at_rest(arm: Arm) -> None:
    limits = Limits.shipped(ramp=0.0, joint_acceleration=(2.0,) * 7)
    guard = Guard(arm, limits, PERIOD)
    moving = follow(guard, [(0.0, 0.3, 0.0)] * 4)[-1].positions
    late = command(guard, (0.0, 0.3, 0.0), measured=moving, stamp=guard.accepted + 5 * TICK)  # type: ignore[operator]
    assert (np.abs(late.positions - moving) <= 2.0 * PERIOD**2 + 1e-9).all()


def test_speed_grows_after_a_start(arm: Arm) -> None:
    guard = Guard(arm, dataclasses.replace(FREE, ramp=1.0), PERIOD)
    given = follow(guard, [(0.0, 0.2, 0.0)] * 12)
    tools = [arm.forward(each)[0][1] for each in (arm.home, *(each.positions for each in given))]
    speeds = np.diff(tools) / PERIOD
    assert speeds[0] == pytest.approx(0.03, abs=1e-3)  # a tenth of the full speed
    assert speeds[5] == pytest.approx(0.15, abs=1e-3)
    assert speeds[11] == pytest.approx(0.2, abs=1e-3)
    assert [each.code for each in given[:6]] == [Code.RAMP_LIMITED] * 6
    assert given[11].code is Code.OK
    guard.restart()
    assert command(guard, (0.0, 0.2, 0.0), age=50.0).code is Code.STALE_ACTION  # with it no ramp begins
    assert command(guard, (0.0, 0.2, 0.0), stamp=100 * TICK).code is Code.RAMP_LIMITED


LOW = dataclasses.replace(FREE, workspace_low=(0.30, -0.30, -0.1))
"""The workspace would let the tool into the table."""
WIDE = dataclasses.replace(FREE, workspace_low=(-0.8, -0.8, 0.012), workspace_high=(0.8, 0.8, 0.9))
FOLDED = (0.09, -0.004, 0.821)
"""m, where the hand is next to the arm."""


def test_the_hand_stays_above_the_table(arm: Arm) -> None:
    guard, measured = Guard(arm, LOW, PERIOD), at(arm, (0.5, 0.0, 0.03))
    given = command(guard, (0.0, 0.0, -0.3), measured=measured)
    assert_holds(given, measured, Code.TABLE)
    assert "finger" in given.detail
    lower = dataclasses.replace(LOW, table_height=-0.05)
    assert command(Guard(arm, lower, PERIOD), (0.0, 0.0, -0.3), measured=measured).code is Code.OK


def test_a_hand_too_near_to_the_table_may_come_up_but_not_go_down(arm: Arm) -> None:
    measured = at(arm, (0.5, 0.0, 0.009))  # less than the clearance
    assert command(Guard(arm, LOW, PERIOD), (0.0, 0.0, -0.01), measured=measured).code is Code.TABLE
    assert command(Guard(arm, LOW, PERIOD), (0.0, 0.0, 0.1), measured=measured).code is Code.OK


def test_the_arm_does_not_touch_itself(arm: Arm) -> None:
    guard, measured = Guard(arm, WIDE, PERIOD), at(arm, FOLDED)
    for _ in range(20):
        given = command(guard, (-0.3, 0.0, 0.0), measured=measured)
        if given.code.rejected:
            break
        measured = given.positions
    assert_holds(given, measured, Code.SELF_COLLISION)


def test_distances_are_those_of_the_shapes(arm: Arm) -> None:
    above = at(arm, (0.5, 0.0, 0.1))
    distance, what = Clearance(arm, 0.0, table_height=0.0).nearest(above)
    # A finger reaches 0.0584 + 0.0538 m from the hand, the tool's frame 0.1034 m.
    assert distance == pytest.approx(0.1 + 0.1034 - 0.0584 - 0.0538, abs=1e-4)
    assert "finger" in what
    assert "table" in what
    assert Clearance(arm, 0.091, table_height=0.0).kept(above)
    assert not Clearance(arm, 0.092, table_height=0.0).kept(above)


def test_actions_that_come_too_often_are_rejected(guard: Guard) -> None:
    first = command(guard, (0.1, 0.0, 0.0))
    stamp = guard.accepted
    assert stamp is not None
    again = command(guard, (0.1, 0.0, 0.0), measured=first.positions, stamp=stamp + TICK // 10)
    assert_holds(again, first.positions, Code.TOO_OFTEN)
    assert command(guard, (0.1, 0.0, 0.0), measured=first.positions, stamp=stamp + TICK).code is Code.OK


def test_the_gripper_stays_between_closed_and_open(guard: Guard) -> None:
    given = [command(guard, gripper=[opening]) for opening in (-3.0, 0.0, 0.4, 1.0, 7.0)]
    assert [each.gripper for each in given] == [0, 0, 0.4, 1, 1]
    assert [each.code for each in given] == [Code.GRIPPER_LIMITED, *[Code.OK] * 3, Code.GRIPPER_LIMITED]


def test_every_intervention_is_told(arm: Arm) -> None:
    limits = Limits.shipped(ramp=1.0)
    given = command(Guard(arm, limits, PERIOD), (5.0, 0.0, 0.0), [2.0])
    assert given.codes == (Code.GRIPPER_LIMITED, Code.SPEED_LIMITED, Code.RAMP_LIMITED)


def test_holding_gives_the_measured_positions_and_the_reason(guard: Guard) -> None:
    measured = guard.arm.home + 0.01
    given = guard.hold(measured, 0.5, Code.WATCHDOG, "silence")
    np.testing.assert_array_equal(given.positions, measured)
    assert (given.gripper, given.code, given.detail) == (0.5, Code.WATCHDOG, "silence")
    given.positions[:] = 0.0
    assert measured.any()  # what was measured is not handed out to be changed


def test_an_arm_that_sags_while_it_is_held_is_not_followed_down(guard: Guard) -> None:
    measured = guard.arm.home.copy()
    for _ in range(5):
        given = guard.hold(measured, 0.5, Code.WATCHDOG)
        np.testing.assert_array_equal(given.positions, guard.arm.home)
        measured = measured + HOLD_TOLERANCE / 10
    moved = guard.arm.home + 2 * HOLD_TOLERANCE  # pushed by a person
    np.testing.assert_array_equal(guard.hold(moved, 0.5, Code.WATCHDOG).positions, moved)


def test_only_limits_are_no_rejection() -> None:
    passed = {code for code in Code if not code.rejected}
    assert passed == {code for code in Code if code.value.endswith("_limited")} | {Code.OK, Code.BRAKED}


def test_the_same_requests_give_the_same_commands(arm: Arm) -> None:
    """Two guards, and one that is used again."""
    velocities = np.random.default_rng(0).normal(size=(40, 3)) * 0.3
    first, second = Guard(arm, Limits.shipped(), PERIOD), Guard(arm, Limits.shipped(), PERIOD)
    runs = [follow(first, velocities), follow(second, velocities)]
    first.restart()
    runs.append(follow(first, velocities))
    for one, two, again in zip(*runs, strict=True):
        assert one.codes == two.codes == again.codes
        np.testing.assert_array_equal(one.positions, two.positions)
        np.testing.assert_array_equal(one.positions, again.positions)


# Each check again, turned off: what it keeps away must then come through.


def moved(guard: Guard, *arguments: object, **more: object) -> bool:
    """Whether an action that should be rejected moves the arm."""
    measured = more.get("measured", guard.arm.home)
    return bool(np.abs(command(guard, *arguments, **more).positions - measured).max() > 1e-4)  # type: ignore[operator]


def too_fast(guard: Guard, speed: float, most: float) -> bool:
    after, before = (
        guard.arm.forward(command(guard, (0.0, speed, 0.0)).positions)[0],
        guard.arm.forward(guard.arm.home)[0],
    )
    return bool(np.abs(after - before).max() > most * PERIOD + 1e-3)


def beyond_a_wall(guard: Guard) -> bool:
    given = command(guard, (0.0, 0.3, 0.0), measured=at(guard.arm, (0.5, 0.298, 0.2)))
    return bool(guard.arm.forward(given.positions)[0][1] > 0.30 + EDGE)


def beyond_a_joint_limit(guard: Guard) -> bool:
    guard.joint_high = guard.arm.home + 0.004
    return bool((command(guard, (0.3, 0.3, 0.0)).positions > guard.joint_high + 1e-9).any())


def too_fast_for_the_joints(guard: Guard) -> bool:
    step = command(guard, (0.3, 0.3, 0.3)).positions - guard.arm.home
    return bool((np.abs(step) > 0.02 * guard.arm.velocity_limit * PERIOD + 1e-9).any())


def changes(guard: Guard, order: int) -> NDArray[np.float64]:
    speeds = np.vstack([np.zeros((order, 7)), joint_velocities(guard.arm, follow(guard, ZIGZAG))])
    return np.abs(np.diff(speeds, n=order, axis=0)) / PERIOD**order


def too_often(guard: Guard) -> bool:
    command(guard, (0.1, 0.0, 0.0))
    return moved(guard, (0.1, 0.0, 0.0), stamp=TICK + TICK // 10)


NO_RAMP = Limits.shipped(ramp=0.0)
LEAKS: dict[str, tuple[Limits, Callable[[Guard], bool]]] = {
    "finite": (FREE, lambda guard: not np.isfinite(command(guard, gripper=[np.nan]).gripper)),
    "size": (FREE, lambda guard: moved(guard, 0.1)),
    "age": (FREE, lambda guard: moved(guard, (0.1, 0.0, 0.0), age=5.0)),
    "goal": (FREE, lambda guard: moved(guard, (0.1, 0.0, 0.0), goal=np.array([np.nan]))),
    "gripper": (FREE, lambda guard: command(guard, gripper=[7.0]).gripper > 1.0),
    "speed": (FREE, lambda guard: too_fast(guard, 0.5, FREE.speed)),
    "ramp": (dataclasses.replace(FREE, ramp=1.0), lambda guard: too_fast(guard, 0.3, 0.1 * FREE.speed)),
    "workspace": (FREE, beyond_a_wall),
    "reach": (
        dataclasses.replace(WIDE, workspace_high=(2.0, 0.8, 0.9)),
        lambda guard: moved(guard, (0.3, 0.0, 0.0), measured=far(guard.arm)),
    ),
    "joint_position": (FREE, beyond_a_joint_limit),
    "joint_speed": (dataclasses.replace(FREE, joint_speed_share=0.02), too_fast_for_the_joints),
    "acceleration": (NO_RAMP, lambda guard: (changes(guard, 1) > np.array(NO_RAMP.joint_acceleration) + 1e-6).any()),
    "jerk": (dataclasses.replace(FREE, joint_jerk=(60.0,) * 7), lambda guard: (changes(guard, 2) > 60.0 + 1e-6).any()),
    "table": (LOW, lambda guard: moved(guard, (0.0, 0.0, -0.3), measured=at(guard.arm, (0.5, 0.0, 0.03)))),
    "self_collision": (WIDE, lambda guard: moved(guard, (-0.3, 0.0, 0.0), measured=folded(guard.arm))),
    "rate": (FREE, too_often),
}
"""For each check a bad action, under limits that show it, and whether it came through."""


def folded(arm: Arm) -> NDArray[np.float64]:
    """As far back as the arm may go before it touches itself."""
    guard, measured = Guard(arm, WIDE, PERIOD), at(arm, FOLDED)
    while not (given := command(guard, (-0.3, 0.0, 0.0), measured=measured)).code.rejected:
        measured = given.positions
    return measured


def far(arm: Arm) -> NDArray[np.float64]:
    """With the arm nearly straight."""
    limits = dataclasses.replace(FREE, workspace_high=(2.0, 0.3, 0.5))
    guard, measured = Guard(arm, limits, PERIOD), arm.home
    while not (given := command(guard, (0.3, 0.0, 0.0), measured=measured)).code.rejected:
        measured = given.positions
    return measured


@pytest.mark.parametrize("name", sorted({check.name for check in CHECKS}))
def test_each_check_keeps_something_away_that_comes_through_without_it(arm: Arm, name: str) -> None:
    limits, leaks = LEAKS[name]
    assert not leaks(Guard(arm, limits, PERIOD))
    assert leaks(Guard(arm, limits, PERIOD, disabled=(name,)))


def test_a_share_of_nothing_is_refused_where_it_is_configured() -> None:
    with pytest.raises(UserError, match="expected at least"):
        node_specs()["arm_guard"].parameters["joint_speed_share"].read(0.0, "joint_speed_share")


def test_no_command_ever_exceeds_a_limit_whatever_is_asked(arm: Arm) -> None:
    rng = np.random.default_rng(0)
    limits = Limits.shipped(ramp=0.0)
    guard = Guard(arm, limits, PERIOD)
    low, high = arm.lower + limits.joint_margin, arm.upper - limits.joint_margin
    largest = arm.velocity_limit * limits.joint_speed_share * PERIOD
    measured = arm.home.copy()
    seen = set()
    for tick in range(1, 1501):
        velocity = rng.normal(size=3) * rng.choice([0.1, 0.3, 10.0, 1e30])
        gripper = rng.normal(size=1) * 2
        if rng.random() < 0.1:
            velocity[rng.integers(0, 3)] = rng.choice([np.nan, np.inf, -np.inf])
        age = float(rng.choice([0.0, 0.1, 0.3, -0.1], p=[0.45, 0.45, 0.05, 0.05]))
        given = command(guard, velocity, gripper, age=age, measured=measured, stamp=tick * TICK)
        seen.update(given.codes)
        assert np.isfinite(given.positions).all()
        assert (np.abs(given.positions - measured) <= largest * (1 + 1e-9)).all()
        assert (given.positions >= np.minimum(low, measured) - 1e-9).all()
        assert (given.positions <= np.maximum(high, measured) + 1e-9).all()
        assert 0.0 <= given.gripper <= 1.0
        tool, _ = arm.forward(given.positions)
        before, _ = arm.forward(measured)
        assert np.abs(tool - before).max() <= limits.speed * PERIOD + limits.reach_error
        assert (tool >= np.array(limits.workspace_low) - EDGE).all()
        assert (tool <= np.array(limits.workspace_high) + EDGE).all()
        measured = given.positions
    assert seen >= {Code.SPEED_LIMITED, Code.WORKSPACE_LIMITED, Code.ACCELERATION_LIMITED, Code.GRIPPER_LIMITED}
    assert seen >= {Code.NOT_FINITE, Code.STALE_ACTION, Code.FUTURE_ACTION}
