"""Data sets for offline learning, made by our own SAC: random, medium, medium-replay, medium-expert and expert.

    .venv/bin/python benchmarks/make_datasets.py [--environment NAME] [--train] [--steps N] [--device cuda] [--resume]
                                                 [--quick]

In the manner of D4RL (Fu et al. 2020, 2004.07219): `expert` acts by the last policy, `medium` by the first one that
has come a third of the way from random to expert, both with their noise; `medium-replay` is all that was experienced
up to that policy; `medium-expert` is half of each. Everything follows from the seed. The sets are flat arrays, with
`terminals` and `timeouts`, and the mean returns of random and expert that scores are normalised with.

Both policies of an environment are kept in `benchmarks/policies/`, so that these sets take minutes. `--train` trains
them again, which also makes `medium-replay`; that can be interrupted and gone on with (`--resume`).

Of our own tasks (`--environment rl_ros/Push-v0`) there is one set each, `mixed`: bags of a scripted expert that in
every other episode (reach: in nine of ten) goes for another goal than it was asked for, so that as many of them fail.

The last line is a JSON object: for each environment the mean return of each set; of our tasks the share of successes.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from rl_ros.algorithms.base import Algorithm, make_algorithm
from rl_ros.contract import Contract
from rl_ros.episodes.bags import find_bags
from rl_ros.episodes.cache import DIRECTORY, load_columns
from rl_ros.episodes.exchange.bags import write_bags
from rl_ros.episodes.memory import Columns, Episode, ReplayMemory
from rl_ros.interruptions import interruptions
from rl_ros.networks.layers import DESIRED_GOAL
from rl_ros.tasks.env import ArmEnvironment, make
from rl_ros.tasks.goals import GoalTask
from rl_ros.tasks.task import Values
from rl_ros.training.bundle import load_bundle
from rl_ros.training.logs import RunLog
from rl_ros.training.online import EVALUATION_SEED, SEEDS_A_RUN, Act, OnlineSettings, OnlineTraining
from rl_ros.training.rollouts import Rollouts
from rl_ros.training.runs import restore

ROOT = Path(__file__).parents[1] / "runs/datasets"
POLICIES = Path(__file__).with_name("policies")
"""`medium` and `expert` of each environment."""
ENVIRONMENTS = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
MISTAKEN = {"rl_ros/Reach-v0": 0.9, "rl_ros/Push-v0": 0.5, "rl_ros/PickAndPlace-v0": 0.5}
"""Share of the episodes that go for another goal. A hand that is near a goal is mostly on its way there, so that half
are enough for cloning to reach it."""
MIXED = tuple(MISTAKEN)
"""Our tasks."""
QUALITIES = ("random", "medium", "medium-replay", "medium-expert", "expert")
KEPT = tuple(quality for quality in QUALITIES if quality != "medium-replay")
"""What policies are enough for."""
SAC = {
    "learning_rate": 3e-4,
    "batch_size": 256,
    "hidden_layers": 2,
    "critic_layer_norm": False,
    "vector_limit": 10.0,
    "discount": 0.99,
    "target_rate": 0.005,
    "smallest_reward": None,
    "largest_reward": None,
    "action_penalty": 0.0,
}
"""The paper's (1812.05905, table 1), on standardised observations."""
MEDIUM = 1 / 3
"""Of the way from random to expert."""
CHECKPOINT_SECONDS = 600.0


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    steps: int
    """Of training, for each environment."""
    random_steps: int
    episodes_at_once: int
    """Collected side by side between two rounds of updates."""
    updates_per_step: float
    snapshot_every: int
    """Steps of training between two policies that are kept."""
    snapshot_episodes: int
    """That say how good each of them is."""
    transitions: int
    """In each set, at most."""
    reference_episodes: int
    """For the returns of random and expert."""
    mixed_episodes: int
    """In the set of one of our tasks."""


FULL = Sizes(1_000_000, 10_000, 4, 1.0, 20_000, 10, 100_000, 100, 500)
QUICK = Sizes(1_500, 500, 1, 0.2, 500, 2, 2_000, 3, 10)


