"""Learning online: hindsight solves what is hopeless without it, and an interrupted run is the run."""

import copy
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from rl_ros.algorithms.base import Algorithm, Transitions, make_algorithm
from rl_ros.algorithms.ddpg import DeterministicPolicyGradientConfig, bellman_target, critic_loss, value_range
from rl_ros.contract import Contract
from rl_ros.episodes.distance import DistanceReward
from rl_ros.episodes.hindsight import Hindsight, relabelled_share
from rl_ros.episodes.memory import Episode
from rl_ros.errors import UserError
from rl_ros.networks.layers import move_towards
from rl_ros.networks.policies import Policy
from rl_ros.training.bundle import load_bundle
from rl_ros.training.checkpoint import load_checkpoint
from rl_ros.training.online import Act, OnlineSettings, OnlineTraining

BITS = 15


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def contract_of(size: int, length: int, actions: int) -> Contract:
    """`bits` seen and to be achieved, and an action of numbers from -1 to 1."""

    def vector(name: str, n: int) -> dict[str, Any]:
        names = [f"{name}_{i}" for i in range(n)]
        return {
            "topic": f"/{name}", "type": "sensor_msgs/msg/JointState", "field": "position", "names": names, "shape": [n]
        }  # fmt: skip

    return Contract.from_dict(
        {
            "format": 1, "name": "bits", "task": "bits", "control_rate": 10.0, "episode_length": length,
            "frame": "base", "reference": "bits", "observation": {"bits": vector("bits", size)},
            "action": {"flip": vector("flip", actions) | {"low": [-1.0] * actions, "high": [1.0] * actions}},
            "goal": {"desired_goal": vector("goal", size), "achieved_goal": "bits"},
        },
        "bits",
    )  # fmt: skip


class BitFlips:
    """The bit flip task of 1707.01495, section 3.1: each action flips one bit, and all are to be as in the goal.

    The action has a number for each bit, and flips the one whose number is largest; what is recorded is that choice.
    Bits are -1 and 1.
    """

    def __init__(self, bits: int = BITS) -> None:
        self.bits = bits
        self.contract = contract_of(bits, bits, bits)

    @staticmethod
    def compute_reward(achieved_goal: np.ndarray, desired_goal: np.ndarray) -> np.ndarray:
        return np.where((achieved_goal == desired_goal).all(-1), 0.0, -1.0).astype(np.float32)

    def collect(self, act: Act, seeds: Sequence[int]) -> list[Episode]:
        draws = [np.random.default_rng(seed) for seed in seeds]
        state, goal = (
            np.stack([rng.choice([-1.0, 1.0], self.bits) for rng in draws]).astype(np.float32) for _ in range(2)
        )
        seen, done = [state], []
        for _ in range(self.bits):
            chosen = act({"bits": seen[-1]}, goal).argmax(1)
            flip = -np.ones_like(state)
            flip[np.arange(len(seeds)), chosen] = 1.0
            done.append(flip)
            seen.append(seen[-1] * -flip)
        rewards = [self.compute_reward(state, goal) for state in seen[1:]]
        last = np.arange(self.bits + 1) == self.bits - 1
        return [
            Episode(
                stamps=np.arange(self.bits + 1),
                observation={"bits": np.stack([state[i] for state in seen])},
                auxiliary={},
                desired_goal=np.tile(goal[i], (self.bits + 1, 1)),
                action=np.stack([*(flip[i] for flip in done), np.zeros(self.bits, np.float32)]),
                reward=np.array([*(reward[i] for reward in rewards), 0.0], np.float32),
                terminated=np.zeros(self.bits + 1, bool),
                truncated=last,
                has_transition=np.arange(self.bits + 1) < self.bits,
                outcome="success" if max(reward[i] for reward in rewards) == 0.0 else "timeout",
                seed=int(seed),
                source="",
            )
            for i, seed in enumerate(seeds)
        ]


class GreedyPolicy(Policy):
    """Flips the bit of the largest of its values, one for each."""

    def values(self, features: torch.Tensor) -> torch.Tensor:
        return self.actor(features)

    def choice(self, values: torch.Tensor) -> torch.Tensor:
        return 2.0 * nn.functional.one_hot(values.argmax(1), values.shape[1]) - 1.0

    def forward(self, observation: Mapping[str, torch.Tensor], desired_goal: torch.Tensor) -> torch.Tensor:
        return self.choice(self.values(self.encoder(observation, desired_goal)))


