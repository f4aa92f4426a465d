"""The offline family: losses against arithmetic done by hand, gradients where they belong, and learning itself."""

import csv
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_algorithms import REACH, best_action, episode, image_data, random_choices, unit_statistics
from torch import Tensor, nn

from rl_ros.algorithms import awac, awr, bcq, bear, brac, cal_ql, cql, crr, rebrac, rem, td3_bc
from rl_ros.algorithms.actor_critic import lambda_returns, most_and_least
from rl_ros.algorithms.base import dataset_statistics, make_algorithm
from rl_ros.contract import Contract
from rl_ros.episodes.hindsight import Hindsight
from rl_ros.episodes.memory import Batch, Columns, ReplayMemory
from rl_ros.errors import UserError
from rl_ros.networks.action_vae import divergence
from rl_ros.networks.layers import frozen, gaussian_divergence
from rl_ros.training.bundle import load_bundle, save_learner
from rl_ros.training.offline import train

SMALL: dict[str, Any] = {"hidden_size": 64, "hidden_layers": 2, "batch_size": 128}
FAMILY: dict[str, dict[str, Any]] = {
    "td3_bc": {"alpha": 10.0},
    "rebrac": {},
    "awac": {"temperature": 0.1},
    "awr": {"temperature": 0.3, "returns_every": 50},
    "crr": {"filter": "exp", "temperature": 0.1},
    "cql": {"samples": 4, "conservative_weight": 0.1},
    "cal_ql": {"samples": 4, "conservative_weight": 1.0, "lagrange_gap": 5.0},
    "bcq": {"vae_hidden_size": 64, "samples": 30},
    "bear": {"vae_hidden_size": 64, "samples": 30, "cloning_updates": 20, "discrepancy": 0.3},
    "brac": {"cloning_updates": 50, "penalty_weight": 0.05},
    "rem": {"heads": 20},
}
"""Every algorithm of the family, with settings that suit a task of seconds."""
T = torch.tensor


def settings(name: str, **others: Any) -> dict[str, Any]:
    return {**SMALL, **FAMILY[name], **others}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def contract() -> Contract:
    return Contract.from_yaml(REACH, "reach.yaml")


@pytest.fixture(scope="module")
def memory() -> ReplayMemory:
    return random_choices()


# Returns.


def chain(rewards: list[list[float]], terminated: list[bool], capacity: int | None = None) -> ReplayMemory:
    """Episodes of these rewards, each ending in termination or truncation."""
    reward = np.concatenate([[*values, 0.0] for values in rewards]).astype(np.float32)
    lengths = np.array([len(values) + 1 for values in rewards])
    last = np.cumsum(lengths) - 1
    ends = {k: np.isin(np.arange(len(reward)), last[np.array(terminated) == k] - 1) for k in (True, False)}
    return ReplayMemory(
        Columns(
            observation={"tool_position": np.zeros((len(reward), 3), np.float32)},
            auxiliary={},
            desired_goal=np.zeros((len(reward), 1), np.float32),
            action=np.arange(4.0 * len(reward)).reshape(-1, 4).astype(np.float32),
            reward=reward,
            terminated=ends[True],
            truncated=ends[False],
            has_transition=~np.isin(np.arange(len(reward)), last),
            lengths=lengths,
        ),
        capacity=capacity,
    )


def test_returns_look_through_an_episode_and_never_into_the_next() -> None:
    memory = chain([[1, 1, 1], [2], [0, 4]], [True, False, False])
    nothing = np.zeros(len(memory.reward), np.float32)
    monte_carlo = lambda_returns(memory, nothing, 0.5, 1.0)[memory.transitions]
    np.testing.assert_allclose(monte_carlo, [1.75, 1.5, 1.0, 2.0, 2.0, 4.0])
    # With V(s') = 8: one tick ahead at λ = 0, nothing after a termination, and 8 after a truncation.
    eight = np.full(len(memory.reward), 8.0, np.float32)
    one_step = lambda_returns(memory, eight, 0.5, 0.0)[memory.transitions]
    np.testing.assert_allclose(one_step, [5.0, 5.0, 1.0, 6.0, 4.0, 8.0])
    # λ = 0.5: 4 + 0.5 * 8 = 8 at the end of the last episode, 0.5 (0.5 * 8 + 0.5 * 8) = 4 before it.
    mixed = lambda_returns(memory, eight, 0.5, 0.5)[memory.transitions]
    np.testing.assert_allclose(mixed, [1 + 0.5 * (4 + 0.5 * (1 + 0.5 * (4 + 0.5))), 1 + 0.5 * 4.5, 1.0, 6.0, 4.0, 8.0])