class Mistaken:
    """A task's expert that in a share of the episodes goes for another goal than it was asked for.

    Cloning it takes half of the way to each. Errors of its velocities alone would not do: their mean is zero, so that
    the mean of what it did, which is what cloning learns, has none.

    Args:
        task: whose expert it is.
        share: of the episodes.
        noise: scale of the errors of its velocities.
    """

    def __init__(self, task: GoalTask, share: float, noise: float = 1.0) -> None:
        self.task, self.share, self.expert = task, share, task.expert(noise)

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self.expert.reset(seed)
        rng = np.random.default_rng([seed, 0x3C1])
        other = int(rng.integers(2**31))
        self.goal = self.task.goal_vector(self.task.goal_pose(other)) if rng.random() < self.share else None

    def act(self, values: Values, desired_goal: np.ndarray) -> np.ndarray:
        """An action float32 (A,) in the contract's units."""
        return self.expert.act(values, desired_goal if self.goal is None else self.goal)


def make_mixed(name: str, episodes: int, seed: int, out: Path) -> None:
    """Bags of an expert that does what it is asked for in some of the episodes."""
    with Rollouts(partial(make, name), 1) as rollouts:
        arm = rollouts.environment.environment.unwrapped
        assert isinstance(arm, ArmEnvironment)
        seeds = range(seed * SEEDS_A_RUN, seed * SEEDS_A_RUN + episodes)
        mistaken = partial(Mistaken, arm.task, MISTAKEN[name])
        write_bags(rollouts.demonstrate(mistaken, seeds), rollouts.contract, out)


def mixed_bags(name: str, root: Path = ROOT) -> Path:
    """Where the set of one of our tasks is."""
    return root / f"{name.replace('/', '-')}-mixed"


def no_mixed_bags(names: Sequence[str], root: Path, quick: bool) -> str:
    """What to do about the first of these sets that is not there; empty if all are."""
    for name in names:
        if not mixed_bags(name, root).is_dir():
            command = f"benchmarks/make_datasets.py --environment {name}{' --quick' if quick else ''}"
            return f"no recordings of {name}; run {command} first."
    return ""


def load_mixed(bags: Path, contract: Contract) -> tuple[ReplayMemory, float]:
    """Bags as `rl_ros train` reads them, and the share of the episodes that reached what was asked for."""
    dataset = load_columns(find_bags(bags), contract, bags / DIRECTORY)
    success = float(np.mean([episode.outcome == "success" for episode in dataset.episodes]))
    return ReplayMemory(dataset.columns, achieved_goal=contract.goal.achieved_goal), success


def random_actions(contract: Contract, rng: np.random.Generator) -> Act:
    """Uniformly random ones."""
    low, high = contract.action_low, contract.action_high
    return lambda values, goal: rng.uniform(low, high, (len(goal), len(low))).astype(np.float32)


def mean_return(episodes: Sequence[Episode]) -> float:
    """Mean sum of rewards."""
    return float(np.mean([episode.reward.sum() for episode in episodes]))


def train(
    environment: str, sizes: Sizes, seed: int, out: Path, resume: bool, device: str = "cpu"
) -> ReplayMemory | None:
    """Train SAC, keeping a policy every so often with its return in `out/returns.csv`; its memory, None if stopped."""
    with Rollouts(partial(make, environment), sizes.episodes_at_once) as experience, interruptions() as interrupted:
        settings = OnlineSettings(
            steps=sizes.steps,
            episodes_at_once=sizes.episodes_at_once,
            updates_per_step=sizes.updates_per_step,
            random_steps=sizes.random_steps,
            evaluate_every=sizes.snapshot_every,
            evaluation_episodes=1,
        )
        nothing = {"mean": [0.0], "std": [1.0]}
        size = experience.contract.observation["observation"].shape[0]
        normalisation = {"observation": {"mean": [0.0] * size, "std": [1.0] * size}, DESIRED_GOAL: nothing}
        learner = make_algorithm("sac", experience.contract, normalisation, seed=seed, overrides=SAC, device=device)
        resume = resume and (out / "checkpoints").is_dir()
        training = OnlineTraining(learner, experience, settings, seed, out, resume=resume)
        kept = read_returns(out / "returns.csv") if resume else {}
        log = RunLog(out / "returns.csv")
        for steps, value in kept.items():
            if steps <= training.env_steps:  # what came after the checkpoint comes again
                log.write({"env_steps": steps, "return": value})
        saved = time.monotonic()
        while training.env_steps < sizes.steps and not interrupted():
            before = training.env_steps
            training.round()
            after = training.env_steps
            if after // sizes.snapshot_every > before // sizes.snapshot_every or after >= sizes.steps:
                training.export(out / "policies" / str(after))
                seeds = range(EVALUATION_SEED, EVALUATION_SEED + sizes.snapshot_episodes)
                value = mean_return(experience.collect(learner.act, seeds))
                log.write({"env_steps": after, "return": value})
                print(f"{environment}: {after:,} steps, return {value:.0f}, {training.seconds:.0f} s", file=sys.stderr)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                training.save()
                saved = time.monotonic()
        log.close()
        training.save()
        return training.memory if training.env_steps >= sizes.steps else None


