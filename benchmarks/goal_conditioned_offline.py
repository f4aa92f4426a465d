"""Success at pushing of goal-conditioned learners that see nothing but bags of mixed quality.

    .venv/bin/python benchmarks/goal_conditioned_offline.py [--quick] [--bags DIR]

Nobody asked for anything in them: a hand plays for ten seconds. It pushes towards some place on the table, with
velocities that are off by little or by as much as it moves at, forgets about it after one or two seconds, wanders
about, and pushes towards another. Where it led to is known, and little else; much of it came about by detours, which
cloning in hindsight repeats. All learners see the same episodes, with the same networks, batches, updates and learning
rate, and the policy of the last update is the one that counts.

Each learner is trained with three seeds, and each policy runs 100 episodes of `rl_ros/Push-v0`, of seeds that no
recording has; an episode is a success if the object is within 5 cm of the goal at its end. Results go to
`benchmarks/results/goal_conditioned_offline.csv`. The last line is a JSON object: for each algorithm `success`, its 95
% interval (Wilson, over all episodes) and the success of each seed.
"""

import argparse
import csv
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_datasets import load_mixed
from rich.console import Console
from rich.table import Table

from rl_ros.episodes.exchange.bags import write_bags
from rl_ros.episodes.memory import Episode
from rl_ros.episodes.statistics import wilson_interval
from rl_ros.tasks.env import ContractEnvironment, make
from rl_ros.tasks.push import CENTRE, SPREAD, Push
from rl_ros.tasks.task import Values
from rl_ros.training.bundle import load_bundle
from rl_ros.training.offline import train
from rl_ros.training.rollouts import Rollouts

ALGORITHMS = ("gcbc", "gcsl", "wgcsl", "gciql", "gcivl", "hiql")
TASK = "rl_ros/Push-v0"
UPDATES, LEARNING_RATE = 8000, 1e-3
SETTINGS: dict[str, dict[str, Any]] = {
    "gciql": {"policy_goals": "geometric_future", "discount": 0.95, "temperature": 0.3}
}
"""Other than the defaults, of episodes that go from one thing to another; found with training seed 100 and episodes of
seeds from 3,000,000, which are none of those reported."""
RESULTS = Path(__file__).parent / "results" / "goal_conditioned_offline.csv"
EVALUATION_SEED = 1_000_000
"""Far from the seeds of the recordings."""
NOISE = 0.5, 2.5
"""Of the expert: tenths of a metre a second, where it moves at 0.3 m/s at most."""
TICKS = 200
"""Of a recorded episode: ten seconds."""


class Play:
    """Pushes towards places of its own choice, a few seconds each, and wanders about in between."""

    SPEED = 0.3

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self.rng = np.random.default_rng([seed, 2])
        self.ticks = 0

    def act(self, values: Values, desired_goal: np.ndarray) -> np.ndarray:
        """Velocity float32 (3,) m/s; the goal that was asked for does not matter."""
        if self.ticks == 0:
            self.ticks = int(self.rng.integers(6, 24))
            self.wanders = self.rng.random() < 0.4
            self.place = np.array(CENTRE) + [*self.rng.uniform(-SPREAD, SPREAD, 2), 0.0]
            self.expert = Push().expert(self.rng.uniform(*NOISE))
            self.expert.reset(int(self.rng.integers(2**31)))
            self.velocity = self.rng.uniform(-self.SPEED, self.SPEED, 3)
        self.ticks -= 1
        if not self.wanders:
            return self.expert.act(values, self.place)
        self.velocity = np.clip(self.velocity + self.rng.normal(0.0, 0.1, 3), -self.SPEED, self.SPEED)
        if not 0.02 < values["tool_position"][2] < 0.12:
            self.velocity[2] = 0.1 if values["tool_position"][2] < 0.1 else -0.1
        return self.velocity.astype(np.float32)


def playground() -> ContractEnvironment:
    """The task, with more time."""
    environment = make(TASK)
    environment.contract = replace(environment.contract, episode_length=TICKS)
    environment.episode_length = TICKS
    return environment


def record(episodes: int) -> list[Episode]:
    """Play; the seed of each episode is its number."""
    with Rollouts(playground, 1) as rollouts:
        return rollouts.demonstrate(Play, range(episodes))


def success_of(environment: ContractEnvironment, bundle: Path, episodes: int) -> int:
    """Episodes that the policy ends with the object at the goal."""
    policy, successes = load_bundle(bundle).policy(), 0
    for seed in range(EVALUATION_SEED, EVALUATION_SEED + episodes):
        environment.reset(seed)
        success = False
        for _ in range(environment.episode_length):
            _, _, _, success = environment.step(policy.act(environment.values, environment.desired_goal))
        successes += success
    return successes


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a few episodes and updates, nothing is learned")
    parser.add_argument("--bags", type=Path, metavar="DIR", help="where recordings are kept; made if it is not there")
    parser.add_argument("--algorithms", nargs="+", default=ALGORITHMS, choices=ALGORITHMS, metavar="NAME")
    options = parser.parse_args()
    recordings, updates, seeds, evaluations = (20, 100, 1, 4) if options.quick else (300, UPDATES, 3, 100)
    torch.set_num_threads(1)
    console = Console()
    environment = make(TASK)
    successes: dict[str, list[int]] = {name: [] for name in options.algorithms}
    with tempfile.TemporaryDirectory() as temporary:
        bags = options.bags or Path(temporary) / "bags"
        if not bags.exists():
            write_bags(record(recordings), environment.contract, bags)
        memory, _ = load_mixed(bags, environment.contract)
        console.print(f"{len(memory)} transitions")
        results = Path(temporary) / RESULTS.name if options.quick else RESULTS
        with results.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["algorithm", "seed", "updates", "episodes", "success", "training_seconds"])
            for seed in range(seeds):
                for name in options.algorithms:
                    began = time.monotonic()
                    run = Path(temporary) / f"{name}_{seed}"
                    settings = {"learning_rate": LEARNING_RATE, **SETTINGS.get(name, {})}
                    bundle = train(
                        memory, environment.contract, name, run, seed=seed, updates=updates, overrides=settings
                    )
                    seconds = time.monotonic() - began
                    successes[name].append(success_of(environment, bundle, evaluations))
                    rate = successes[name][-1] / evaluations
                    writer.writerow([name, seed, updates, evaluations, f"{rate:.4f}", f"{seconds:.1f}"])
                    file.flush()
                    console.print(f"{name}, seed {seed}: {rate:.2f} after {seconds:.0f} s of training")
    environment.close()

    summary: dict[str, Any] = {}
    table = Table("algorithm", "success", "95 % interval", "by seed")
    for name, found in successes.items():
        trials = evaluations * len(found)
        low, high = wilson_interval(sum(found), trials)
        by_seed = [count / evaluations for count in found]
        summary[name] = {
            "success": round(sum(found) / trials, 4),
            "success_95": [round(low, 4), round(high, 4)],
            "by_seed": by_seed,
        }
        table.add_row(name, f"{sum(found) / trials:.3f}", f"{low:.3f} to {high:.3f}", " ".join(map(str, by_seed)))
    console.print(table)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