def test_cal_ql_knows_the_returns_of_every_memory_and_of_new_episodes(contract: Contract) -> None:
    recorded, live = chain([[1, 1]], [True]), chain([[4]], [True], capacity=20)
    learner = make_algorithm("cal_ql", contract, unit_statistics(contract), overrides={"discount": 0.5})
    rng = np.random.default_rng(0)

    def returns(memory: ReplayMemory) -> list[float]:
        batches = learner.batches(memory, memory.transitions[None], rng)
        return [float(value) for batch in batches for value in batch.extra["return"]]

    assert returns(recorded) == [1.5, 1.0]
    assert returns(live) == [4.0]
    live.append(episode(np.zeros((3, 3)), 0.0, np.zeros((2, 4)), np.ones(2), terminated=True))
    assert returns(live) == [4.0, 1.5, 1.0]
    assert returns(recorded) == [1.5, 1.0]


@pytest.mark.parametrize(
    ("rewards", "terminated", "bound"),
    [
        ([-1, -1, -1], False, [-2, -2, -2]),  # a failure goes on like that for ever, however long it was recorded
        ([-1, -1, -1], True, [-1.75, -1.5, -1]),
        ([-1, 0, 0], False, [-1, 0, 0]),  # it stays at the goal
        ([0, 0, 0], False, [0, 0, 0]),
        ([0, 1, 1], False, [0.75, 1.5, 1]),  # more may follow, but nobody has seen it
        ([4, -1, 2], False, [4, 0, 2]),
    ],
)
def test_the_bound_of_cal_ql_is_never_more_than_what_was_recorded_is_worth(
    rewards: list[float], terminated: bool, bound: list[float], contract: Contract
) -> None:
    memory = chain([rewards], [terminated])
    learner = make_algorithm("cal_ql", contract, unit_statistics(contract), overrides={"discount": 0.5})
    [batch] = learner.batches(memory, memory.transitions[None], np.random.default_rng(0))
    np.testing.assert_allclose(batch.extra["return"], bound)


def test_rebrac_sees_the_next_action_where_one_was_recorded(contract: Contract) -> None:
    memory = chain([[1, 1, 1], [2]], [True, False])
    learner = make_algorithm("rebrac", contract, unit_statistics(contract))
    batch = next(iter(learner.batches(memory, memory.transitions[None], np.random.default_rng(0))))
    assert batch.extra["has_next"].tolist() == [True, True, False, False]
    np.testing.assert_array_equal(batch.extra["next_action"][:2], memory.action[[1, 2]])


