"""The Gymnasium environments: they are what Gymnasium, Stable-Baselines3 and the live graph expect of them."""

import importlib.util
import warnings
from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rl_ros.contract import Contract
from rl_ros.errors import UserError
from rl_ros.robots.guard import Request
from rl_ros.tasks.env import EPISODE_LENGTH, TASKS, VARIANTS, ArmEnvironment, ContractEnvironment, contract_of, make


def arm(name: str, **settings: object) -> ArmEnvironment:
    environment = gymnasium.make(name, **settings).unwrapped  # type: ignore[arg-type]
    assert isinstance(environment, ArmEnvironment)
    return environment


@pytest.fixture
def push() -> Iterator[ArmEnvironment]:
    environment = arm("rl_ros/Push-v0")
    yield environment
    environment.close()


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("task", list(TASKS))
def test_gymnasiums_checker_is_content(task: str, variant: str) -> None:
    environment = arm(f"rl_ros/{task}{variant}-v0", render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(infinity|precision|not within the observation).*")
        check_env(environment, skip_render_check=True)
    environment.close()


@pytest.mark.parametrize("task", list(TASKS.values()))
def test_the_time_limit_is_that_of_the_contract(task: str) -> None:
    assert Contract.load(task).episode_length == EPISODE_LENGTH
    assert Contract.load(f"{task}_image").episode_length == EPISODE_LENGTH


def test_an_episode_is_truncated_and_success_does_not_end_it() -> None:
    environment = gymnasium.make("rl_ros/Reach-v0")
    unwrapped = environment.unwrapped
    assert isinstance(unwrapped, ArmEnvironment)
    expert, ended, succeeded = unwrapped.task.expert(0.0), [], []
    environment.reset(seed=0)
    for _ in range(EPISODE_LENGTH):
        velocity = expert.act(unwrapped.values, unwrapped.desired_goal)
        _, _, terminated, truncated, info = environment.step(velocity / unwrapped.contract.action_high)
        ended.append(terminated or truncated)
        succeeded.append(info["is_success"])
    assert ended == [False] * (EPISODE_LENGTH - 1) + [True]
    assert succeeded[-2]
    environment.close()


def test_success_ends_an_episode_where_that_is_asked_for() -> None:
    environment = arm("rl_ros/Reach-v0", terminate_on_success=True)
    environment.reset(seed=0)
    expert, terminated, steps = environment.task.expert(0.0), False, 0
    while not terminated and steps < EPISODE_LENGTH:
        reward, terminated, info = environment.act(expert.act(environment.values, environment.desired_goal))
        steps += 1
    assert terminated
    assert info["is_success"]
    assert reward == 0.0
    environment.close()


@pytest.mark.parametrize("name", ["Push", "PickAndPlaceImage", "ReachImageGoal"])
def test_the_vectorised_reward_is_that_of_each_step(name: str) -> None:
    environment = gymnasium.make(f"rl_ros/{name}-v0")
    rng, achieved, desired, rewards = np.random.default_rng(0), [], [], []
    environment.reset(seed=3)
    for _ in range(20):
        seen, reward, _, _, _ = environment.step(rng.uniform(-1, 1, environment.action_space.shape).astype(np.float32))
        achieved.append(seen["achieved_goal"])
        desired.append(seen["desired_goal"])
        rewards.append(reward)
    computed = environment.unwrapped.compute_reward(np.stack(achieved), np.stack(desired), [{}] * 20)  # type: ignore[attr-defined]
    assert computed.dtype == np.float32
    np.testing.assert_array_equal(computed, np.float32(rewards))
    environment.close()


def test_a_seed_gives_the_same_episode_whatever_came_before(push: ArmEnvironment) -> None:
    def episode(environment: ArmEnvironment) -> np.ndarray:
        rng = np.random.default_rng(1)
        first, _ = environment.reset(seed=11)
        rows = [np.concatenate([first["observation"], first["desired_goal"]])]
        for _ in range(15):
            seen, *_ = environment.step(rng.uniform(-1, 1, 3).astype(np.float32))
            rows.append(np.concatenate([seen["observation"], seen["desired_goal"]]))
        return np.stack(rows)

    first = episode(push)
    push.reset(seed=12)
    for _ in range(5):
        push.step(np.ones(3, np.float32))
    again = episode(push)
    other = arm("rl_ros/Push-v0")
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, episode(other))
    other.close()


def test_the_observation_joins_the_contracts_keys_in_their_order(push: ArmEnvironment) -> None:
    seen, _ = push.reset(seed=0)
    assert list(push.slices) == list(push.contract.observation)
    for name, where in push.slices.items():
        np.testing.assert_array_equal(seen["observation"][where], push.values[name])
    assert seen["observation"].shape == (19,)
    np.testing.assert_array_equal(seen["achieved_goal"], push.values["object_position"])


def test_an_episode_begins_as_in_fetch(push: ArmEnvironment) -> None:
    for seed in range(20):
        push.reset(seed=seed)
        offset = push.values["object_position"] - push.values["tool_position"]
        assert 0.099 < np.linalg.norm(offset[:2]) < 0.15 * np.sqrt(2) + 1e-3
        assert np.abs(push.values["object_velocity"]).max() < 1e-3
        assert push.values["tool_position"][2] < 0.04  # the hand is as low as the object


