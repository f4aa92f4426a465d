"""Losses against arithmetic done by hand, gradients only where they belong, and learning itself."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rl_ros.algorithms.base import dataset_statistics, make_algorithm
from rl_ros.algorithms.bc import cloning_loss
from rl_ros.algorithms.iql import critic_loss, policy_loss, value_loss
from rl_ros.contract import Contract, Key
from rl_ros.episodes.memory import Batch, Episode, ReplayMemory
from rl_ros.errors import UserError
from rl_ros.networks.critics import StackedCritic
from rl_ros.networks.layers import PatchEncoder, move_towards, shift_images
from rl_ros.networks.policies import ActionDistribution, ActionLayout
from rl_ros.training.bundle import load_bundle
from rl_ros.training.offline import split_episodes, train

REACH = """
format: 1
name: reach
task: reach
control_rate: 10.0
episode_length: 10
frame: base
reference: tool_position
observation:
  tool_position: {topic: /tool/pose, type: geometry_msgs/msg/PoseStamped, field: pose.position, shape: [3], unit: m}
action:
  gripper:
    {topic: /g, type: sensor_msgs/msg/JointState, field: position, names: [g], shape: [1], low: [0.0], high: [0.04],
     unit: m, discrete: true}
  linear_velocity:
    {topic: /v, type: geometry_msgs/msg/TwistStamped, field: twist.linear, shape: [3], unit: m/s,
     low: [-0.3, -0.3, 0.0], high: [0.3, 0.3, 0.3]}
goal:
  desired_goal: {topic: /goal, type: sensor_msgs/msg/JointState, field: position, names: [h], shape: [1], unit: m}
"""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def contract() -> Contract:
    return Contract.from_yaml(REACH, "reach.yaml")


def episode(tool: np.ndarray, goal: float, action: np.ndarray, reward: np.ndarray, terminated: bool) -> Episode:
    """An episode of len(tool) ticks; action and reward have one row fewer."""
    ticks = len(tool)
    last = np.arange(ticks) == ticks - 2
    return Episode(
        stamps=np.arange(ticks, dtype=np.int64),
        observation={"tool_position": tool.astype(np.float32)},
        auxiliary={},
        desired_goal=np.full((ticks, 1), goal, np.float32),
        action=np.concatenate([action, np.zeros((1, 4))]).astype(np.float32),
        reward=np.append(reward, 0.0).astype(np.float32),
        terminated=last & terminated,
        truncated=last & (not terminated),
        has_transition=np.arange(ticks) < ticks - 1,
        outcome="success" if terminated else "timeout",
        seed=0,
        source="",
    )


def best_action(tool: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """What `random_choices` rewards: to follow the tool's first two coordinates, and the sign of the goal."""
    return np.stack([0.04 * (goal > 0), 0.2 * tool[..., 0], 0.2 * tool[..., 1], np.full_like(goal, 0.15)], axis=-1)


def random_choices(episodes: int = 1500) -> ReplayMemory:
    """Episodes of one random action each, rewarded by how near it came to the best one."""
    generator = np.random.default_rng(1)
    made = []
    for _ in range(episodes):
        tool, goal = generator.uniform(-1, 1, (2, 3)), generator.uniform(-1, 1)
        action = np.array([generator.choice([0.0, 0.04]), *generator.uniform([-0.3, -0.3, 0], 0.3)])
        best = best_action(tool[0], np.array(goal))
        reward = 0.5 * (action[0] == best[0]) - np.abs(action[1:3] - best[1:3]).sum() / 0.6
        made.append(episode(tool, goal, action[None], np.array([reward]), terminated=True))
    return ReplayMemory(made)


@pytest.fixture(scope="module")
def memory() -> ReplayMemory:
    return random_choices()


# The losses.


def test_value_loss_is_the_expectile_of_equation_5() -> None:
    # Differences 1 and -2: 0.9 * 1 and 0.1 * 4, whose mean is 0.65.
    loss = value_loss(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 3.0]), expectile=0.9)
    assert loss.item() == pytest.approx(0.65)