def read_returns(file: Path) -> dict[int, float]:
    """Return by steps of training."""
    rows = [line.split(",") for line in file.read_text().splitlines()[1:]]
    return {int(steps): float(value) for steps, value in rows}


def last_policy(training: Path) -> Path:
    """Where a training keeps the last of its policies."""
    return training / "policies" / str(max(read_returns(training / "returns.csv")))


def keep_policies(training: Path, random_return: float, expert_return: float, kept: Path) -> int:
    """Copy the medium and the expert policy of a training to `kept`; returns the steps behind the medium one."""
    returns = read_returns(training / "returns.csv")
    wanted = random_return + MEDIUM * (expert_return - random_return)
    middle = next((steps for steps, value in returns.items() if value >= wanted), max(returns))
    for quality, source in (("medium", training / "policies" / str(middle)), ("expert", last_policy(training))):
        shutil.rmtree(kept / quality, ignore_errors=True)
        shutil.copytree(source, kept / quality)
    return middle


def make_sets(
    environment: str, sizes: Sizes, seed: int, kept: Path, out: Path, trained: tuple[Path, ReplayMemory] | None
) -> None:
    """Act with the policies that are kept, and write the sets.

    Args:
        environment, sizes, seed: what is to be made.
        kept: the directory of the policies.
        out: where the sets will be.
        trained: a training to keep the policies of first, and what it remembers, for `medium-replay`.
    """
    with Rollouts(partial(make, environment), 8) as rollouts:
        references = range(EVALUATION_SEED, EVALUATION_SEED + sizes.reference_episodes)

        def policy(directory: Path) -> Algorithm:
            return restore(load_bundle(directory))

        def acted(act: Act, first: int) -> list[Episode]:
            episodes: list[Episode] = []
            while sum(len(episode.reward) - 1 for episode in episodes) < sizes.transitions:
                begin = first + len(episodes)
                episodes += rollouts.collect(act, range(begin, begin + 8))
            return episodes

        wild = random_actions(rollouts.contract, np.random.default_rng(seed))
        expert = policy(kept / "expert" if trained is None else last_policy(trained[0]))
        random_return = mean_return(rollouts.collect(wild, references))
        expert_return = mean_return(rollouts.collect(expert.act, references))
        sets = {}
        if trained is not None:
            training, memory = trained
            sets["medium-replay"] = remembered(memory, keep_policies(training, random_return, expert_return, kept))
        sets["random"] = flat(acted(wild, 0), sizes.transitions)
        for quality, first in (("medium", 100_000), ("expert", 200_000)):
            sets[quality] = flat(acted(partial(policy(kept / quality).act, exploring=True), first), sizes.transitions)
    half = sizes.transitions // 2
    sets["medium-expert"] = {
        name: np.concatenate([cut(sets[part], half)[name] for part in ("medium", "expert")]) for name in sets["medium"]
    }
    references_of = {"environment": environment, "random_return": random_return, "expert_return": expert_return}
    out.mkdir(parents=True, exist_ok=True)
    for quality, arrays in sets.items():
        columns: dict[str, Any] = references_of | arrays
        np.savez_compressed(out / f"{environment}-{quality}.npz", **columns)


def flat(episodes: Sequence[Episode], transitions: int) -> dict[str, np.ndarray]:
    """Episodes as flat arrays, a row a step, at most so many."""
    return cut(
        {
            "observations": np.concatenate([e.observation["observation"][:-1] for e in episodes]),
            "actions": np.concatenate([e.action[:-1] for e in episodes]),
            "rewards": np.concatenate([e.reward[:-1] for e in episodes]),
            "terminals": np.concatenate([e.terminated[:-1] for e in episodes]),
            "timeouts": np.concatenate([e.truncated[:-1] for e in episodes]),
        },
        transitions,
    )