@pytest.mark.parametrize("name", ["td3_bc", "rebrac", "td3"])
def test_a_policy_that_learns_now_and_then_is_told_of_in_every_row(
    name: str, contract: Contract, memory: ReplayMemory, tmp_path: Path
) -> None:
    bounds = {"smallest_reward": None, "largest_reward": None} if name == "td3" else {}
    train(memory, contract, name, tmp_path, updates=200, overrides={**SMALL, "batch_size": 16, **bounds})
    with (tmp_path / "metrics.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    losses = [(float(row["policy_loss"]), float(row["validation_policy_loss"])) for row in rows]
    assert len(set(losses)) == 2


@pytest.mark.parametrize("name", ["awr", "cal_ql"])
def test_returns_and_hindsight_exclude_each_other(name: str, contract: Contract, memory: ReplayMemory) -> None:
    learner = make_algorithm(name, contract, dataset_statistics(memory, contract))
    learner.hindsight = Hindsight({}, lambda achieved, goal: np.zeros(len(goal)))
    with pytest.raises(UserError, match="returns of whole episodes"):
        next(iter(learner.batches(memory, memory.transitions[None, :8], np.random.default_rng(0))))


def test_awr_estimates_returns_anew_with_the_value_function_of_then(contract: Contract) -> None:
    memory = chain([[1.0] * 5] * 4, [False] * 4)
    overrides = settings("awr", returns_every=10, trace=0.0, discount=0.5)
    learner = make_algorithm("awr", contract, unit_statistics(contract), overrides=overrides)
    rng = np.random.default_rng(0)
    seen = []
    for batch in learner.batches(memory, memory.sample(rng, (21, 16)), rng):
        learner.update(batch)
        seen.append(batch.extra["return"][0])
    with torch.no_grad():
        past = learner.networks["past"]
        features = past["encoder"]({"tool_position": torch.zeros(1, 3)}, torch.zeros(1, 1))
        value = past["value"](features).item()
    assert len(set(seen[:10])) == len(set(seen[10:20])) == 1
    assert seen[0] != seen[10]
    assert seen[20] == pytest.approx(1.0 + 0.5 * value)


# The losses.


def test_td3_bc_divides_q_by_its_size() -> None:
    q, action, recorded = T([2.0, -4.0]), T([[0.5, 0.0], [0.0, 0.0]]), T([[0.0, 0.0], [0.0, 1.0]])
    # λ = 3 / 3; −1 * mean Q = 1; squares 0.25 and 1 over four entries.
    assert td3_bc.policy_loss(q, action, recorded, alpha=3.0).item() == pytest.approx(1.0 + 1.25 / 4)
    assert td3_bc.policy_loss(1000 * q, action, recorded, alpha=3.0).item() == pytest.approx(1.0 + 1.25 / 4)


def test_rebrac_penalises_policy_and_target() -> None:
    q, action, recorded = T([2.0, -4.0]), T([[0.5, 0.0], [0.0, 0.0]]), T([[0.0, 0.0], [0.0, 1.0]])
    assert rebrac.policy_loss(q, action, recorded, 0.1).item() == pytest.approx(1.0 / 3.0 + 0.1 * 1.25 / 2)
    twins = T([[2.0, 5.0], [3.0, 4.0]])
    value = rebrac.penalised_value(twins, action, recorded, T([1.0, 0.0]), 0.1)
    torch.testing.assert_close(value, T([2.0 - 0.1 * 0.25, 4.0]))


def test_advantage_weights() -> None:
    log_probability, advantage = T([-1.0, -2.0, -1.0]), T([0.0, math.log(2.0), 1000.0])
    loss = awac.policy_loss(log_probability, advantage, 0.5, largest=100.0)
    assert loss.item() == pytest.approx((1 + 2 * 4 + 100) / 3)
    # AWR: standardised to ±1/√2.
    loss = awr.policy_loss(T([-1.0, -2.0]), T([3.0, 7.0]), 1.0, largest=20.0)
    assert loss.item() == pytest.approx((math.exp(-(0.5**0.5)) + 2 * math.exp(0.5**0.5)) / 2, rel=1e-4)
    assert awr.value_loss(T([1.0, 2.0]), T([3.0, 2.0])).item() == 2.0


@pytest.mark.parametrize(
    ("filter", "compared", "weights"),
    [
        ("binary", "mean", [1.0, 0.0]),
        ("binary", "max", [0.0, 0.0]),
        ("exp", "mean", [math.exp(2.0), math.exp(-4.0)]),
        ("exp", "max", [1.0, math.exp(-6.0)]),
    ],
)
def test_crr_filters(filter: str, compared: Any, weights: list[float]) -> None:
    config = crr.CriticRegularisedRegressionConfig(filter=filter, temperature=0.5)  # type: ignore[arg-type]
    advantage = crr.estimated_advantage(T([2.0, 0.0]), T([[0.0, 1.0], [2.0, 3.0]]), compared)
    torch.testing.assert_close(crr.filtered(advantage, config), T(weights))
    assert crr.filtered(T([99.0]), dataclasses.replace(config, filter="exp")).item() == 20.0
    assert crr.policy_loss(T([-1.0, -2.0]), T([3.0, 0.5])).item() == 2.0


def test_cql_pushes_down_the_soft_maximum_and_up_the_recorded() -> None:
    sampled, q = T([[[0.0], [1.0]]]), T([[0.25]])
    density = T([[math.log(0.5)], [math.log(0.25)]])
    expected = math.log(2.0 + 4.0 * math.e) - 0.25
    assert cql.conservative_gap(sampled, density, q).item() == pytest.approx(expected)
    assert cql.conservative_gap_of_policy(sampled, q).item() == pytest.approx(math.log((1 + math.e) / 2) - 0.25)
    # Of a policy as wide as the action itself, both are the same but for a constant.
    wide = cql.conservative_gap(sampled, torch.zeros(2, 1), q) - math.log(2.0)
    assert wide.item() == pytest.approx(cql.conservative_gap_of_policy(sampled, q).item())
    assert cql.policy_loss(T([1.0, 3.0]), T([-1.0, -3.0]), T(0.5)).item() == -3.0


def test_cal_ql_stops_at_the_recorded_return() -> None:
    q = T([[[1.0, 1.0]], [[3.0, 1.0]]], requires_grad=True)  # type: ignore[call-arg]
    bounded = cal_ql.calibrated(q, T([2.0, 0.0]))
    assert bounded.tolist() == [[[2.0, 1.0]], [[3.0, 1.0]]]
    torch.autograd.backward(bounded.sum())
    assert q.grad is not None
    assert q.grad.tolist() == [[[0.0, 1.0]], [[1.0, 1.0]]]


def test_bcq_takes_the_best_of_what_it_draws() -> None:
    assert most_and_least(T([[1.0, 5.0], [3.0, 1.0]]), 0.75).tolist() == [1.5, 2.0]

    class Sum(nn.Module):
        def forward(self, state: Tensor, action: Tensor, first: int) -> Tensor:
            return (state[:, 0] * action.sum(1))[None]

    actions = T([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 3.0], [0.0, 3.0]]])
    assert bcq.best_action(Sum(), T([[1.0], [-1.0]]), actions).tolist() == [[0.0, 3.0], [1.0, 0.0]]
    assert bcq.policy_loss(T([1.0, 3.0])).item() == -2.0
    assert divergence(torch.zeros(2, 3), torch.zeros(2, 3)).item() == 0.0
    assert divergence(T([[1.0]]), T([[math.log(2.0)]])).item() == pytest.approx(0.5 * (1 + 4 - 1 - 2 * math.log(2.0)))


