"""Lift: what counts as success, and what the scripted expert does."""

from itertools import pairwise

import numpy as np
import pytest

from rl_ros.contract import Contract
from rl_ros.errors import UserError
from rl_ros.tasks.lift import IN_HAND, LIFT_HEIGHT, Lift, LiftExpert
from rl_ros.tasks.task import make_task

GOAL = np.array([LIFT_HEIGHT], np.float32)
OPEN_FINGERS, FINGERS_ON_CUBE = 0.04, 0.02


def values(
    tool: tuple[float, float, float],
    cube: tuple[float, float, float] = (0.5, 0.0, 0.018),
    fingers: float = OPEN_FINGERS,
) -> dict[str, np.ndarray]:
    return {
        "tool_position": np.array(tool, np.float32),
        "object_position": np.array(cube, np.float32),
        "finger_position": np.full(2, fingers, np.float32),
    }


def act(
    tool: tuple[float, float, float],
    cube: tuple[float, float, float] = (0.5, 0.0, 0.018),
    fingers: float = OPEN_FINGERS,
) -> np.ndarray:
    """What the expert without errors does there."""
    return LiftExpert(0.0).act(values(tool, cube, fingers), GOAL)


def settled_height(offset: float) -> float:
    """The height at which the expert neither rises nor falls, this far beside the cube."""
    heights = np.linspace(0.0, 0.4, 801)
    speeds = [act((0.5 + offset, 0.0, float(height)))[2] for height in heights]
    assert all(later <= earlier + 1e-6 for earlier, later in pairwise(speeds))
    return float(heights[np.argmin(np.abs(speeds))])


@pytest.mark.parametrize(
    ("cube_height", "apart", "success"),
    [
        (LIFT_HEIGHT + 0.001, 0.0, True),
        (LIFT_HEIGHT + 0.001, IN_HAND - 0.001, True),
        (LIFT_HEIGHT - 0.001, 0.0, False),
        (LIFT_HEIGHT + 0.001, IN_HAND + 0.001, False),  # thrown, not held
        (0.018, 0.0, False),
    ],
)
def test_success_is_a_cube_in_the_hand_at_the_height_of_the_goal(
    cube_height: float, apart: float, success: bool
) -> None:
    judgement = Lift().judge(values((0.5 + apart, 0.0, cube_height), (0.5, 0.0, cube_height)), GOAL)
    assert judgement.success is success
    assert judgement.reward == float(success)


def test_the_height_that_counts_is_that_of_the_goal() -> None:
    at = values((0.5, 0.0, 0.2), (0.5, 0.0, 0.2))
    assert Lift().judge(at, np.array([0.19], np.float32)).success
    assert not Lift().judge(at, np.array([0.21], np.float32)).success


def test_the_goal_is_the_lift_height_in_the_form_of_the_contract() -> None:
    task = make_task("lift")
    goal = task.goal_vector(task.goal_pose(3))
    np.testing.assert_array_equal(goal, GOAL)
    assert goal.dtype == np.float32
    assert goal.shape == Contract.load("lift").goal.desired_goal.shape


def test_an_unknown_task_lists_what_there_is() -> None:
    with pytest.raises(UserError, match=r"no task is named 'juggle'; there are: .*lift"):
        make_task("juggle")


def test_the_expert_uses_the_limits_of_the_contract() -> None:
    contract = Contract.load("lift")
    assert contract.action_high[:3].tolist() == pytest.approx([LiftExpert.SPEED] * 3)
    rng = np.random.default_rng(0)
    expert = LiftExpert(3.0)
    for seed in range(200):
        expert.reset(seed)
        action = expert.act(values(tuple(rng.uniform(-1, 1, 3)), fingers=rng.uniform(0, 0.04)), GOAL)
        assert action.shape == contract.action_low.shape
        assert action.dtype == np.float32
        assert (action >= contract.action_low).all()
        assert (action <= contract.action_high).all()
        assert action[3] in (0.0, 1.0)


@pytest.mark.parametrize("direction", [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0), (0.6, 0.8)])
def test_the_expert_moves_straight_to_the_cube_with_the_hand_open(direction: tuple[float, float]) -> None:
    x, y = np.array(direction) * 0.05
    action = act((0.5 + x, y, 0.2))
    np.testing.assert_allclose(action[:2] / np.linalg.norm(action[:2]), -np.array(direction), atol=1e-5)
    assert action[3] == 1.0


