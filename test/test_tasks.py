"""Goals, rewards and experts of the tasks whose goal is a position."""

import gymnasium
import numpy as np
import pytest

from rl_ros.contract import Contract
from rl_ros.resources import share_file
from rl_ros.robots.pybullet_arm import Scene
from rl_ros.tasks.env import TASKS, ArmEnvironment
from rl_ros.tasks.goals import THRESHOLD, GoalTask
from rl_ros.tasks.task import make_task

NAMES = sorted(TASKS.values())


def goal_task(name: str) -> GoalTask:
    task = make_task(name)
    assert isinstance(task, GoalTask)
    return task


@pytest.mark.parametrize("name", NAMES)
def test_a_goal_follows_from_its_seed_and_goals_differ(name: str) -> None:
    task = goal_task(name)
    goals = np.array([task.goal_pose(seed) for seed in range(200)])
    np.testing.assert_array_equal(goals[7], goal_task(name).goal_pose(7))
    assert len(np.unique(goals, axis=0)) == 200
    assert np.ptp(goals[:, :2], axis=0).min() > 0.25


@pytest.mark.parametrize("name", ["reach", "push", "pick_and_place"])
def test_goals_are_where_the_guard_lets_the_tool_go(name: str) -> None:
    environment = gymnasium.make(f"rl_ros/{next(k for k, v in TASKS.items() if v == name)}-v0").unwrapped
    assert isinstance(environment, ArmEnvironment)
    for seed in range(200):
        goal = environment.task.goal_pose(seed)
        assert (environment.guard.low <= goal).all()
        assert (goal <= environment.guard.high).all()
    environment.close()


def test_half_of_the_goals_of_pick_and_place_are_in_the_air() -> None:
    heights = np.array([goal_task("pick_and_place").goal_pose(seed)[2] for seed in range(400)])
    assert 0.4 < (heights > 0.0201).mean() < 0.6
    assert heights.max() > 0.25


def test_goals_of_slide_are_beyond_the_reach_of_the_tool_and_on_the_table() -> None:
    table = Scene.load(share_file("sim/scenes/slide.yaml")).table
    for seed in range(200):
        x, y, _ = goal_task("slide").goal_pose(seed)
        assert 0.75 < x < table.centre[0] + table.size[0] / 2
        assert abs(y) < table.size[1] / 2


@pytest.mark.parametrize("name", NAMES)
def test_the_contracts_hold_what_task_and_hindsight_need(name: str) -> None:
    for suffix in ("", "_image"):
        contract = Contract.load(f"{name}{suffix}")
        assert contract.task == name
        assert contract.goal.policy_input
        assert contract.goal.achieved_goal == goal_task(name).achieved_goal
        assert contract.goal.desired_goal.shape == (3,)
    state = Contract.load(name)
    assert "image" not in state.observation
    assert {"image", "object_position"} & Contract.load(f"{name}_image").observation.keys() == {"image"}


def test_the_sparse_reward_is_0_within_the_threshold_and_minus_1_elsewhere() -> None:
    task, goal = goal_task("reach"), np.array([0.5, 0.0, 0.2], np.float32)
    achieved = goal + np.array([[0.0, 0, 0], [THRESHOLD - 1e-4, 0, 0], [0, THRESHOLD + 1e-4, 0]], np.float32)
    rewards = task.compute_reward(achieved, goal)
    assert rewards.dtype == np.float32
    np.testing.assert_array_equal(rewards, [0.0, 0.0, -1.0])
    np.testing.assert_array_equal(task.reached(achieved, goal), [True, True, False])


def test_the_dense_reward_is_the_negative_distance() -> None:
    task = goal_task("push")
    task.reward = "dense"
    achieved, goals = np.zeros((4, 5, 3), np.float32), np.ones((4, 5, 3), np.float32)
    np.testing.assert_allclose(task.compute_reward(achieved, goals), np.full((4, 5), -np.sqrt(3.0)), rtol=1e-6)


def test_a_judgement_is_the_vectorised_reward_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    achieved = rng.uniform(-0.06, 0.06, (500, 3)).astype(np.float32)
    goals = rng.uniform(-0.06, 0.06, (500, 3)).astype(np.float32)
    for reward in ("sparse", "dense"):
        task = goal_task("push")
        task.reward = reward  # type: ignore[assignment]
        judged = [task.judge({"object_position": a}, g) for a, g in zip(achieved, goals, strict=True)]
        np.testing.assert_array_equal(task.compute_reward(achieved, goals), np.float32([j.reward for j in judged]))
        np.testing.assert_array_equal(task.reached(achieved, goals), [j.success for j in judged])


@pytest.mark.parametrize(("name", "least"), [("Reach", 6), ("Push", 5), ("PickAndPlace", 5), ("Slide", 3)])
def test_the_expert_succeeds_within_the_contract(name: str, least: int) -> None:
    environment = gymnasium.make(f"rl_ros/{name}-v0").unwrapped
    assert isinstance(environment, ArmEnvironment)
    contract, expert, successes = environment.contract, environment.task.expert(0.0), 0
    for seed in range(6):
        environment.reset(seed=seed)
        expert.reset(seed)
        for _ in range(contract.episode_length):
            action = expert.act(environment.values, environment.desired_goal)
            assert (contract.action_low <= action).all()
            assert (action <= contract.action_high).all()
            _, _, info = environment.act(action)
        successes += info["is_success"]
    environment.close()
    assert successes >= least


def test_an_expert_with_noise_follows_from_its_seed() -> None:
    values = {"tool_position": np.zeros(3, np.float32)}
    goal = np.array([0.01, 0.0, 0.0], np.float32)

    def actions(seed: int) -> np.ndarray:
        expert = goal_task("reach").expert(1.0)
        expert.reset(seed)
        return np.stack([expert.act(values, goal) for _ in range(5)])

    np.testing.assert_array_equal(actions(3), actions(3))
    assert not np.array_equal(actions(3), actions(4))