@pytest.mark.parametrize(("kernel", "between"), [("laplacian", math.exp(-2.0 / 2)), ("gaussian", math.exp(-4.0 / 2))])
def test_bear_measures_how_unlike_samples_are(kernel: Any, between: float) -> None:
    x, y = torch.zeros(3, 1, 2), T([[[2.0, 0.0]]])
    assert bear.discrepancy(x, y, kernel, 1.0).item() == pytest.approx(math.sqrt(2 - 2 * between), rel=1e-4)
    assert bear.discrepancy(x, x, kernel, 1.0).item() == pytest.approx(1e-3)
    loss = bear.policy_loss(T([1.0, 3.0]), T([0.15, 0.25]), T(10.0), allowed=0.1)
    assert loss.item() == pytest.approx(-2.0 + 10 * 0.1)
    assert bear.policy_loss(None, T([0.15, 0.25]), T(10.0), allowed=0.1).item() == pytest.approx(1.0)


def test_brac_measures_the_divergence_from_the_behaviour() -> None:
    policy, behaviour = (T([[0.0, 1.0]]), T([[0.0, math.log(2.0)]])), (T([[0.0, 0.0]]), T([[0.0, 0.0]]))
    expected = -math.log(2.0) + 0.5 * (4 + 1) - 0.5
    assert gaussian_divergence(*policy, *behaviour).item() == pytest.approx(expected)
    assert brac.policy_loss(T([1.0, 3.0]), T([0.5, 1.5]), T(2.0)).item() == 0.0
    with pytest.raises(UserError, match="at least 1"):
        brac.BRACConfig(cloning_updates=0)


def test_rem_mixes_heads() -> None:
    mixture = rem.random_mixture(20, torch.Generator().manual_seed(0))
    assert mixture.sum().item() == pytest.approx(1.0)
    assert (mixture >= 0).all()
    q = T([[0.0, 4.0], [8.0, 8.0]])
    # Mixed values 1 and 8; errors 0.5 (squared, halved) and 3 (beyond 1: 3 − 0.5).
    assert rem.mixture_loss(q, T([1.5, 5.0]), T([0.75, 0.25])).item() == pytest.approx((0.125 + 2.5) / 2)
    assert rem.policy_loss(q).item() == -5.0


# Gradients.


def reached(networks: nn.Module) -> set[str]:
    """The networks that any gradient reached; what a policy of BCQ holds counts by its own name."""
    found = set()
    for name, parameter in networks.named_parameters():
        if parameter.grad is not None and bool(parameter.grad.any()):
            first, second, *_ = name.split(".")
            found.add(second if second in ("critic", "vae") else first)
    return found