def test_value_loss_is_least_at_the_expectile() -> None:
    q = torch.tensor([0.0, 1.0])
    value = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.SGD([value], lr=0.5)
    for _ in range(100):
        optimiser.zero_grad()
        torch.autograd.backward(value_loss(q, value.expand(2), expectile=0.8))
        optimiser.step()
    assert value.item() == pytest.approx(0.8, abs=1e-4)  # 0.8 (1 - v) = 0.2 v


def test_critic_loss_bootstraps_past_truncation_but_not_past_termination() -> None:
    q = torch.tensor([[1.0, 1.0], [2.0, 0.0]])
    # Terminated: target 1. Otherwise, as after a truncation: 0 + 0.5 * 4 = 2.
    loss = critic_loss(q, torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]), torch.tensor([4.0, 4.0]), discount=0.5)
    assert loss.item() == pytest.approx((0 + 1) / 2 + (1 + 4) / 2)


def test_policy_loss_weighs_by_advantage_up_to_its_limit() -> None:
    log_probability = torch.tensor([-1.0, -2.0, -1.0])
    advantage = torch.tensor([0.0, math.log(2.0), 1000.0])
    loss = policy_loss(log_probability, advantage, temperature=1.0)
    assert loss.item() == pytest.approx((1 * 1 + 2 * 2 + 100 * 1) / 3)
    assert policy_loss(log_probability, advantage, temperature=0.0) == cloning_loss(log_probability)


def test_log_probability_is_gaussian_and_bernoulli(contract: Contract) -> None:
    layout = ActionLayout(contract)  # entry 0 is the gripper
    distribution = ActionDistribution(mean=torch.tensor([[0.0, 0.5, 0.0]]), logits=torch.tensor([[math.log(3.0)]]))
    action = layout.scale(torch.tensor([[0.04, 0.3, 0.15, 0.15]]))
    assert torch.allclose(action, torch.tensor([[1.0, 1.0, 0.5, 0.0]]), atol=1e-6)
    found = layout.log_probability(distribution, action, std=0.5)
    assert found.item() == pytest.approx(-0.5 * (1.0 / 0.5) ** 2 + math.log(0.75), rel=1e-5)


def test_the_most_likely_action_keeps_its_order_and_limits(contract: Contract) -> None:
    layout = ActionLayout(contract)
    distribution = ActionDistribution(
        mean=torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]]), logits=torch.tensor([[0.1], [-0.1]])
    )
    expected = np.array([[0.04, 0.3, -0.3, 0.15], [0.0, 0.0, 0.0, 0.3]], np.float32)
    np.testing.assert_array_equal(layout.most_likely(distribution).numpy()[:, 0], expected[:, 0])
    np.testing.assert_allclose(layout.most_likely(distribution).numpy(), expected, atol=1e-7)


# Networks.


def test_stacked_critics_are_independent_networks() -> None:
    critic = StackedCritic(2, 5, 8)
    x, weights = torch.randn(7, 5), dict(critic.named_parameters())
    together = critic(x[:, :3], x[:, 3:])
    assert together.shape == (2, 7)
    for i in range(2):
        first, second, last = ((weights[f"layers.{n}.weight"][i], weights[f"layers.{n}.bias"][i]) for n in range(3))
        y = torch.relu(critic.norms[0](x @ first[0] + first[1]))
        y = torch.relu(critic.norms[1](y @ second[0] + second[1])) @ last[0] + last[1]
        torch.testing.assert_close(together[i], y[:, 0])


@pytest.mark.parametrize("shape", [(64, 64, 3), (50, 61, 1), (8, 8, 3)])
def test_the_encoder_takes_any_image(shape: tuple[int, int, int]) -> None:
    image = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    assert PatchEncoder(shape, 16)(image).shape == (2, 16)


