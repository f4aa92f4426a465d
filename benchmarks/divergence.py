"""What off-policy learning does with recordings alone: the value it believes in runs away.

    .venv/bin/python benchmarks/divergence.py [--task rl_ros/Push-v0] [--updates 60000] [--quick]

SAC as it learns online is given the bags of `make_datasets.py --environment TASK` and nothing else, beside learners
that were made for recordings. Rewards are -1 a tick and 0 at the goal, so that no value can be above 0 or below
-1 / (1 - γ). Where a critic is asked about actions that nobody took, and the policy seeks those that it overrates,
errors grow from target to target (Fujimoto et al. 2019, 1812.02900, section 3; Kumar et al. 2019, 1906.00949). No
target is clipped. Curves of seed 0 go to `benchmarks/results/divergence.csv`, the plot beside it; policies after the
last update run 100 episodes.

The last line is a JSON object, by algorithm: `q`, mean over the last tenth of the updates, of recorded actions;
`largest_q`, of any of them; and `success` of the policy.
"""

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_datasets import MIXED, ROOT, SAC, no_mixed_bags
from offline_mixed import learned
from plots import plot
from rich.console import Console
from rich.table import Table

from rl_ros.training.online import EVALUATION_SEED
from rl_ros.training.report import read_columns

RESULTS = Path(__file__).parent / "results"
RUNS = Path(__file__).parents[1] / "runs/divergence"
DISCOUNT = 0.98
COMMON = {"batch_size": 256, "hidden_size": 256, "hidden_layers": 2, "discount": DISCOUNT}
ALGORITHMS: dict[str, tuple[dict[str, Any], str]] = {
    "sac": (SAC, "#c2571a"),
    "td3_bc": ({"critic_layer_norm": False}, "#4a8f3c"),
    "iql": ({}, "#7a4fa3"),
}
"""Settings and colour; SAC's settings are those of the paper."""


def learn(task: str, name: str, updates: int, episodes: int, root: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """Updates, Q after each of them, and the success of the last policy."""
    out = RUNS / name
    seeds = range(EVALUATION_SEED, EVALUATION_SEED + episodes)
    success, _ = learned(task, name, 0, updates, seeds, root, out, ALGORITHMS[name][0] | COMMON)
    columns = read_columns(out / "metrics.csv")
    return columns["update"], columns["q"], success


def draw(curves: dict[str, tuple[np.ndarray, np.ndarray, float]], task: str, picture: Path) -> None:
    """Q over updates, and the range within which it can be true."""
    with plot(picture) as axes:
        axes.axhspan(-1.0 / (1.0 - DISCOUNT), 0.0, color="#000000", alpha=0.08, label="what returns can be")
        for name, (updates, q, success) in curves.items():
            axes.plot(updates, q, color=ALGORITHMS[name][1], label=f"{name}, success {success:.2f}")
        axes.set_yscale("symlog", linthresh=100.0)
        axes.set(xlabel="updates", ylabel="mean Q of recorded actions", title=f"recordings of {task}, nothing else")


def main() -> int:
    """Learn, draw, and print; status 1 where there are no recordings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="rl_ros/Push-v0", choices=list(MIXED))
    parser.add_argument("--updates", type=int, default=60_000, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a tiny set, few updates, nothing kept in results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    root, results, updates, episodes = ROOT, RESULTS, options.updates, 100
    if options.quick:
        root, results, updates, episodes = ROOT / "quick", RUNS, 200, 4
    if missing := no_mixed_bags([options.task], root, options.quick):
        print(missing, file=sys.stderr)
        return 1
    curves = {name: learn(options.task, name, updates, episodes, root) for name in ALGORITHMS}
    with (results / "divergence.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["algorithm", "update", "q"])
        for name, (steps, q, _) in curves.items():
            writer.writerows([name, int(step), f"{value:.6g}"] for step, value in zip(steps, q, strict=True))
    draw(curves, options.task, results / "divergence.png")
    table = Table("algorithm", "Q at the end", "largest Q", "success", title=f"from recordings of {options.task}")
    figures = {}
    for name, (_, q, success) in curves.items():
        last = q[-max(1, len(q) // 10) :]
        figures[name] = {"q": float(f"{last.mean():.4g}"), "largest_q": float(f"{q.max():.4g}"), "success": success}
        table.add_row(name, *(f"{value:g}" for value in figures[name].values()))
    Console().print(table)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