LOSSES: dict[str, dict[str, set[str]]] = {
    "td3_bc": {"critic_loss": {"critic"}, "policy_loss": {"policy"}},
    "rebrac": {"critic_loss": {"critic"}, "policy_loss": {"policy"}},
    "awac": {"critic_loss": {"critic"}, "policy_loss": {"policy"}},
    "awr": {"value_loss": {"value"}, "policy_loss": {"policy"}},
    "crr": {"critic_loss": {"critic"}, "policy_loss": {"policy"}},
    "cql": {
        "critic_loss": {"critic"},
        "conservative_gap": {"critic"},
        "policy_loss": {"policy"},
        "temperature_loss": {"temperature"},
    },
    "bcq": {"critic_loss": {"critic"}, "policy_loss": {"policy"}},
    "bear": {"critic_loss": {"critic"}, "policy_loss": {"policy"}},
    "brac": {"critic_loss": {"critic"}, "policy_loss": {"policy"}},
    "rem": {"mixture_loss": {"critic"}, "policy_loss": {"policy"}},
}
"""Each loss by the name of its function, and what it trains."""


@pytest.mark.parametrize(("name", "only"), [(name, only) for name, losses in LOSSES.items() for only in losses])
def test_each_loss_moves_its_own_network(
    contract: Contract, memory: ReplayMemory, monkeypatch: pytest.MonkeyPatch, name: str, only: str
) -> None:
    learner = make_algorithm(name, contract, dataset_statistics(memory, contract), overrides=settings(name))
    learner.updates = 101  # past any cloning, and where delayed policies learn
    module = {"td3_bc": td3_bc, "rebrac": rebrac, "awac": awac, "awr": awr, "crr": crr, "cql": cql, "bcq": bcq}.get(
        name, {"bear": bear, "brac": brac, "rem": rem}.get(name)
    )
    for other in LOSSES[name].keys() - {only}:
        loss = getattr(module, other)
        monkeypatch.setattr(module, other, lambda *arguments, loss=loss: 0.0 * loss(*arguments))
    rng = np.random.default_rng(0)
    learner.update(next(iter(learner.batches(memory, memory.sample(rng, (1, 64)), rng))))
    assert reached(learner.networks) - {"vae", "multiplier"} == LOSSES[name][only]