def test_shifts_repeat_the_edge() -> None:
    image = torch.randint(0, 256, (2, 9, 7, 3), dtype=torch.uint8)
    for seed in range(30):
        found = shift_images(image, 2, torch.Generator().manual_seed(seed)).numpy()
        down, right = torch.randint(-2, 3, (2,), generator=torch.Generator().manual_seed(seed)).tolist()
        rows, columns = (np.arange(9) - down).clip(0, 8), (np.arange(7) - right).clip(0, 6)
        np.testing.assert_array_equal(found, image.numpy()[:, rows][:, :, columns])
    assert shift_images(image, 0, torch.Generator()) is image


def test_move_towards() -> None:
    target, source = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.constant_(target.weight, 1.0)
    nn.init.constant_(source.weight, 3.0)
    move_towards(target, source, 0.25)
    assert target.weight.item() == 1.5


# The algorithms.


def gradients(networks: nn.Module) -> set[str]:
    """The top-level networks that any gradient reached."""
    return {n.split(".")[0] for n, p in networks.named_parameters() if p.grad is not None and bool(p.grad.any())}


@pytest.mark.parametrize(
    ("only", "reached"), [("value_loss", {"value"}), ("critic_loss", {"critic"}), ("policy_loss", {"policy"})]
)
def test_each_loss_of_iql_moves_its_own_network(
    contract: Contract, memory: ReplayMemory, monkeypatch: pytest.MonkeyPatch, only: str, reached: set[str]
) -> None:
    learner = make_algorithm("iql", contract, dataset_statistics(memory, contract))
    for name, loss in (("value_loss", value_loss), ("critic_loss", critic_loss), ("policy_loss", policy_loss)):
        if name != only:
            monkeypatch.setattr(f"rl_ros.algorithms.iql.{name}", lambda *a, loss=loss: 0.0 * loss(*a))
    learner.update(memory.take(memory.transitions[:64]))
    assert gradients(learner.networks) == reached


def test_only_the_running_rate_moves_the_target_critic(contract: Contract, memory: ReplayMemory) -> None:
    learner = make_algorithm("iql", contract, dataset_statistics(memory, contract), overrides={"target_rate": 0.5})
    before = {n: p.clone() for n, p in learner.networks["target_critic"].named_parameters()}
    learner.update(memory.take(memory.transitions[:64]))
    after = dict(learner.networks["critic"].named_parameters())
    for name, parameter in learner.networks["target_critic"].named_parameters():
        assert parameter.grad is None
        torch.testing.assert_close(parameter, (before[name] + after[name]) / 2)


