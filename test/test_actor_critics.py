"""DDPG, TD3 and SAC: losses against arithmetic done by hand, bounds of targets, gradients only where they belong."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rl_ros.algorithms.base import Algorithm, make_algorithm
from rl_ros.algorithms.ddpg import bellman_target, cloning_loss, critic_loss, policy_loss, value_range
from rl_ros.algorithms.sac import temperature_loss
from rl_ros.algorithms.td3 import smoothed
from rl_ros.contract import Contract
from rl_ros.episodes.distance import DistanceReward
from rl_ros.episodes.hindsight import Hindsight
from rl_ros.episodes.memory import Batch, Episode, ReplayMemory
from rl_ros.errors import UserError
from rl_ros.networks.policies import ActionLayout, squashed_log_probability
from rl_ros.training.offline import train

NAMES = ("ddpg", "td3", "sac")
SMALL = {"hidden_size": 16, "hidden_layers": 2, "batch_size": 32}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def vector(name: str, size: int) -> dict[str, object]:
    names = [f"{name}_{i}" for i in range(size)]
    kind = "sensor_msgs/msg/JointState"
    return {"topic": f"/{name}", "type": kind, "field": "position", "names": names, "shape": [size]}


@pytest.fixture(scope="module")
def contract() -> Contract:
    """A point on a line, moved by up to 0.1, with a gripper that is open or closed."""
    return Contract.from_dict(
        {
            "format": 1, "name": "line", "task": "line", "control_rate": 10.0, "episode_length": 10,
            "frame": "base", "reference": "place", "observation": {"place": vector("place", 1)},
            "action": {
                "step": vector("step", 1) | {"low": [-0.1], "high": [0.1]},
                "gripper": vector("gripper", 1) | {"low": [0.0], "high": [0.04], "discrete": True},
            },
            "goal": {"desired_goal": vector("goal", 1), "achieved_goal": "place"},
        },
        "line",
    )  # fmt: skip


UNIT = {name: {"mean": [0.0], "std": [1.0]} for name in ("place", "desired_goal")}


def walk(places: list[float], goal: float, terminated: bool = False) -> Episode:
    """An episode through these places; the reward is -1 until the goal is within 0.05."""
    ticks = len(places)
    place, last = np.array(places, np.float32)[:, None], np.arange(ticks) == ticks - 2
    reward = np.zeros(ticks, np.float32)
    reward[:-1] = DistanceReward("penalty")(place[1:], np.full((ticks - 1, 1), goal))
    action = np.stack([np.append(np.diff(place[:, 0]), 0.0), np.full(ticks, 0.04)], axis=1).astype(np.float32)
    return Episode(
        stamps=np.arange(ticks), observation={"place": place}, auxiliary={},
        desired_goal=np.full((ticks, 1), goal, np.float32), action=action, reward=reward,
        terminated=last & terminated, truncated=last & (not terminated), has_transition=np.arange(ticks) < ticks - 1,
        outcome="success" if reward[-2] == 0 else "timeout", seed=0, source="",
    )  # fmt: skip


@pytest.fixture(scope="module")
def memory() -> ReplayMemory:
    rng = np.random.default_rng(0)
    walks = [np.cumsum(rng.uniform(-0.1, 0.1, 11)).tolist() for _ in range(40)]
    return ReplayMemory([walk(places, rng.uniform(-0.3, 0.3)) for places in walks], achieved_goal="place")


def batch_of(memory: ReplayMemory, size: int = 32) -> Batch:
    return memory.take(memory.sample(np.random.default_rng(1), size))


# The losses.


def test_a_truncated_episode_bootstraps_and_a_terminated_one_does_not() -> None:
    target = bellman_target(torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 0.0]), torch.tensor([-4.0, -4.0]), 0.5)
    assert target.tolist() == [-1.0, -3.0]


def test_returns_of_several_steps_discount_what_follows_them() -> None:
    steps = torch.tensor([1.0, 3.0])
    target = bellman_target(torch.zeros(2), torch.zeros(2), torch.full((2,), -8.0), 0.5**steps)
    assert target.tolist() == [-4.0, -1.0]


def test_values_lie_where_returns_can() -> None:
    assert value_range(-1.0, 0.0, 0.98) == (pytest.approx(-50.0), 0.0)
    assert value_range(0.0, 1.0, 0.9) == (0.0, pytest.approx(10.0))
    assert value_range(None, 0.0, 0.9) == (-math.inf, 0.0)
    assert value_range(1.0, 2.0, 0.5) == (0.0, 4.0), "an episode may end at once"


def test_critic_and_policy_losses_by_hand() -> None:
    assert critic_loss(torch.tensor([[1.0, 0.0], [3.0, 2.0]]), torch.tensor([0.0, 2.0])).item() == 2.5 + 4.5
    action = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert policy_loss(torch.tensor([-2.0, -4.0]), action, 0.5).item() == pytest.approx(3.0 + 0.25)
    # Of two demonstrations the critic prefers the second, which is 1 off in one entry and 2 in the other.
    shown = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    assert cloning_loss(action, shown, torch.tensor([0.0, 1.0])).item() == pytest.approx((1 + 4) / 2)


def test_target_noise_is_limited_and_stays_within_actions() -> None:
    action, noise = torch.tensor([[0.0, 0.9]]), torch.tensor([[-3.0, 0.4]])
    assert smoothed(action, noise, 0.5).tolist() == [[-0.5, 1.0]]


def test_temperature_falls_where_there_is_entropy_enough() -> None:
    temperature = torch.tensor(0.5, requires_grad=True)
    loss = temperature_loss(temperature, torch.tensor([-3.0, -1.0]), target_entropy=-1.0)
    assert loss.item() == pytest.approx(1.5)
    torch.autograd.backward(loss)
    assert temperature.grad is not None and temperature.grad > 0, "so that descending makes it smaller"


def test_the_density_of_squashed_actions_is_one_all_together() -> None:
    log_std, mean = torch.tensor([[-0.7]]), 0.3
    action = torch.linspace(-1 + 1e-5, 1 - 1e-5, 20001, dtype=torch.float64)[:, None]
    u = torch.atanh(action)
    density = squashed_log_probability(u, (u - mean) / log_std.exp(), log_std).exp()
    assert torch.trapezoid(density, action[:, 0]).item() == pytest.approx(1.0, abs=1e-3)


# Discrete entries, scaled actions.


def test_scaled_actions_come_back_in_units_with_discrete_entries_at_a_limit(contract: Contract) -> None:
    layout = ActionLayout(contract)
    found = layout.unscale(torch.tensor([[0.5, 0.1], [-3.0, -0.1]]))
    np.testing.assert_allclose(found.numpy(), np.array([[0.05, 0.04], [-0.1, 0.0]], np.float32), atol=1e-7)
    recorded = torch.tensor([[0.03, 0.0]])
    torch.testing.assert_close(layout.unscale(layout.scale(recorded)), recorded)


# The algorithms.


def learner(name: str, contract: Contract, **settings: object) -> Algorithm:
    return make_algorithm(name, contract, UNIT, overrides=SMALL | settings)


@pytest.mark.parametrize("name", NAMES)
def test_targets_are_clipped_to_what_returns_can_be(
    name: str, contract: Contract, memory: ReplayMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def note(q: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append(target)
        return critic_loss(q, target)

    monkeypatch.setattr("rl_ros.algorithms.ddpg.critic_loss", note)
    algorithm = learner(name, contract, discount=0.9)
    for value in (1e4, -1e4):
        monkeypatch.setattr(algorithm, "next_value", lambda state, value=value: torch.full((len(state),), value))
        algorithm.update(batch_of(memory))
    assert seen[0].max() == 0.0
    assert seen[1].min() == pytest.approx(-10.0)


@pytest.mark.parametrize("name", NAMES)
def test_each_loss_moves_its_own_network(name: str, contract: Contract, memory: ReplayMemory) -> None:
    for only in ("critic_loss", "policy_loss"):
        algorithm = learner(name, contract)
        transitions = algorithm._transitions(batch_of(memory), shift=0)
        features = algorithm.trained_policy.encoder(transitions.observation, transitions.desired_goal)
        q = algorithm.networks["critic"](features, transitions.action)
        losses = {"critic_loss": critic_loss(q, torch.zeros(len(features)))}
        losses |= algorithm.policy_losses(transitions, features, q.detach())  # type: ignore[attr-defined]
        torch.autograd.backward(losses[only])
        assert moved(algorithm.networks) == {only.removesuffix("_loss")}
        assert all(p.requires_grad for p in algorithm.networks["critic"].parameters()), "frozen only for a moment"


def moved(networks: nn.Module) -> set[str]:
    return {n.split(".")[0] for n, p in networks.named_parameters() if p.grad is not None and bool(p.grad.any())}


@pytest.mark.parametrize("name", NAMES)
def test_targets_follow_at_their_rate_and_nothing_else_moves_them(
    name: str, contract: Contract, memory: ReplayMemory
) -> None:
    algorithm = learner(name, contract, target_rate=0.25)
    target, critic = algorithm.networks["target_critic"], algorithm.networks["critic"]
    before = [weight.clone() for weight in target.parameters()]
    algorithm.update(batch_of(memory))
    for old, new, source in zip(before, target.parameters(), critic.parameters(), strict=True):
        assert new.grad is None
        torch.testing.assert_close(new, 0.75 * old + 0.25 * source)


def test_a_delayed_policy_waits(contract: Contract, memory: ReplayMemory) -> None:
    algorithm = learner("td3", contract, policy_delay=2)
    algorithm.update(batch_of(memory))
    before = [weight.clone() for weight in algorithm.trained_policy.parameters()]
    metrics = algorithm.update(batch_of(memory))
    assert "policy_loss" not in metrics
    assert all(torch.equal(a, b) for a, b in zip(before, algorithm.trained_policy.parameters(), strict=True))
    assert "policy_loss" in algorithm.update(batch_of(memory))


@pytest.mark.parametrize("name", NAMES)
def test_exploring_actions_are_within_the_contract(name: str, contract: Contract) -> None:
    algorithm = learner(name, contract, random_share=0.5)
    action = algorithm.explore({"place": torch.randn(200, 1)}, torch.randn(200, 1)).numpy()
    assert (action >= contract.action_low).all() and (action <= contract.action_high).all()
    assert set(np.unique(action[:, 1])) == {np.float32(0.0), np.float32(0.04)}
    assert len(np.unique(action[:, 0])) > 100
    exported = algorithm.policy({"place": torch.zeros(2, 1)}, torch.zeros(2, 1))
    assert torch.equal(exported[0], exported[1]), "what is exported does not explore"


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_state_continues_bit_for_bit(name: str, contract: Contract, memory: ReplayMemory) -> None:
    first = make_algorithm(name, contract, UNIT, seed=0, overrides=SMALL)
    second = make_algorithm(name, contract, UNIT, seed=1, overrides=SMALL)
    first.normalise({"place": {"mean": [0.2], "std": [0.5]}})
    for _ in range(3):
        first.update(batch_of(memory))
    second.load_state_dict({k: v.numpy() for k, v in first.state_dict().items()})
    for algorithm in (first, second):
        for _ in range(3):
            algorithm.update(batch_of(memory))
    expected, found = first.state_dict(), second.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_demonstrations_are_cloned_only_where_the_critic_prefers_them(contract: Contract, memory: ReplayMemory) -> None:
    algorithm = learner("ddpg", contract, cloning_weight=1.0)
    batch = batch_of(memory)
    batch.demonstration = np.arange(32) < 16
    transitions = algorithm._transitions(batch, shift=0)
    features = algorithm.trained_policy.encoder(transitions.observation, transitions.desired_goal)
    for q, cloned in ((1e6, True), (-1e6, False)):
        losses = algorithm.policy_losses(transitions, features, torch.full((1, 32), q))  # type: ignore[attr-defined]
        assert (losses["cloning_loss"].item() > 0.0) == cloned
    alone = replace(transitions, demonstration=torch.zeros(32))
    assert algorithm.policy_losses(alone, features, torch.full((1, 32), 1e6))["cloning_loss"].item() == 0.0  # type: ignore[attr-defined]


def test_sac_goes_as_far_as_it_pays(contract: Contract) -> None:
    rng, made = np.random.default_rng(0), []
    for step in rng.uniform(-0.1, 0.1, 500).astype(np.float32):
        one = walk([0.0, 0.0], 9.0, terminated=True)
        one.action[0, 0], one.reward[0] = step, -((10 * step - 0.8) ** 2) / 4
        made.append(one)
    memory = ReplayMemory(made)
    algorithm = learner("sac", contract, batch_size=64, learning_rate=3e-3)
    for batch in algorithm.batches(memory, memory.sample(rng, (200, 64)), rng):
        algorithm.update(batch)
    action = algorithm.act({"place": np.zeros((1, 1), np.float32)}, np.full((1, 1), 9.0, np.float32))
    assert action[0, 0] == pytest.approx(0.08, abs=0.02)


# Rewards that values are not learned of.


@pytest.mark.parametrize("name", NAMES)
def test_rewards_beyond_the_bounds_are_refused_before_anything_is_learned(
    name: str, contract: Contract, tmp_path: Path
) -> None:
    paid = walk([0.0, 0.1, 0.2], 0.2, terminated=True)
    paid = replace(paid, reward=paid.reward + 1.0)
    memory = ReplayMemory([paid], achieved_goal="place")
    refusal = "rewards from 0 to 1 are not between smallest_reward -1.0 and largest_reward 0.0"
    with pytest.raises(UserError, match=refusal):
        train(memory, contract, name, tmp_path, updates=3, overrides=SMALL)
    train(memory, contract, name, tmp_path, updates=3, overrides=SMALL | {"largest_reward": 1.0})
    train(memory, contract, name, tmp_path, updates=3, overrides=SMALL | {"largest_reward": None})


@pytest.mark.parametrize("steps", [1, 3])
def test_so_are_those_of_hindsight_but_not_returns_of_several_steps(steps: int, contract: Contract) -> None:
    memory = ReplayMemory([walk([0.0, 0.1, 0.2, 0.3], 9.0)], achieved_goal="place")
    algorithm = learner("ddpg", contract, return_steps=steps)
    rng = np.random.default_rng(0)
    assert len(list(algorithm.batches(memory, memory.transitions[None], rng))) == 1
    algorithm.hindsight = Hindsight({"final": 1.0}, DistanceReward("success"))
    with pytest.raises(UserError, match="largest_reward"):
        next(iter(algorithm.batches(memory, memory.transitions[None], rng)))


# Returns of several steps.


def test_returns_of_several_steps_stop_where_the_episode_does(contract: Contract) -> None:
    places = [0.0, 0.1, 0.2, 0.3, 0.4]
    for terminated in (False, True):
        memory = ReplayMemory([walk(places, 0.4, terminated)] * 2, achieved_goal="place")
        algorithm = learner("ddpg", contract, return_steps=3, discount=0.5)
        batch = next(iter(algorithm.batches(memory, np.array([[0, 1, 2, 3]]), np.random.default_rng(0))))
        np.testing.assert_allclose(batch.reward, [-1 - 0.5 - 0.25, -1 - 0.5, -1, 0])
        assert batch.steps is not None
        assert batch.steps.tolist() == [3, 3, 2, 1]
        np.testing.assert_allclose(batch.next_observation["place"][:, 0], [0.3, 0.4, 0.4, 0.4])
        assert batch.terminated.tolist() == [False, terminated, terminated, terminated]


def test_returns_of_several_steps_are_those_of_the_new_goal(contract: Contract) -> None:
    memory = ReplayMemory([walk([0.0, 0.1, 0.2, 0.3], 9.0)], achieved_goal="place")
    algorithm = learner("ddpg", contract, return_steps=2, discount=0.5)
    algorithm.hindsight = Hindsight({"final": 1.0}, DistanceReward("penalty"))
    batch = next(iter(algorithm.batches(memory, np.array([[0, 1, 2]]), np.random.default_rng(0))))
    np.testing.assert_allclose(batch.reward, [-1.5, -1.0, 0.0])
    assert not batch.terminated.any()


# Rewards of distances.


def test_distance_rewards() -> None:
    achieved, desired = np.zeros((3, 2)), np.array([[0.0, 0.05], [0.03, 0.04], [0.3, 0.4]])
    assert DistanceReward("penalty")(achieved, desired).tolist() == [0.0, 0.0, -1.0]
    assert DistanceReward("success")(achieved, desired).tolist() == [1.0, 1.0, 0.0]
    np.testing.assert_allclose(DistanceReward("euclidean")(achieved, desired), [-0.05, -0.05, -0.5])
    assert DistanceReward("euclidean")(np.zeros((4, 5, 3)), np.zeros((4, 5, 3))).shape == (4, 5)
    for wrong in ({"kind": "manhattan"}, {"kind": "success", "tolerance": 0.0}):
        with pytest.raises(UserError):
            DistanceReward(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", DistanceReward.KINDS)
def test_no_value_leaves_the_bounds_of_its_reward(kind: str, contract: Contract) -> None:
    reward = DistanceReward(kind)  # type: ignore[arg-type]
    low, high = value_range(**{k.partition("_")[0]: v for k, v in reward.bounds.items()}, discount=0.9)
    distances = np.linspace(0.0, 3.0, 50)[:, None]
    returns = reward(distances, np.zeros_like(distances)) / (1.0 - 0.9)
    assert low <= returns.min() + 1e-5 and returns.max() <= high + 1e-5


@pytest.mark.parametrize("strategy", ["final", "future", "geometric_future", "episode", "random"])
@pytest.mark.parametrize("kind", DistanceReward.KINDS)
def test_relabelled_rewards_are_the_environments(strategy: str, kind: str, memory: ReplayMemory) -> None:
    reward = DistanceReward(kind)  # type: ignore[arg-type]
    rng = np.random.default_rng(2)
    rows = memory.sample(rng, 300)
    hindsight = Hindsight({strategy: 0.8}, reward)
    goal_rows = hindsight.goal_rows(rng, memory, rows)
    batch = hindsight.relabel(memory, rows, goal_rows, rng)
    new = goal_rows >= 0
    assert 0.7 < new.mean() < 0.9
    # As an environment would say, one transition at a time, of where it arrives.
    for row, goal, found in zip(rows[new], batch.desired_goal[new], batch.reward[new], strict=True):
        assert found == reward(memory.observation["place"][row + 1], goal)
    np.testing.assert_array_equal(batch.reward[~new], memory.reward[rows[~new]])
    assert not batch.terminated.any()


def test_goals_that_are_achieved_already_can_be_left_out(contract: Contract) -> None:
    # The first walk never leaves its place, so that all its goals of hindsight are where it already is.
    memory = ReplayMemory([walk([0.0] * 11, 0.3), walk(np.arange(11.0).tolist(), 0.3)], achieved_goal="place")
    rows = np.tile(memory.transitions, 50)
    still = memory.episode[rows] == 0
    relabelled = {}
    for kept in (0.0, 0.5, 1.0):
        hindsight = Hindsight({"future": 1.0}, DistanceReward("penalty"), kept_trivial=kept)
        goal_rows = hindsight.goal_rows(np.random.default_rng(0), memory, rows)
        assert (goal_rows[~still] >= 0).all()
        relabelled[kept] = (goal_rows[still] >= 0).mean()
    assert relabelled[0.0] == 0.0 and relabelled[1.0] == 1.0
    assert relabelled[0.5] == pytest.approx(0.5, abs=0.1)
    with pytest.raises(UserError, match="kept_trivial"):
        Hindsight({"future": 1.0}, DistanceReward("penalty"), kept_trivial=2.0)
