"""Offline learners beside behaviour cloning, on bags of an expert that fails in every other episode.

    .venv/bin/python benchmarks/offline_mixed.py [--tasks rl_ros/Push-v0] [--algorithms bc iql] [--seeds N]
                                                 [--device cuda] [--quick]
    .venv/bin/python benchmarks/offline_mixed.py --summary

The bags are those of `make_datasets.py --environment TASK`. Every learner sees the same ones, with goals as they were
asked for and the task's reward, -1 a tick and 0 at the goal; batch size, network sizes and number of updates are the
same, and the policy after the last update counts. Each policy runs 100 episodes of seeds that no recording has. A
finished row is appended to `benchmarks/results/offline_mixed.csv`, and rows that are there are not made again.

The last line is a JSON object: by task the recordings' success, if they are there, and by algorithm the success over
all seeds with its 95 % interval (Wilson).
"""

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from make_datasets import MIXED, ROOT, load_mixed, mixed_bags, no_mixed_bags
from rich.console import Console
from rich.table import Table
from rows import append, read

from rl_ros.episodes.statistics import wilson_interval
from rl_ros.tasks.env import make
from rl_ros.training.bundle import load_bundle
from rl_ros.training.offline import train
from rl_ros.training.online import EVALUATION_SEED
from rl_ros.training.rollouts import Rollouts
from rl_ros.training.runs import restore

RESULTS = Path(__file__).parent / "results/offline_mixed.csv"
RUNS = Path(__file__).parents[1] / "runs/offline_mixed"
COMMON = {"batch_size": 256, "hidden_size": 256, "hidden_layers": 2, "learning_rate": 1e-3}
VALUES = {"discount": 0.97, "target_rate": 0.02}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "bc": {},
    "iql": VALUES,
    "td3_bc": {**VALUES, "alpha": 1.0, "critic_layer_norm": False},
    "awac": VALUES,
    "cql": {
        **VALUES,
        "policy_learning_rate": 1e-3,
        "conservative_weight": 1.0,
        "samples": 4,
        "critic_layer_norm": False,
    },
}
"""Settings other than the defaults; found with training seed 100, which is not reported."""
OF_TASK: dict[str, dict[str, dict[str, Any]]] = {
    "rl_ros/PickAndPlace-v0": {"td3_bc": {"alpha": 0.3, "critic_layer_norm": True}},
}
"""What a task needs beside them, found likewise."""
AT_LIMITS = {"rl_ros/PickAndPlace-v0": ["gripper"]}
"""Channels of an action that are recorded at their limits only: all learn from a contract that says so."""
UPDATES = {"rl_ros/Reach-v0": 2_000, "rl_ros/Push-v0": 5_000, "rl_ros/PickAndPlace-v0": 20_000}
"""Of every algorithm: what is hard takes longer."""


class Row(NamedTuple):
    """One line of the results."""

    task: str
    algorithm: str
    seed: int
    updates: int
    episodes: int
    success: float
    training_seconds: float


def learned(
    task: str,
    name: str,
    seed: int,
    updates: int,
    seeds: range,
    root: Path,
    run: Path,
    overrides: dict[str, Any],
    device: str = "cpu",
) -> tuple[float, float]:
    """Learn from a task's set, and evaluate: the last policy's success in episodes of `seeds`, seconds of training."""
    with Rollouts(partial(make, task), 4) as rollouts:
        contract = rollouts.contract.with_discrete(AT_LIMITS.get(task, ()))
        memory, _ = load_mixed(mixed_bags(task, root), contract)
        began = time.monotonic()
        bundle = train(
            memory,
            contract,
            name,
            run,
            seed=seed,
            updates=updates,
            overrides=overrides,
            held_out=0.0,
            device=device,
        )
        seconds = time.monotonic() - began
        found = rollouts.collect(restore(load_bundle(bundle)).act, seeds)
    return float(np.mean([episode.success for episode in found])), seconds


def score(
    task: str, name: str, seed: int, updates: int, episodes: int, root: Path, settings: dict[str, Any], device: str
) -> Row:
    """A row of the results; settings that are tried see episodes of their own."""
    first = EVALUATION_SEED + (episodes if settings else 0)
    run = RUNS / task.replace("/", "-") / f"{name}_{seed}"
    overrides = COMMON | ALGORITHMS[name] | OF_TASK.get(task, {}).get(name, {}) | settings
    success, seconds = learned(task, name, seed, updates, range(first, first + episodes), root, run, overrides, device)
    return Row(task, name, seed, updates, episodes, success, round(seconds, 1))


def summarise(rows: list[Row], root: Path) -> dict[str, dict[str, Any]]:
    """Print and return successes by task and algorithm."""
    table = Table("task", "algorithm", "success", "95 % interval", "by seed", title="policies after the last update")
    figures: dict[str, dict[str, Any]] = {}
    for task in sorted({row.task for row in rows}):
        figures[task] = {}
        shown, bags = "not here", mixed_bags(task, root)
        if bags.is_dir():
            recorded = load_mixed(bags, make(task).contract)[1]
            figures[task]["recorded_success"] = round(recorded, 3)
            shown = f"{recorded:.3f}"
        table.add_row(task, "the recordings", shown, "", "")
        for name in ALGORITHMS:
            mine = [row for row in rows if (row.task, row.algorithm) == (task, name)]
            if mine:
                trials = sum(row.episodes for row in mine)
                successes = sum(round(row.success * row.episodes) for row in mine)
                low, high = wilson_interval(successes, trials)
                figures[task][name] = [round(successes / trials, 4), round(low, 4), round(high, 4)]
                by_seed = " ".join(f"{row.success:.2f}" for row in mine)
                table.add_row("", name, f"{successes / trials:.3f}", f"{low:.3f} to {high:.3f}", by_seed)
    Console().print(table)
    return figures


def main() -> int:
    """Make the rows that are missing, and summarise; status 1 where a set is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(MIXED), choices=list(MIXED), metavar="NAME")
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS), choices=list(ALGORITHMS), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--updates", type=int, help="default: what the task takes")
    parser.add_argument("--device", default="cpu", help="to learn on, as torch names it (default: %(default)s)")
    parser.add_argument("--settings", default="{}", help="JSON, to try: in other episodes, not kept in results/")
    parser.add_argument("--quick", action="store_true", help="tiny sets, few updates, nothing kept in results/")
    parser.add_argument("--summary", action="store_true", help="only summarise what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings, episodes = json.loads(options.settings), 100
    updates = {task: options.updates or UPDATES[task] for task in options.tasks}
    root, results = (ROOT, RESULTS) if not settings else (ROOT, RUNS / "tried.csv")
    if options.quick:
        root, results, episodes, options.seeds = ROOT / "quick", RUNS / "quick.csv", 4, [0]
        updates = dict.fromkeys(options.tasks, 100)
    missing = "" if options.summary else no_mixed_bags(options.tasks, root, options.quick)
    if missing:
        print(missing, file=sys.stderr)
        return 1
    known = [] if settings else read(Row, results)
    rows = [row for row in known if row.updates == updates.get(row.task)]
    if not options.summary:
        for seed in options.seeds:
            for task in options.tasks:
                for name in options.algorithms:
                    if (task, name, seed) in {row[:3] for row in rows}:
                        continue
                    row = score(task, name, seed, updates[task], episodes, root, settings, options.device)
                    append(results, row)
                    rows.append(row)
                    print(*row, file=sys.stderr, flush=True)
    print(json.dumps(summarise(rows, root)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