def test_a_step_is_what_arm_and_guard_give_for_the_same_command(push: ArmEnvironment) -> None:
    twin = arm("rl_ros/Push-v0")
    world, guard, contract = twin.world, twin.guard, twin.contract
    push.reset(seed=5)
    world.reset(5)
    guard.restart()
    rng = np.random.default_rng(0)
    for _ in range(20):
        action = rng.uniform(contract.action_low, contract.action_high).astype(np.float32)
        measured, stamp = world.joint_state().positions[:7], round(world.time * 1e9)
        command = guard.command(Request(stamp, action, np.zeros(1), measured, stamp, 0.0))
        world.set_arm_target(command.positions, contract.period)
        world.set_gripper_target(0.0)
        world.advance(contract.period)
        push.act(action)
        np.testing.assert_array_equal(push.values["tool_position"], world.tool_pose()[0].astype(np.float32))
        np.testing.assert_array_equal(push.values["tool_velocity"], world.tool_twist()[0].astype(np.float32))
        (thing,) = world.object_poses().values()
        np.testing.assert_array_equal(push.values["object_position"], thing[0].astype(np.float32))
    twin.close()


def test_an_action_is_a_share_of_the_contracts_limits(push: ArmEnvironment) -> None:
    push.reset(seed=0)
    before = push.values["tool_position"]
    for _ in range(4):
        push.step(np.array([0.0, 0.0, 1.0], np.float32))
    risen = push.values["tool_position"] - before
    reach = 4 * push.contract.period * push.contract.action_high[2]
    assert 0.7 * reach < risen[2] < 1.3 * reach
    assert np.abs(risen[:2]).max() < 0.01


def test_an_action_that_is_not_finite_moves_nothing(push: ArmEnvironment) -> None:
    push.reset(seed=0)
    before = push.values["tool_position"]
    push.step(np.array([np.nan, 1.0, 1.0], np.float32))
    np.testing.assert_allclose(push.values["tool_position"], before, atol=2e-3)


def test_where_it_is_guarded_a_sudden_turn_is_slowed_as_on_the_live_graph() -> None:
    ends = {}
    for guarded in (False, True):
        environment = make("rl_ros/Push-v0", guarded=guarded)
        environment.reset(3)
        for way in (1.0, 1.0, 1.0, -1.0):
            environment.step(way * np.array([0.0, 0.3, 0.0], np.float32))
        ends[guarded] = environment.values["tool_position"][1]
        environment.close()
    assert ends[True] > ends[False] + 0.002  # m: it cannot turn round as fast


def test_an_image_goal_shows_the_goal() -> None:
    environment = arm("rl_ros/ReachImageGoal-v0")
    seen, _ = environment.reset(seed=1)
    far = environment.compute_reward(seen["achieved_goal"], seen["desired_goal"], {})
    expert = environment.task.expert(0.0)
    for _ in range(EPISODE_LENGTH):
        near, _, info = environment.act(expert.act(environment.values, environment.goal_position))
    assert info["is_success"]
    assert near > far / 3
    environment.close()


def test_stable_baselines_trains_unchanged() -> None:
    if importlib.util.find_spec("stable_baselines3") is None:
        pytest.skip("Stable-Baselines3 is not installed: the environments are not tried with it")
    from stable_baselines3 import SAC, HerReplayBuffer

    environment = gymnasium.make("rl_ros/Reach-v0")
    model = SAC(
        "MultiInputPolicy",
        environment,
        replay_buffer_class=HerReplayBuffer,
        learning_starts=100,
        batch_size=32,
        policy_kwargs={"net_arch": [16, 16]},
        train_freq=10,
        seed=0,
    )
    model.learn(150)
    assert model.num_timesteps == 150
    assert model._n_updates > 0
    environment.close()


def test_any_goal_environment_gets_a_contract() -> None:
    pytest.importorskip("gymnasium_robotics", reason="gymnasium-robotics is not installed: Fetch is not tried")
    fetch = make("gymnasium_robotics:FetchReach-v4")
    contract = fetch.contract
    assert contract.observation["observation"].shape == (10,)
    assert contract.auxiliary["achieved_goal"].shape == contract.goal.desired_goal.shape == (3,)
    assert contract.goal.achieved_goal == "achieved_goal"
    assert contract.episode_length == 50
    assert contract.control_rate == pytest.approx(25.0)
    assert Contract.from_yaml(contract.to_yaml(), "made") == contract
    fetch.reset(0)
    for _ in range(49):
        _, terminated, truncated, _ = fetch.step(np.zeros(4, np.float32))
        assert not (terminated or truncated)
    reward, terminated, truncated, _ = fetch.step(np.zeros(4, np.float32))
    assert truncated
    assert not terminated
    assert reward == fetch.compute_reward(fetch.values["achieved_goal"], fetch.desired_goal)
    fetch.close()


def test_an_environment_without_goals_gets_one_that_no_policy_sees() -> None:
    pendulum = ContractEnvironment(gymnasium.make("Pendulum-v1"))
    assert not pendulum.contract.goal.policy_input
    assert pendulum.contract.action_high.tolist() == [2.0]
    pendulum.reset(0)
    pendulum.step(np.zeros(1, np.float32))
    assert pendulum.values.keys() == {"observation"}
    pendulum.close()


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("Reach", {"reward": "Dense"}, "task reach: reward: expected one of sparse, dense, got 'Dense'"),
        ("Reach", {"variant": "pixels"}, "variant: expected one of state, image, image_goal, got 'pixels'"),
        ("Grasp", {"objects": "held-out"}, "scene grasp: objects: expected one of train, held_out, got 'held-out'"),
    ],
)
def test_settings_that_there_are_not_are_refused_rather_than_taken_for_others(
    name: str, settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        gymnasium.make(f"rl_ros/{name}-v0", **settings)


def test_what_no_contract_can_be_made_for_is_named() -> None:
    with pytest.raises(UserError, match="CartPole-v1: a contract is made for actions that are a vector with limits"):
        contract_of(gymnasium.make("CartPole-v1"))
    with pytest.raises(UserError, match="Nothing"):
        make("rl_ros/Nothing-v0")