def remembered(memory: ReplayMemory, steps: int) -> dict[str, np.ndarray]:
    """The first so many transitions of a memory."""
    rows = memory.transitions[:steps]
    arrays = {
        "observations": memory.observation["observation"][rows],
        "actions": memory.action[rows],
        "rewards": memory.reward[rows],
        "terminals": memory.terminated[rows],
        "timeouts": memory.truncated[rows],
    }
    return cut(arrays, steps)


def cut(arrays: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """The first rows; what is cut off within an episode was truncated there."""
    shorter = {name: array[:rows].copy() for name, array in arrays.items()}
    shorter["timeouts"][-1] |= not shorter["terminals"][-1]
    return shorter


def returns_of(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Sum of rewards of each episode."""
    ends = np.flatnonzero(arrays["terminals"] | arrays["timeouts"])
    return np.diff(np.cumsum(arrays["rewards"].astype(np.float64))[ends], prepend=0.0)


def memory_of(arrays: Mapping[str, np.ndarray], reward_scale: float = 1.0) -> ReplayMemory:
    """A set as a replay memory.

    What followed the last step of a truncated episode is not in the set, so no transition begins there; what followed
    a terminated one does not matter, and its last observation stands for it.
    """
    terminal, timeout = arrays["terminals"], arrays["timeouts"]
    index = np.repeat(np.arange(len(terminal)), 1 + terminal)
    repeated = np.append(False, index[1:] == index[:-1])
    has_transition = ~repeated & ~timeout[index]
    ends = np.flatnonzero(repeated | timeout[index])
    return ReplayMemory(
        Columns(
            observation={"observation": arrays["observations"][index].astype(np.float32)},
            auxiliary={},
            desired_goal=np.zeros((len(index), 1), np.float32),
            action=arrays["actions"][index].astype(np.float32),
            reward=(reward_scale * arrays["rewards"][index]).astype(np.float32),
            terminated=terminal[index] & has_transition,
            truncated=np.append(timeout[index][1:], False) & has_transition,
            has_transition=has_transition,
            lengths=np.diff(ends, prepend=-1),
        )
    )


def load(file: Path) -> dict[str, np.ndarray]:
    """A set's arrays."""
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def main() -> int:
    """Make what is not made yet; status 3 where training was stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environment", choices=(*ENVIRONMENTS, *MIXED), help="only this one")
    parser.add_argument("--train", action="store_true", help="train again where policies are kept, for medium-replay")
    parser.add_argument("--steps", type=int, help=f"of training for each (default: {FULL.steps:,})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="to train on, as torch names it (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on with training that was interrupted")
    parser.add_argument("--quick", action="store_true", help="tiny sets of policies that have hardly learned")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = QUICK if options.quick else FULL
    if options.steps:
        sizes = Sizes(**{**vars(sizes), "steps": options.steps})
    out = ROOT / "quick" if options.quick else ROOT
    means: dict[str, dict[str, float]] = {}
    table = Table("environment", *QUALITIES, "mixed", title="mean return of each set; of mixed ones their success")
    for environment in [options.environment] if options.environment else (*MIXED, *ENVIRONMENTS):
        if environment in MIXED:
            bags = mixed_bags(environment, out)
            if not bags.exists():
                make_mixed(environment, sizes.mixed_episodes, options.seed, bags)
            success = load_mixed(bags, make(environment).contract)[1]
            means[environment] = {"mixed": round(success, 3)}
            table.add_row(environment, *[""] * len(QUALITIES), f"{success:.2f}")
            continue
        kept = (out if options.quick else POLICIES) / environment
        trains = options.train or not kept.is_dir()
        files = {q: out / f"{environment}-{q}.npz" for q in (QUALITIES if trains else KEPT)}
        if not all(file.exists() for file in files.values()):
            trained = None
            if trains:
                training = out / f"sac_{environment}_{options.seed}"
                memory = train(environment, sizes, options.seed, training, options.resume, options.device)
                if memory is None:
                    print(f"{environment}: stopped; go on with --resume.", file=sys.stderr)
                    return 3
                trained = training, memory
            make_sets(environment, sizes, options.seed, kept, out, trained)
        means[environment] = {quality: round(float(returns_of(load(f)).mean()), 1) for quality, f in files.items()}
        of_quality = means[environment]
        table.add_row(environment, *(f"{of_quality[q]:.0f}" if q in of_quality else "" for q in QUALITIES), "")
    Console().print(table)
    print(json.dumps(means))
    return 0


if __name__ == "__main__":
    sys.exit(main())