class DeepQLearning(Algorithm):
    """What section 4.1 of 1707.01495 learns bit flips with: Q(s, a) for each of a few actions (Mnih et al. 2015)."""

    name = "dqn"
    config_type = DeterministicPolicyGradientConfig
    policy_type = GreedyPolicy
    config: DeterministicPolicyGradientConfig

    def build(self) -> dict[str, nn.Module]:
        networks = super().build()
        networks["target"] = copy.deepcopy(cast(Policy, networks["policy"]).actor).requires_grad_(False)
        return networks

    def loss(self, batch: Transitions, features: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with torch.no_grad():
            following = self.trained_policy.encoder(batch.next_observation, batch.desired_goal)
            value = self.networks["target"](following).amax(1)
            target = bellman_target(batch.reward, batch.terminated, value, self.config.discount)
            target = target.clamp(*value_range(-1.0, 0.0, self.config.discount))
        q = cast(GreedyPolicy, self.trained_policy).values(features)[batch.action > 0]
        loss = critic_loss(q[None], target)
        return loss, {"critic_loss": loss.detach()}

    @torch.no_grad()
    def explore(self, observation: Mapping[str, torch.Tensor], desired_goal: torch.Tensor) -> torch.Tensor:
        policy, generator = cast(GreedyPolicy, self.trained_policy), self._generator
        values = policy.values(policy.encoder(observation, desired_goal))
        random = torch.rand(values.shape, generator=generator)
        chosen = torch.rand(len(values), 1, generator=generator) < self.config.random_share
        return policy.choice(torch.where(chosen, random, values))

    def after_update(self) -> None:
        move_towards(self.networks["target"], self.trained_policy.actor, self.config.target_rate)


BIT_SETTINGS: dict[str, Any] = {
    "hidden_size": 128, "hidden_layers": 1, "batch_size": 128, "learning_rate": 3e-3, "target_rate": 0.05,
    "vector_limit": 0.0, "random_share": 0.2,
}  # fmt: skip
FLIP_STEPS = 12_000


def flip_learner(task: BitFlips, seed: int = 0) -> DeepQLearning:
    unit = {name: {"mean": [0.0] * task.bits, "std": [1.0] * task.bits} for name in ("bits", "desired_goal")}
    return DeepQLearning(task.contract, unit, DeterministicPolicyGradientConfig(**BIT_SETTINGS), seed)


def test_fifteen_bits_are_flipped_with_hindsight_and_not_without(tmp_path: Path) -> None:
    task = BitFlips()
    success = {}
    for name, share in (("with", relabelled_share(4)), ("without", 0.0)):
        algorithm = flip_learner(task)
        algorithm.hindsight = Hindsight({"future": share}, task.compute_reward)
        settings = OnlineSettings(
            steps=FLIP_STEPS, updates_per_step=0.2, random_steps=600, episodes_at_once=20, evaluate_every=FLIP_STEPS
        )
        training = OnlineTraining(algorithm, task, settings, 0, tmp_path / name)
        assert training.run(checkpoint_every=None)
        success[name] = training.success
    assert success["with"] > 0.8
    assert success["without"] < 0.1


class Line:
    """A point on a line that moves by up to 0.1 a step towards a goal, as an actor-critic can learn in seconds."""

    LENGTH = 8

    def __init__(self) -> None:
        self.contract = contract_of(2, self.LENGTH, 2)
        self.collected: list[int] = []

    reward = DistanceReward("penalty", tolerance=0.1)

    def collect(self, act: Act, seeds: Sequence[int]) -> list[Episode]:
        self.collected += seeds
        place, goal = (
            np.stack([np.random.default_rng([seed, part]).uniform(-0.4, 0.4, 2) for seed in seeds]).astype(np.float32)
            for part in (0, 1)
        )
        seen, done = [place], []
        for _ in range(self.LENGTH):
            done.append(act({"bits": seen[-1]}, goal))
            seen.append(seen[-1] + np.float32(0.15) * done[-1])
        rewards = np.stack([self.reward(place, goal) for place in seen[1:]] + [np.zeros(len(seeds), np.float32)])
        ticks = self.LENGTH + 1
        last = np.arange(ticks) == ticks - 2
        return [
            Episode(
                stamps=np.arange(ticks),
                observation={"bits": np.stack([place[i] for place in seen])},
                auxiliary={},
                desired_goal=np.tile(goal[i], (ticks, 1)),
                action=np.stack([*(action[i] for action in done), np.zeros(2, np.float32)]),
                reward=rewards[:, i],
                terminated=np.zeros(ticks, bool),
                truncated=last,
                has_transition=np.arange(ticks) < ticks - 1,
                outcome="success" if rewards[-2, i] == 0.0 else "timeout",
                seed=int(seed),
                source="",
            )
            for i, seed in enumerate(seeds)
        ]


UNKNOWN = {name: {"mean": [0.0] * 2, "std": [1.0] * 2} for name in ("bits", "desired_goal")}
LOOP: dict[str, Any] = {"random_steps": 64, "capacity": 300, "evaluate_every": 128, "evaluation_episodes": 10}


def line_training(out: Path, name: str = "ddpg", resume: bool = False, **changes: Any) -> OnlineTraining:
    """A short run, whose memory is full before it ends."""
    line = Line()
    settings = {"hidden_size": 16, "batch_size": 32} | changes.pop("overrides", {})
    algorithm = make_algorithm(name, line.contract, UNKNOWN, seed=changes.pop("seed", 0), overrides=settings)
    algorithm.hindsight = Hindsight({"future": 0.8}, line.reward)
    loop = OnlineSettings(**{"steps": 640} | LOOP | changes)
    shown = line.collect(lambda values, goal: np.clip(5 * (goal - values["bits"]), -1, 1), range(5))
    return OnlineTraining(algorithm, line, loop, 0, out, demonstrations=shown, resume=resume)


def curve(out: Path) -> list[list[str]]:
    """The rows of the CSV, but for seconds."""
    rows = [line.split(",") for line in (out / "progress.csv").read_text().splitlines()]
    assert rows[0][2] == "seconds"
    return [row[:2] + row[3:] for row in rows]


@pytest.mark.parametrize("name", ["ddpg", "td3", "sac"])
def test_a_run_in_pieces_is_the_run_bit_for_bit(name: str, tmp_path: Path) -> None:
    whole = line_training(tmp_path / "whole", name)
    whole.run(checkpoint_every=None)

    for rounds in (3, 4):
        piece = line_training(tmp_path / "pieces", name, resume=rounds == 4)
        for _ in range(rounds):
            piece.round()
        piece.save()
        piece.round()  # what comes after the last checkpoint is lost with the power
    last = line_training(tmp_path / "pieces", name, resume=True)
    assert last.env_steps == 7 * 8 * Line.LENGTH
    assert last.run(checkpoint_every=None)

    expected, found = whole.algorithm.state_dict(), last.algorithm.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert curve(tmp_path / "pieces") == curve(tmp_path / "whole")
    assert len(curve(tmp_path / "whole")) == 1 + 640 // 128


def test_an_interrupt_leaves_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    training = line_training(tmp_path)
    collect = training.experience.collect

    def interrupted(act: Act, seeds: Sequence[int]) -> list[Episode]:
        if training.env_steps == 192:
            signal.raise_signal(signal.SIGTERM)
        return collect(act, seeds)

    training.experience.collect = interrupted  # type: ignore[method-assign]
    before = signal.getsignal(signal.SIGTERM)
    assert not training.run()
    assert signal.getsignal(signal.SIGTERM) is before, "handlers are put back"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["256"]
    assert line_training(tmp_path, resume=True).env_steps == 256


def test_only_the_newest_checkpoint_is_kept_and_a_half_written_one_is_none(tmp_path: Path) -> None:
    training = line_training(tmp_path)
    for _ in range(2):
        training.round()
        training.save()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["128"]
    unfinished = tmp_path / "checkpoints" / ".unfinished-x"
    unfinished.mkdir()
    assert load_checkpoint(tmp_path / "checkpoints").values["counters"]["env_steps"] == 128
    training.save()
    assert not unfinished.exists()


def test_what_cannot_be_resumed_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint"):
        line_training(tmp_path, resume=True)
    line_training(tmp_path).save()
    with pytest.raises(UserError, match="this run has batch_size 32, not 16"):
        line_training(tmp_path, resume=True, overrides={"batch_size": 16})
    (tmp_path / "checkpoints" / "0" / "values.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        line_training(tmp_path, resume=True)


def test_experience_and_evaluation_have_seeds_of_their_own(tmp_path: Path) -> None:
    training = line_training(tmp_path)
    line = training.experience
    assert isinstance(line, Line)
    line.collected.clear()
    training.run(checkpoint_every=None)
    experience = [seed for seed in line.collected if seed < 1_000_000_000]
    assert len(set(experience)) == len(experience) == training.episodes == 640 // Line.LENGTH
    assert len(set(line.collected) - set(experience)) == 10, "the same ones at each evaluation"
    assert training.env_steps == 640, "evaluation is not experience"


def test_the_policy_sees_what_was_measured_of_the_data(tmp_path: Path) -> None:
    training = line_training(tmp_path, capacity=10_000)
    training.run(checkpoint_every=None)
    seen = [training.memory.observation["bits"][training.memory.episode >= 0]]
    assert training.demonstrations is not None
    seen.append(training.demonstrations.observation["bits"])
    found = training.algorithm.policy.encoder.vectors["bits"]
    np.testing.assert_allclose(found.mean, np.concatenate(seen).mean(0), atol=1e-4)
    np.testing.assert_allclose(found.std, np.concatenate(seen).std(0), atol=1e-4)


def test_demonstrations_have_their_share_of_each_batch(tmp_path: Path) -> None:
    training = line_training(tmp_path, demonstration_share=0.25)
    batches = []
    update = training.algorithm.update
    training.algorithm.update = lambda batch: batches.append(batch) or update(batch)  # type: ignore[assignment, func-returns-value, method-assign]
    for _ in range(3):
        training.round()
    assert batches
    shown = training.demonstrations.action  # type: ignore[union-attr]
    for batch in batches:
        assert batch.demonstration.sum() == 8
        assert all((shown == action).all(1).any() for action in batch.action[batch.demonstration])


@pytest.mark.parametrize("name", ["gcsl", "gciql", "hiql", "latent_plans"])
def test_what_chooses_its_own_goals_learns_online_and_from_demonstrations(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl_ros.algorithms.base.WARM_UP_UPDATES", 50)
    training = line_training(tmp_path, name)
    assert training.run(checkpoint_every=None)
    algorithm, rng = training.algorithm, np.random.default_rng(0)
    before = copy.deepcopy(algorithm.trained_policy.actor)
    [batch] = algorithm.batches(training.memory, training.memory.sample(rng, (1, 32)), rng)
    algorithm.update(batch)
    # A step of Adam is about as long as the learning rate, which in the first update is a three hundredth of it.
    moved = [
        (now - then).abs().max()
        for now, then in zip(algorithm.trained_policy.actor.parameters(), before.parameters(), strict=True)
    ]
    assert max(moved) > 0.1 * algorithm.config.learning_rate


def test_rewards_that_an_algorithm_is_not_set_for_end_learning_with_a_sentence(tmp_path: Path) -> None:
    training = line_training(tmp_path)
    training.algorithm.hindsight = None
    training.reward = DistanceReward("success", 5.0)
    with pytest.raises(UserError, match=r"ddpg: rewards from \S+ to 1 are not between .* largest_reward 0.0"):
        training.run(checkpoint_every=None)


def test_an_episode_in_which_nothing_moved_is_seldom_remembered(tmp_path: Path) -> None:
    made = Line().collect(lambda values, goal: goal, range(64))
    places = [np.zeros((9, 2), np.float32), np.linspace(0, 1, 18, dtype=np.float32).reshape(9, 2)]
    for i, episode in enumerate(made):
        episode.observation["bits"] = places[i % 2]

    class Given:
        def collect(self, act: Act, seeds: Sequence[int]) -> list[Episode]:
            return made

    for kept, expected in ((0.0, 33), (1.0, 64)):  # the very first is remembered in any case
        training = line_training(tmp_path / str(kept), kept_still=kept, capacity=10_000)
        training.experience = Given()
        training.round()
        assert len(np.unique(training.memory.episode[training.memory.episode >= 0])) == expected
        assert training.env_steps == 64 * Line.LENGTH


def test_a_run_learns_and_its_bundle_is_the_policy(tmp_path: Path) -> None:
    training = line_training(
        tmp_path, steps=1_600, capacity=10_000, evaluate_every=1_600, evaluation_episodes=50,
        overrides={"hidden_size": 32, "batch_size": 64, "hidden_layers": 2},
    )  # fmt: skip
    training.run(checkpoint_every=None)
    assert training.success > 0.9
    bundle = load_bundle(training.export(tmp_path / "bundle"))
    assert bundle.metrics["success"] == training.success
    values, goal = np.array([0.1, -0.3], np.float32), np.array([0.0, 0.2], np.float32)
    answer = training.algorithm.act({"bits": values[None]}, goal[None])[0]
    np.testing.assert_allclose(bundle.policy().act({"bits": values}, goal), answer, atol=1e-5)