def test_the_vae_alone_learns_what_was_done(contract: Contract, memory: ReplayMemory) -> None:
    learner = make_algorithm("bcq", contract, dataset_statistics(memory, contract), overrides=settings("bcq"))
    vae = learner.trained_policy.vae
    state, action = torch.zeros(256, 4), torch.tensor([[1.0, 0.5, -0.5, 0.0]]).repeat(256, 1)
    optimiser = torch.optim.Adam(vae.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        optimiser.zero_grad()
        torch.autograd.backward(vae.loss(state, action, torch.randn(256, vae.latent, generator=generator)))
        optimiser.step()
    drawn = torch.tanh(vae.decode(state[:1], vae.draw(50, 1, generator)))
    assert (drawn - action[0]).abs().max() < 0.15


def test_frozen_networks_pass_gradients_and_take_none() -> None:
    layer = nn.Linear(2, 1)
    x = torch.ones(1, 2, requires_grad=True)
    torch.autograd.backward(frozen(layer, x).sum())
    assert layer.weight.grad is None
    assert layer.weight.requires_grad
    assert x.grad is not None
    torch.testing.assert_close(x.grad, layer.weight.detach())


def test_the_multiplier_of_lagrange_grows_while_the_gap_is_too_wide(contract: Contract, memory: ReplayMemory) -> None:
    grown = {}
    for gap in (-100.0, 100.0):
        overrides = settings("cql", lagrange_gap=gap)
        learner = make_algorithm("cql", contract, dataset_statistics(memory, contract), overrides=overrides)
        for _ in range(3):
            learner.update(memory.take(memory.transitions[:64]))
        grown[gap] = learner.networks["multiplier"]().item()
    assert grown[-100.0] > 1.0 > grown[100.0]


def test_brac_keeps_what_cloning_made(contract: Contract, memory: ReplayMemory) -> None:
    overrides = settings("brac", cloning_updates=5)
    learner = make_algorithm("brac", contract, dataset_statistics(memory, contract), overrides=overrides)
    for _ in range(5):
        learner.update(memory.take(memory.transitions[:64]))
    kept = {name: tensor.clone() for name, tensor in learner.trained_policy.state_dict().items()}
    metrics = learner.update(memory.take(memory.transitions[:64]))
    assert metrics["divergence"].item() == pytest.approx(0.0, abs=1e-5)
    assert all(torch.equal(kept[n], tensor) for n, tensor in learner.networks["behaviour"].state_dict().items())
    assert not all(torch.equal(kept[n], tensor) for n, tensor in learner.trained_policy.state_dict().items())


@pytest.mark.parametrize(("name", "drawn"), [("awac", True), ("cql", True), ("td3_bc", False)])
def test_stochastic_policies_explore_within_the_limits(name: str, drawn: bool, contract: Contract) -> None:
    learner = make_algorithm(name, contract, unit_statistics(contract))
    observation, goal = {"tool_position": torch.zeros(50, 3)}, torch.zeros(50, 1)
    actions = learner.explore(observation, goal).numpy()
    assert (actions >= contract.action_low).all()
    assert (actions <= contract.action_high).all()
    assert np.isin(actions[:, 0], [contract.action_low[0], contract.action_high[0]]).all()  # the gripper
    assert (actions.std(0)[1:] > 0.01).all() == drawn
    learner.policy.requires_grad_(False)
    np.testing.assert_array_equal(np.ptp(learner.policy(observation, goal).numpy(), axis=0), 0.0)


# Learning.


def rewards(bundle: Path) -> float:
    """Mean reward of a policy in `random_choices`."""
    generator = np.random.default_rng(5)
    tool, goal = generator.uniform(-1, 1, (300, 3)).astype(np.float32), generator.uniform(-1, 1, 300)
    policy, best = load_bundle(bundle).policy(), best_action(tool, goal)
    seen = zip(tool, goal, strict=True)
    acts = np.stack([policy.act({"tool_position": t}, np.array([g], np.float32)) for t, g in seen])
    right = np.abs(acts[:, 0] - best[:, 0]) < 1e-6
    return float((0.5 * right - np.abs(acts - best)[:, 1:3].sum(1) / 0.6).mean())


@pytest.fixture(scope="module")
def cloned(contract: Contract, memory: ReplayMemory, tmp_path_factory: pytest.TempPathFactory) -> float:
    out = tmp_path_factory.mktemp("bc")
    return rewards(train(memory, contract, "bc", out, updates=300, overrides=SMALL))


@pytest.mark.parametrize("name", FAMILY)
def test_rewards_teach_what_cloning_cannot(
    name: str, contract: Contract, memory: ReplayMemory, tmp_path: Path, cloned: float
) -> None:
    behaviour = float(memory.reward[memory.transitions].mean())
    overrides = settings(name, learning_rate=3e-3)
    if name in ("cql", "cal_ql", "bear"):
        overrides["policy_learning_rate"] = 3e-3
    learned = rewards(train(memory, contract, name, tmp_path, updates=300, overrides=overrides))
    print(name, learned, cloned, behaviour)
    assert learned > cloned + 0.1 > behaviour


# The recipe.


def small_batches(contract: Contract, count: int) -> list[Batch]:
    batches = [image_data(contract, np.random.default_rng(i), 8) for i in range(count)]
    for batch in batches:
        batch.desired_goal = np.zeros((8, *contract.goal.desired_goal.shape), np.float32)
        batch.extra = {
            "return": np.zeros(8, np.float32),
            "next_action": batch.action[::-1].copy(),
            "has_next": np.ones(8, bool),
        }
    return batches


@pytest.mark.parametrize("task", ["lift", "push", "reach"])
@pytest.mark.parametrize("name", FAMILY)
def test_every_contract_is_learned_continued_and_exported(name: str, task: str, tmp_path: Path) -> None:
    """Images (lift), and states with a goal (push, reach): save, load, continue bit for bit.

    Saving compares what is exported with torch, to 1e-5 of the action's range.
    """
    contract = Contract.load(task)
    statistics = unit_statistics(contract)
    overrides = settings(name, batch_size=8)
    first, second = (make_algorithm(name, contract, statistics, seed=seed, overrides=overrides) for seed in (0, 1))
    batches = small_batches(contract, 4)
    for batch in batches[:2]:
        first.update(batch)
    save_learner(tmp_path / "bundle", first)
    second.load_state_dict(load_bundle(tmp_path / "bundle").state())
    for batch in batches[2:]:
        first.update(batch)
        second.update(batch)
    expected, found = first.state_dict(), second.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor.flatten(), found[key].flatten()) for key, tensor in expected.items())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in expected.values())


@pytest.mark.parametrize("name", FAMILY)
def test_the_same_seed_gives_the_same_bits(name: str, contract: Contract, memory: ReplayMemory, tmp_path: Path) -> None:
    overrides = settings(name, batch_size=16, hidden_size=16)
    weights = [
        load_bundle(train(memory, contract, name, tmp_path / str(i), updates=6, seed=seed, overrides=overrides)).weights
        for i, seed in enumerate((3, 3, 4))
    ]
    assert weights[0] == weights[1] != weights[2]