def test_the_height_follows_the_error_so_that_it_comes_down_only_above_the_cube() -> None:
    heights = [settled_height(offset) for offset in (0.013, 0.02, 0.03, 0.05, 0.1)]
    assert heights[0] < heights[1] < heights[2] < heights[3] < heights[4] == pytest.approx(0.25, abs=0.01)
    assert heights[0] < LiftExpert.GRASP_HEIGHT + 0.03
    # High enough beside the cube that the hand does not knock it over: the cube is 0.04 m high.
    assert heights[2] > 0.06
    assert act((0.5, 0.0, 0.05))[2] < 0.0  # and right above it, all the way down


def test_the_expert_closes_at_the_cube_and_nowhere_else() -> None:
    grasp = (0.5, 0.0, LiftExpert.GRASP_HEIGHT)
    assert act(grasp)[3] == 0.0
    assert act((0.5, 0.0, 0.05))[3] == 1.0  # above it
    assert act((0.52, 0.0, LiftExpert.GRASP_HEIGHT))[3] == 1.0  # beside it
    np.testing.assert_array_equal(act(grasp)[:3], 0.0)  # still while the fingers close


def test_the_expert_lifts_once_the_fingers_have_closed() -> None:
    grasp = (0.5, 0.0, LiftExpert.GRASP_HEIGHT)
    np.testing.assert_allclose(act(grasp, fingers=FINGERS_ON_CUBE), [0.0, 0.0, LiftExpert.SPEED, 0.0], atol=1e-6)
    lifted = act((0.5, 0.0, 0.08), (0.5, 0.0, 0.08), FINGERS_ON_CUBE)
    np.testing.assert_allclose(lifted, [0.0, 0.0, LiftExpert.SPEED, 0.0], atol=1e-6)


def test_the_expert_opens_again_where_the_cube_was_lost() -> None:
    action = act((0.5, 0.0, 0.15), (0.6, 0.1, 0.018), FINGERS_ON_CUBE)
    assert action[3] == 1.0
    assert action[0] > 0


@pytest.mark.parametrize("seed", range(5))
def test_without_errors_the_expert_lifts_any_cube_in_the_time_there_is(seed: int) -> None:
    """In a world where the tool goes where it is told and closed fingers hold what lies between them."""
    contract = Contract.load("lift")
    rng = np.random.default_rng(seed)
    tool = np.array([0.5, 0.0, 0.23])
    cube = np.array([*rng.uniform((0.4, -0.15), (0.6, 0.15)), 0.018])
    fingers, expert, task = OPEN_FINGERS, LiftExpert(0.0), Lift()
    expert.reset(seed)
    for _ in range(contract.episode_length):
        now = values(tuple(tool), tuple(cube), fingers)
        if task.judge(now, GOAL).success:
            return
        action = expert.act(now, GOAL).astype(np.float64)
        between = np.linalg.norm(tool - cube) < 0.015
        tool = tool + action[:3] * contract.period
        if fingers < LiftExpert.CLOSED and np.linalg.norm(tool - action[:3] * contract.period - cube) < 0.015:
            cube = cube + action[:3] * contract.period
        floor = FINGERS_ON_CUBE if between else 0.0
        fingers = max(floor, fingers - 0.01) if action[3] == 0.0 else min(OPEN_FINGERS, fingers + 0.01)
    pytest.fail("the cube was not lifted")


def test_an_episode_follows_from_its_seed() -> None:
    def episode(seed: int) -> np.ndarray:
        expert = Lift().expert(1.0)
        expert.reset(0)  # another episode before must not matter
        expert.act(values((0.4, 0.1, 0.2)), GOAL)
        expert.reset(seed)
        return np.stack([expert.act(values((0.45, 0.05, 0.2)), GOAL) for _ in range(10)])

    np.testing.assert_array_equal(episode(3), episode(3))
    assert not np.array_equal(episode(3), episode(4))


def test_noise_scales_the_errors() -> None:
    def spread(noise: float) -> float:
        expert, actions = LiftExpert(noise), []
        for seed in range(300):
            expert.reset(seed)
            actions.append(expert.act(values((0.5, 0.0, 0.15)), GOAL)[:2])
        return float(np.std(actions))

    assert spread(0.0) == 0.0
    assert 0.0 < spread(0.25) < spread(0.5) < spread(1.0)
