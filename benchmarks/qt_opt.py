"""Success of QT-Opt against the number of grasps that it learned from, on objects it knows and on objects held out.

    .venv/bin/python benchmarks/qt_opt.py --bags BAGS --out DIR [--quick]
        [--grasps 10000] [--updates 20000] [--checkpoints 8] [--episodes 100] [--targets bellman]

Record the bags with `rl_ros collect grasp --grasps 10000 --out BAGS`. It learns from the first `--grasps` of them
offline, writes a bundle after each tenth or so of the updates, and lets the last five grasp: `--episodes` times each on
objects of the training set in scenes never seen, and as often on the held-out ones. What counts is the mean of these
five, not the best. DIR/qt_opt.csv gets a row for each: grasps, updates, checkpoint, success of both. DIR/qt_opt.png
shows the means of all that the CSV has, against the number of grasps: run it with several.

The last line is a JSON object: `grasps`, `updates`, `success` (held out, mean of the last five), `success_training`,
`detector_agreement`.
"""

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from plots import plot
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rl_ros.algorithms.base import dataset_statistics, make_algorithm
from rl_ros.contract import Contract
from rl_ros.episodes.bags import find_bags
from rl_ros.episodes.cache import cache_beside, load_columns
from rl_ros.episodes.memory import ReplayMemory
from rl_ros.episodes.statistics import wilson_interval
from rl_ros.training.bundle import load_bundle, save_learner
from rl_ros.training.grasping import evaluate_grasps
from rl_ros.training.logs import RunLog

LAST = 5
"""Checkpoints whose mean is the result."""
SEEDS: dict[Literal["train", "held_out"], int] = {"train": 1_900_000_000, "held_out": 12345}
"""Of the first episode of each evaluation. Recordings begin at 0, and hold none of the held-out objects."""
BLOCK = 50
"""Updates whose batches are drawn at once."""
COLUMNS = ("targets", "grasps", "updates", "checkpoint", "success_training", "success", "detector_agreement", "ticks")


def memory_of(bags: Path, contract: Contract, grasps: int) -> tuple[ReplayMemory, int]:
    """The first so many grasps of the bags, and how many there are."""
    paths = find_bags(bags)
    dataset = load_columns(paths, contract, cache_beside(bags, paths))
    memory = ReplayMemory(dataset.columns)
    memory.transitions = memory.transitions[memory.episode[memory.transitions] < grasps]
    return memory, min(grasps, len(dataset.episodes))


def checkpoints(
    memory: ReplayMemory, contract: Contract, options: argparse.Namespace, progress: Progress
) -> list[tuple[int, Path]]:
    """Learn, and write a bundle now and then: updates so far, and its directory."""
    statistics = dataset_statistics(memory, contract)
    settings = {"targets": options.targets, **dict(json.loads(options.settings))}
    learner = make_algorithm("qt_opt", contract, statistics, seed=options.seed, overrides=settings)
    rng = np.random.default_rng(options.seed)
    every = options.updates // options.checkpoints
    written: list[tuple[int, Path]] = []
    task = progress.add_task("learning", total=options.updates)
    with RunLog(options.out / "metrics.csv") as log:
        for update in range(0, options.updates, BLOCK):
            rows = memory.transitions[rng.integers(0, len(memory.transitions), (BLOCK, learner.config.batch_size))]
            for batch in learner.batches(memory, rows, rng):
                learner.schedule(learner.updates / options.updates)
                metrics = learner.update(batch)
            progress.update(task, completed=update + BLOCK)
            log.write({"update": update + BLOCK, **{name: float(value) for name, value in metrics.items()}})
            if (update + BLOCK) // every > update // every:
                written.append((update + BLOCK, options.out / f"checkpoint_{len(written) + 1:02d}"))
                save_learner(written[-1][1], learner, {"updates": learner.updates}, policy_alone=True)
    return written


def draw(file: Path, picture: Path, episodes: int) -> None:
    """Success against the number of grasps, on objects known and held out, a pair of lines for each kind of target."""
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    with plot(picture) as axes:
        for colour, targets in zip(
            ("#2a6fbb", "#c2571a", "#4a8f3c"), sorted({row["targets"] for row in rows}), strict=False
        ):
            own = [row for row in rows if row["targets"] == targets]
            counts = sorted({int(row["grasps"]) for row in own})
            for column, style, objects in (("success", "-", "held out"), ("success_training", "--", "known")):
                found = [[float(row[column]) for row in own if int(row["grasps"]) == count] for count in counts]
                trials = [episodes * len(each) for each in found]
                means = [float(np.mean(each)) for each in found]
                bounds = [wilson_interval(round(m * n), n) for m, n in zip(means, trials, strict=True)]
                errors = np.abs(np.transpose(bounds) - means)
                label = f"{targets}, {objects} objects"
                inside = colour if objects == "held out" else "white"
                axes.errorbar(
                    counts, means, errors, color=colour, linestyle=style, marker="o", mfc=inside, capsize=3, label=label
                )
        axes.set(xscale="log", ylim=(0, 1), xlabel="recorded grasps", ylabel="success, mean of the last checkpoints")


def main() -> int:
    """Learn, evaluate, print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bags", type=Path, required=True, help="of `rl_ros collect grasp --grasps`")
    parser.add_argument("--out", type=Path, required=True, help="where bundles and qt_opt.csv go")
    parser.add_argument("--grasps", type=int, default=10_000)
    parser.add_argument("--updates", type=int, default=20_000)
    parser.add_argument("--checkpoints", type=int, default=8)
    parser.add_argument("--episodes", type=int, default=100, help="of each checkpoint and set of objects")
    parser.add_argument("--targets", choices=["bellman", "monte_carlo", "supervised"], default="bellman")
    parser.add_argument("--set", dest="settings", default="{}", help="settings of the algorithm as JSON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="200 updates and 4 episodes")
    options = parser.parse_args()
    if options.quick:
        options.updates, options.episodes, options.checkpoints = 200, 4, 2
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    contract = Contract.load("grasp")
    memory, grasps = memory_of(options.bags, contract, options.grasps)
    rows = []
    with Progress(console=Console(stderr=True)) as progress:
        written = checkpoints(memory, contract, options, progress)[-LAST:]
        task = progress.add_task("grasping", total=2 * len(written) * options.episodes)
        for number, (updates, directory) in enumerate(written, start=options.checkpoints - len(written) + 1):
            found = {}
            for objects, seed in SEEDS.items():
                found[objects] = evaluate_grasps(
                    load_bundle(directory), objects, options.episodes, seed, lambda *_: progress.advance(task)
                )
            agreement = np.mean([each["detector_agreement"] for each in found.values()])
            rows.append(
                {
                    "targets": options.targets,
                    "grasps": grasps,
                    "updates": updates,
                    "checkpoint": number,
                    "success_training": found["train"]["success"],
                    "success": found["held_out"]["success"],
                    "detector_agreement": round(float(agreement), 4),
                    "ticks": found["held_out"]["ticks"],
                }
            )
    table = Table(*COLUMNS, title=f"QT-Opt from {grasps} grasps, offline")
    for row in rows:
        table.add_row(*(str(row[name]) for name in COLUMNS))
    Console().print(table)
    file = options.out / "qt_opt.csv"
    fresh = not file.exists()
    with file.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        if fresh:
            writer.writeheader()
        writer.writerows(rows)
    draw(file, options.out / "qt_opt.png", options.episodes)
    mean = {name: round(float(np.mean([row[name] for row in rows])), 4) for name in COLUMNS[4:7]}
    print(json.dumps({"grasps": grasps, "updates": options.updates, **mean}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