def test_iql_learns_from_rewards_what_bc_cannot(contract: Contract, memory: ReplayMemory, tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    tool, goal = generator.uniform(-1, 1, (200, 3)).astype(np.float32), generator.uniform(-1, 1, 200)
    best = best_action(tool, goal)
    error, right = {}, {}
    for name in ("bc", "iql"):
        bundle = train(memory, contract, name, tmp_path / name, updates=600, overrides={"hidden_size": 64})
        policy = load_bundle(bundle).policy()
        acts = [policy.act({"tool_position": t}, np.array([g], np.float32)) for t, g in zip(tool, goal, strict=True)]
        error[name] = np.abs(np.stack(acts) - best)[:, 1:3].mean()
        right[name] = (np.stack(acts)[:, 0] == best[:, 0].astype(np.float32)).mean()
    assert error["iql"] < 0.6 * error["bc"]
    assert right["iql"] > 0.85 > right["bc"]


def test_iql_values_fall_with_the_distance_to_the_reward(contract: Contract, tmp_path: Path) -> None:
    tool = np.stack([np.linspace(-1, 1, 6), np.zeros(6), np.zeros(6)], axis=1)
    memory = ReplayMemory([episode(tool, 0.0, np.zeros((5, 4)), np.array([0, 0, 0, 0, 1.0]), terminated=True)] * 4)
    learner = make_algorithm(
        "iql",
        contract,
        dataset_statistics(memory, contract),
        overrides={"discount": 0.5, "target_rate": 0.05, "hidden_size": 32},
    )
    generator = np.random.default_rng(0)
    for update in range(800):
        learner.schedule(update / 800)
        learner.update(memory.take(memory.sample(generator, 32)))
    batch = memory.take(memory.transitions[:5])
    with torch.no_grad():
        features = learner.policy.encoder(
            {"tool_position": torch.from_numpy(batch.observation["tool_position"])}, torch.zeros(5, 1)
        )
        value = learner.networks["value"](features)[0].numpy()
    np.testing.assert_allclose(value, 0.5 ** np.arange(4, -1, -1), atol=0.05)


def test_the_gripper_of_a_batch_of_one_kind_does_not_matter(contract: Contract, memory: ReplayMemory) -> None:
    learner = make_algorithm("bc", contract, dataset_statistics(memory, contract))
    rows = memory.transitions[memory.action[memory.transitions, 0] > 0][:8]
    assert all(math.isfinite(float(value)) for value in learner.update(memory.take(rows)).values())


# The recipe.


def image_data(contract: Contract, generator: np.random.Generator, size: int = 32) -> Batch:
    """Random transitions of any contract."""

    def draw(keys: dict[str, Key]) -> dict[str, np.ndarray]:
        return {
            name: generator.integers(0, 256, (size, *key.shape)).astype(np.uint8)
            if key.dtype == "uint8"
            else generator.normal(size=(size, *key.shape)).astype(key.dtype)
            for name, key in keys.items()
        }

    action = generator.uniform(contract.action_low, contract.action_high, (size, len(contract.action_low)))
    discrete = contract.action_discrete
    action[:, discrete] = np.where(action[:, discrete] > 0.5, contract.action_high[discrete], 0.0)
    return Batch(
        observation=draw(contract.observation),
        next_observation=draw(contract.observation),
        auxiliary=draw(contract.auxiliary),
        desired_goal=np.zeros((size, 1), np.float32),
        action=action.astype(np.float32),
        reward=np.zeros(size, np.float32),
        terminated=np.zeros(size, bool),
        truncated=np.zeros(size, bool),
    )


def unit_statistics(contract: Contract) -> dict[str, dict[str, list[float]]]:
    keys = contract.observation | contract.auxiliary | {"desired_goal": contract.goal.desired_goal}
    return {
        name: {"mean": [0.0] * math.prod(key.shape), "std": [1.0] * math.prod(key.shape)}
        for name, key in keys.items()
        if key.dtype != "uint8"
    }


@pytest.mark.parametrize("name", ["bc", "iql"])
def test_a_loaded_state_continues_bit_for_bit(name: str) -> None:
    contract = Contract.load("lift")
    first, second = (make_algorithm(name, contract, unit_statistics(contract), seed=s) for s in (0, 1))
    batches = [image_data(contract, np.random.default_rng(i)) for i in range(6)]
    for batch in batches[:3]:
        first.update(batch)
    second.load_state_dict({k: v.numpy() for k, v in first.state_dict().items()})
    for batch in batches[3:]:
        first.update(batch)
        second.update(batch)
    expected, found = first.state_dict(), second.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_auxiliary_values_teach_and_never_enter() -> None:
    contract = Contract.load("lift")
    learner = make_algorithm("bc", contract, unit_statistics(contract))
    assert "auxiliary_loss" in learner.update(image_data(contract, np.random.default_rng(0)))
    assert set(learner.policy.encoder.vectors) == {"tool_position", "finger_position"}
    without = make_algorithm("bc", contract, unit_statistics(contract), overrides={"auxiliary_weight": 0.0})
    assert "auxiliary_loss" not in without.update(image_data(contract, np.random.default_rng(0)))


def test_what_hardly_varies_is_not_blown_up(contract: Contract) -> None:
    tool = np.array([[0.0, 0.3, 0.0], [0.2, 0.3, 2e-5], [0.4, 0.3, 4e-5]])
    statistics = dataset_statistics(
        ReplayMemory([episode(tool, 0.0, np.zeros((2, 4)), np.zeros(2), terminated=True)]), contract
    )
    np.testing.assert_allclose(statistics["tool_position"]["std"], [np.std([0.0, 0.2, 0.4]), 1.0, 1e-3], rtol=1e-6)


def test_a_foreign_state_is_refused(contract: Contract, memory: ReplayMemory) -> None:
    statistics = dataset_statistics(memory, contract)
    state = make_algorithm("bc", contract, statistics).state_dict()
    with pytest.raises(UserError, match="do not fit a iql"):
        make_algorithm("iql", contract, statistics).load_state_dict(state)


@pytest.mark.parametrize("name", ["bc", "iql"])
def test_the_same_seed_gives_the_same_bits(name: str, contract: Contract, memory: ReplayMemory, tmp_path: Path) -> None:
    weights = [
        load_bundle(train(memory, contract, name, tmp_path / str(i), updates=30, seed=seed)).weights
        for i, seed in enumerate((3, 3, 4))
    ]
    assert weights[0] == weights[1] != weights[2]


def test_training_logs_and_keeps_to_its_time(contract: Contract, memory: ReplayMemory, tmp_path: Path) -> None:
    seen: list[int] = []
    train(
        memory, contract, "bc", tmp_path, seconds=0.5, progress=lambda n, _: seen.append(n), source_episodes=["a", "b"]
    )
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert header == "update,seconds,policy_loss,validation_policy_loss"
    assert [int(row.split(",")[0]) for row in rows] == seen
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.metrics["seconds"] == pytest.approx(0.5, abs=0.2)
    assert bundle.metrics["updates"] == seen[-1]
    assert bundle.source_episodes == ("a", "b")


def test_episodes_are_held_out_whole(memory: ReplayMemory) -> None:
    training, validation = split_episodes(memory, np.random.default_rng(0))
    assert not set(memory.episode[training]) & set(memory.episode[validation])
    assert len(training) + len(validation) == len(memory)
    assert 0 < len(validation) < 0.05 * len(memory)


def test_mistakes_are_named(contract: Contract, memory: ReplayMemory, tmp_path: Path) -> None:
    statistics = dataset_statistics(memory, contract)
    with pytest.raises(UserError, match="no algorithm is named 'dqn'; there are: .*bc, .*iql"):
        make_algorithm("dqn", contract, statistics)
    with pytest.raises(UserError, match="unknown key 'expectile'"):
        make_algorithm("bc", contract, statistics, overrides={"expectile": 0.9})
    with pytest.raises(UserError, match="a number"):
        make_algorithm("iql", contract, statistics, overrides={"expectile": "high"})
    bounds = {
        "batch_size": (-3, "expected a finite number above 0, got -3"),
        "image_shift": (-1, "expected a finite number of at least 0, got -1"),
        "image_features": (0, "above 0"),
        "learning_rate": (-1, "above 0"),
        "hidden_size": (0, "above 0"),
        "average_rate": (0, "above 0 and at most 1"),
        "warm_up": (2, "at least 0 and at most 1"),
        "weight_decay": (float("inf"), "finite"),
    }
    for name in ("bc", "gciql", "brac"):  # the last two have bounds of their own as well
        for setting, (value, sentence) in bounds.items():
            with pytest.raises(UserError, match=f"{name} settings: {setting}: .*{sentence}"):
                make_algorithm(name, contract, statistics, overrides={setting: value})
    with pytest.raises(UserError, match="of the episodes held out no episode is left to train on"):
        train(memory, contract, "bc", tmp_path, updates=1, held_out=0.99999)
    for budget in ({}, {"seconds": 1.0, "updates": 1}, {"updates": 0}, {"seconds": -1.0}):
        with pytest.raises(UserError, match="give one of them"):
            train(memory, contract, "bc", tmp_path, **budget)
