"""Learning to reach goals from recordings: losses by hand, goals by meaning, and detours unlearned."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from points import POINT, SPEED, detours, point_episode
from torch import nn

from rl_ros.algorithms import gciql, gcivl, wgcsl
from rl_ros.algorithms.base import Algorithm, dataset_statistics, make_algorithm
from rl_ros.algorithms.gciql import seeking_loss
from rl_ros.algorithms.gcivl import implicit_value_loss
from rl_ros.algorithms.gcsl import uniform_pairs
from rl_ros.algorithms.goal_conditioned import expected_action
from rl_ros.algorithms.hiql import HierarchicalIQL, representation_log_probability, to_length
from rl_ros.algorithms.latent_plans import plan_loss, windows
from rl_ros.algorithms.wgcsl import compound_weight, critic_loss
from rl_ros.cli import main
from rl_ros.contract import Contract
from rl_ros.episodes.exchange.bags import write_bags
from rl_ros.episodes.hindsight import GoalBatch
from rl_ros.episodes.memory import ReplayMemory
from rl_ros.errors import UserError
from rl_ros.networks.layers import DESIRED_GOAL, gaussian_divergence
from rl_ros.networks.policies import ActionDistribution, ActionLayout
from rl_ros.training.bundle import TOLERANCE, load_bundle
from rl_ros.training.doctor import examine
from rl_ros.training.offline import train

NAMES = ("gcbc", "gcsl", "wgcsl", "gciql", "gcivl", "hiql", "latent_plans")
SMALL = {"hidden_size": 64}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def contract() -> Contract:
    return Contract.from_yaml(POINT, "point.yaml")


@pytest.fixture(scope="module")
def memory() -> ReplayMemory:
    return detours()


def learner_of(name: str, contract: Contract, memory: ReplayMemory, **overrides: object) -> Algorithm:
    return make_algorithm(name, contract, dataset_statistics(memory, contract), overrides={**SMALL, **overrides})


def one_batch(learner: Algorithm, memory: ReplayMemory, size: int = 64, seed: int = 0):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    return next(iter(learner.batches(memory, memory.sample(rng, (1, size)), rng)))


def row_of(memory: ReplayMemory, points: np.ndarray) -> np.ndarray:
    """Where the memory holds each of these points, of which it holds none twice."""
    index = {tuple(point): row for row, point in enumerate(memory.observation["point"])}
    return np.array([index[tuple(point)] for point in points])


# Goals.


def test_values_and_policies_get_goals_of_their_own(contract: Contract, memory: ReplayMemory) -> None:
    learner = learner_of("gciql", contract, memory)
    batch = one_batch(learner, memory, 4000)
    assert isinstance(batch, GoalBatch)
    here = batch.observation["point"]
    # A fifth of the value function's goals are achieved where the transition begins, and only those are reached.
    at_goal = np.linalg.norm(here - batch.value_goal, axis=1) < learner.config.tolerance  # type: ignore[attr-defined]
    same = (here == batch.value_goal).all(1)
    assert same.mean() == pytest.approx(0.2, abs=0.02)
    np.testing.assert_array_equal(batch.value_terminated, at_goal)
    np.testing.assert_array_equal(batch.value_reward, np.where(at_goal, 0.0, -1.0))
    assert batch.ahead.min() == 1
    # What the policy is to reach was reached, so many ticks later.
    begins = row_of(memory, here)
    np.testing.assert_array_equal(batch.desired_goal, memory.achieved_goal[begins + batch.ahead])
    assert (begins + batch.ahead <= memory.last_row[begins]).all()
    # Random goals come from other episodes too.
    elsewhere = memory.episode[row_of(memory, batch.value_goal)] != memory.episode[begins]
    assert elsewhere.mean() == pytest.approx(0.3, abs=0.03)


def test_the_policy_may_be_asked_for_what_comes_soon(contract: Contract, memory: ReplayMemory) -> None:
    any_tick = one_batch(learner_of("gciql", contract, memory, discount=0.5), memory, 4000)
    soon = one_batch(learner_of("gciql", contract, memory, discount=0.5, policy_goals="geometric_future"), memory, 4000)
    assert 1.0 < soon.ahead.mean() < 2.0 < any_tick.ahead.mean()  # 1 / (1 - γ) where no episode ends before
    begins = row_of(memory, soon.observation["point"])
    np.testing.assert_array_equal(soon.desired_goal, memory.achieved_goal[begins + soon.ahead])


def test_wgcsl_is_rewarded_for_arriving(contract: Contract, memory: ReplayMemory) -> None:
    batch = one_batch(learner_of("wgcsl", contract, memory), memory, 4000)
    arrived = np.linalg.norm(batch.next_observation["point"] - batch.desired_goal, axis=1) < 0.05
    np.testing.assert_array_equal(batch.reward, arrived.astype(np.float32))
    assert batch.reward[batch.ahead == 1].all()
    assert not batch.terminated.any() and not batch.value_terminated.any()


def test_sub_goals_lie_on_the_way(contract: Contract, memory: ReplayMemory) -> None:
    batch = one_batch(learner_of("hiql", contract, memory, sub_goal_steps=3), memory, 500)
    begins = row_of(memory, batch.observation["point"])
    np.testing.assert_array_equal(batch.sub_goal, memory.achieved_goal[begins + np.minimum(3, batch.ahead)])
    np.testing.assert_array_equal(batch.sub_goal_observation["point"], batch.sub_goal)


def test_gcsl_draws_all_pairs_of_ticks_alike() -> None:
    points = np.arange(10.0)[:5, None] * [1.0, 1.0]
    memory = ReplayMemory([point_episode(points, np.zeros((4, 2)), np.zeros(2))] * 2, achieved_goal="point")
    rng = np.random.default_rng(0)
    begin, goal = uniform_pairs(memory, memory.sample(rng, 80_000), rng)
    assert (memory.episode[begin] == memory.episode[goal]).all()
    pairs, counts = np.unique(np.stack([begin, goal], axis=1), axis=0, return_counts=True)
    assert len(pairs) == 20  # of 5 ticks, in each of 2 episodes
    assert counts.std() < 0.03 * counts.mean()
    gap = ReplayMemory([point_episode(points, np.zeros((4, 2)), np.zeros(2), gap=1)], achieved_goal="point")
    begin, goal = uniform_pairs(gap, gap.sample(rng, 1000), rng)
    assert np.isin(begin, gap.transitions).all()
    assert (begin < goal).all()


def test_windows_keep_to_their_stretch() -> None:
    transitions = np.array([0, 1, 2, 3, 4, 7, 8, 20])
    found = windows(transitions, np.array([0, 3, 4, 7, 20]), 3)
    np.testing.assert_array_equal(found, [[0, 1, 2], [2, 3, 4], [2, 3, 4], [7, 8, 8], [20, 20, 20]])


def test_plans_are_learned_from_whole_windows(contract: Contract, memory: ReplayMemory) -> None:
    batch = one_batch(learner_of("latent_plans", contract, memory, window=4), memory, 200)
    point, arrived = batch.observation["point"].reshape(200, 4, 2), batch.next_observation["point"].reshape(200, 4, 2)
    np.testing.assert_array_equal(point[:, 1:], arrived[:, :-1])
    rows, goals = row_of(memory, batch.observation["point"]), row_of(memory, batch.desired_goal)
    assert (rows < goals).all() and (goals <= memory.last_row[rows]).all()


# The losses.


def test_seeking_loss_weighs_the_critics_by_their_size() -> None:
    q = torch.tensor([-2.0, -6.0], requires_grad=True)
    loss = seeking_loss(q, torch.tensor([-1.0, -3.0]), cloning_weight=0.5)
    assert loss.item() == pytest.approx(4.0 / 4.0 + 0.5 * 2.0)
    torch.autograd.backward(loss)
    torch.testing.assert_close(q.grad, torch.full((2,), -0.5 / 4.0))  # the size itself is no way to a lower loss


def test_implicit_value_loss_is_equation_4_of_hiql() -> None:
    loss = implicit_value_loss(
        value=torch.tensor([[-1.0, -2.0], [-2.0, -3.0]]),
        target=torch.tensor([[-3.0, -1.0], [-5.0, -1.0]]),
        next_target=torch.tensor([[-2.0, -9.0], [-4.0, -9.0]]),
        reward=torch.tensor([-1.0, 0.0]),
        terminated=torch.tensor([0.0, 1.0]),
        discount=0.5,
        expectile=0.9,
    )
    # First: A = -1 - 0.5 * 4 + 4 = 1, so 0.9; towards -2 and -3. Second: A = 0 + 1 = 1, so 0.9; both towards 0.
    assert loss.item() == pytest.approx(0.9 * ((1 + 4) / 2 + (1 + 9) / 2))
    worse = implicit_value_loss(*(torch.tensor(x) for x in ([[-1.0]], [[0.0]], [[-4.0]], [-1.0], [0.0])), 0.5, 0.9)
    assert worse.item() == pytest.approx(0.1 * (-3.0 + 1.0) ** 2)  # A = -3


def test_the_critic_of_wgcsl_stays_within_what_returns_can_be() -> None:
    # Targets 0.5 * 1, 1 + 0.5 * 8 cut to 1 / (1 - 0.5), and 0 - 0.5 cut to 0.
    loss = critic_loss(
        torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 8.0, -1.0]), discount=0.5
    )
    assert loss.item() == pytest.approx((0.25 + 4.0 + 1.0) / 3)


def test_compound_weight_is_the_product_of_three() -> None:
    weight = compound_weight(
        ahead=torch.tensor([1, 2, 1, 3]),
        advantage=torch.tensor([0.0, math.log(2.0), -1.0, 50.0]),
        discount=0.5,
        best_share=0.5,
        other_weight=0.05,
        largest_weight=10.0,
    )
    torch.testing.assert_close(weight, torch.tensor([0.5 * 0.05, 0.25 * 2, 0.5 * math.exp(-1) * 0.05, 0.125 * 10]))


def test_divergence_of_gaussians_agrees_with_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_std, prior_mean, prior_log_std = torch.randn(4, 6, 3, generator=generator)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, log_std.exp()), normal(prior_mean, prior_log_std.exp()))
    found = gaussian_divergence(mean, log_std, prior_mean, prior_log_std)
    torch.testing.assert_close(found, expected.sum(1))
    assert plan_loss(torch.tensor([-1.0, -3.0]), torch.tensor(4.0), 0.25).item() == 3.0


def test_representations_have_the_length_of_their_size() -> None:
    answer = to_length(torch.tensor([[3.0, 4.0], [-0.1, 0.0]]))
    torch.testing.assert_close(answer, math.sqrt(2) * torch.tensor([[0.6, 0.8], [-1.0, 0.0]]))
    assert representation_log_probability(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])).item() == -2.5


def test_the_expected_action_keeps_its_order() -> None:
    data = Contract.load("lift")
    layout = ActionLayout(data)  # the gripper is the last of four entries
    distribution = ActionDistribution(torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[math.log(3.0)]]))
    torch.testing.assert_close(expected_action(layout, distribution), torch.tensor([[0.1, 0.2, 0.3, 0.5]]))


# Gradients.


def gradients(networks: nn.Module) -> set[str]:
    """The top-level networks that any gradient reached."""
    return {n.split(".")[0] for n, p in networks.named_parameters() if p.grad is not None and bool(p.grad.any())}


@pytest.mark.parametrize(
    ("name", "module", "silenced", "reached"),
    [
        ("gciql", gciql, ("value_loss", "critic_loss"), {"policy"}),
        ("gciql", gciql, ("value_loss", "policy_loss"), {"critic"}),
        ("gciql", gciql, ("critic_loss", "policy_loss"), {"value"}),
        ("gcivl", gcivl, ("implicit_value_loss",), {"policy"}),
        ("gcivl", gcivl, ("policy_loss",), {"value"}),
        ("hiql", gcivl, ("implicit_value_loss",), {"policy"}),
        ("wgcsl", wgcsl, ("critic_loss",), {"policy"}),
        ("wgcsl", wgcsl, ("compound_weight",), {"critic"}),
    ],
)
def test_each_loss_moves_its_own_network(
    contract: Contract,
    memory: ReplayMemory,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    module: object,
    silenced: tuple[str, ...],
    reached: set[str],
) -> None:
    for function in silenced:
        original = getattr(module, function)
        monkeypatch.setattr(module, function, lambda *a, original=original: 0.0 * original(*a))
    learner = learner_of(name, contract, memory)
    learner.update(one_batch(learner, memory))
    assert gradients(learner.networks) == reached


def test_seeking_the_critics_maximum_leaves_the_critics_alone(
    contract: Contract, memory: ReplayMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for function in ("value_loss", "critic_loss"):
        original = getattr(gciql, function)
        monkeypatch.setattr(gciql, function, lambda *a, original=original: 0.0 * original(*a))
    learner = learner_of("gciql", contract, memory, policy_objective="ddpg_bc")
    learner.update(one_batch(learner, memory))
    assert gradients(learner.networks) == {"policy"}


def test_the_representation_learns_from_the_value_function_alone(contract: Contract, memory: ReplayMemory) -> None:
    learner = learner_of("hiql", contract, memory)
    assert isinstance(learner, HierarchicalIQL)
    batch = learner._transitions(one_batch(learner, memory), shift=0)
    features = learner.trained_policy.encoder(batch.observation, batch.desired_goal)
    total, _ = learner.loss(batch, features)
    values, _ = learner.values(batch, features)
    representation = learner.networks["value"].representation
    assert isinstance(representation, nn.Module)
    parameters = list(representation.parameters())
    for of_all, of_values in zip(
        torch.autograd.grad(total, parameters), torch.autograd.grad(values, parameters), strict=True
    ):
        torch.testing.assert_close(of_all, of_values)
        assert of_all.any()


def test_plans_reach_the_policy_through_posterior_and_prior(contract: Contract, memory: ReplayMemory) -> None:
    learner = learner_of("latent_plans", contract, memory)
    learner.update(one_batch(learner, memory))
    assert gradients(learner.networks) == {"policy", "posterior"}
    moved = {n.split(".")[0] for n, p in learner.networks["policy"].named_parameters() if p.grad is not None}
    assert moved == {"prior", "actor"}


# Learning.


def ticks_lost(policy: nn.Module, episodes: int = 100, ticks: int = 40) -> float:
    """Ticks that the policy takes to random goals beyond those of the straight way, on average."""
    rng = np.random.default_rng(7)
    point, goal = torch.from_numpy(rng.uniform(-0.9, 0.9, (2, episodes, 2)).astype(np.float32))
    straight = ((point - goal).abs().amax(1) - 0.05).clamp(min=0) / SPEED
    taken = torch.zeros(episodes)
    away = torch.ones(episodes, dtype=torch.bool)
    with torch.no_grad():
        for _ in range(ticks):
            away &= (point - goal).abs().amax(1) >= 0.05
            taken += away
            point = (point + policy({"point": point}, goal)).clamp(-1, 1)
    return float((taken - straight).mean())


def learn(name: str, contract: Contract, memory: ReplayMemory, updates: int, **overrides: object) -> Algorithm:
    learner, rng = learner_of(name, contract, memory, **overrides), np.random.default_rng(0)
    rows = memory.sample(rng, (updates, learner.config.batch_size))
    for update, batch in enumerate(learner.batches(memory, rows, rng)):
        learner.schedule(update / updates)
        learner.update(batch)
    return learner


def test_detours_are_cloned_but_not_valued(contract: Contract, memory: ReplayMemory) -> None:
    cloned = ticks_lost(learn("gcbc", contract, memory, 400).policy)
    for name in ("gciql", "gcivl", "wgcsl"):
        assert ticks_lost(learn(name, contract, memory, 400).policy) < 0.5 * cloned, name


# What is on disk.


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_state_continues_bit_for_bit(name: str, contract: Contract, memory: ReplayMemory) -> None:
    first, second = learner_of(name, contract, memory), learner_of(name, contract, memory)
    batches = [one_batch(first, memory, 8, seed) for seed in range(4)]
    for batch in batches[:2]:
        first.update(batch)
    second.load_state_dict({key: value.numpy() for key, value in first.state_dict().items()})
    for batch in batches[2:]:
        first.update(batch)
        second.update(batch)
    expected, found = first.state_dict(), second.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_exported_is_the_policy(name: str, contract: Contract, memory: ReplayMemory, tmp_path: Path) -> None:
    bundle = load_bundle(train(memory, contract, name, tmp_path, updates=5, overrides=SMALL))
    learner = make_algorithm(name, contract, bundle.normalisation, overrides=SMALL)
    learner.load_state_dict(bundle.state())
    policy, rng = bundle.policy(), np.random.default_rng(3)
    for _ in range(10):
        point, goal = rng.uniform(-1, 1, (2, 2)).astype(np.float32)
        with torch.no_grad():
            expected = learner.policy({"point": torch.from_numpy(point[None])}, torch.from_numpy(goal[None]))[0]
        np.testing.assert_allclose(policy.act({"point": point}, goal), expected, atol=TOLERANCE * 2 * SPEED)
    assert not np.array_equal(policy.act({"point": point}, goal), policy.act({"point": point}, -goal))


def test_goals_are_learned_from_bags(contract: Contract, tmp_path: Path) -> None:
    points = np.linspace([0.0, 0.0], [0.5, 0.4], 6)
    write_bags([point_episode(points, np.diff(points, axis=0), np.ones(2))] * 2, contract, tmp_path / "bags")
    options = ["--bags", str(tmp_path / "bags"), "--out", str(tmp_path / "run"), "--updates", "2"]
    assert main(["train", "--algorithm", "gciql", *options, "--set", "batch_size=8"]) == 0
    assert load_bundle(tmp_path / "run" / "bundle").algorithm == "gciql"


@pytest.mark.parametrize("name", [*NAMES, "iql"])
def test_goals_of_hindsight_are_not_clipped_where_all_were_asked_for_the_same(
    name: str, contract: Contract, tmp_path: Path
) -> None:
    memory = detours(30)
    asked = np.float32([0.5, 0.4]) + np.random.default_rng(0).normal(0, 0.003, memory.desired_goal.shape)
    memory.desired_goal[:] = asked.astype(np.float32)
    bundle = load_bundle(train(memory, contract, name, tmp_path, updates=1, overrides=SMALL))
    statistics = bundle.normalisation[DESIRED_GOAL]
    if name == "iql":  # which is shown no other goals
        goals = memory.desired_goal.astype(np.float64)
        assert statistics == {"mean": goals.mean(0).tolist(), "std": goals.std(0).tolist()}
        return
    standardised = (memory.achieved_goal - statistics["mean"]) / statistics["std"]
    assert np.abs(standardised).max() < 5.0
    assert standardised.std(0).min() > 0.5


def test_the_doctor_knows_goals_of_hindsight(contract: Contract, tmp_path: Path) -> None:
    points = np.linspace([0.0, 0.0], [0.5, 0.4], 6)
    write_bags([point_episode(points, np.diff(points, axis=0), np.ones(2))] * 2, contract, tmp_path / "bags")
    for name in ("gcbc", "iql"):
        options = ["--bags", str(tmp_path / "bags"), "--out", str(tmp_path / name), "--updates", "2"]
        assert main(["train", "--algorithm", name, *options, "--set", "batch_size=8"]) == 0
        assert "normaliser" not in {finding.check for finding in examine(tmp_path / name)[0]}


@pytest.mark.parametrize("name", NAMES)
def test_a_contract_without_goals_is_refused(name: str, contract: Contract, memory: ReplayMemory) -> None:
    for key, value in (("policy_input", False), ("achieved_goal", "")):
        data = contract.to_dict()
        data["goal"][key] = value
        with pytest.raises(UserError, match=f"{name} learns to reach goals"):
            make_algorithm(name, Contract.from_dict(data, "test"), dataset_statistics(memory, contract))


def test_shares_of_goals_are_shares(contract: Contract, memory: ReplayMemory) -> None:
    with pytest.raises(UserError, match="at most 1, got 0.6 and 0.5"):
        learner_of("gciql", contract, memory, value_current=0.6)
