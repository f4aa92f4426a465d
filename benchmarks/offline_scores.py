"""What offline algorithms make of the same data sets: ours and d3rlpy's, by the return of the last policy.

    .venv/bin/python benchmarks/offline_scores.py [--algorithms td3_bc,iql] [--datasets Hopper-v5-medium] [--quick]
    .venv/bin/python benchmarks/offline_scores.py --summary

Both sides have the same sets (of make_datasets.py), batch size, network sizes and number of updates, and are evaluated
in the same episodes by the same code. A score is 0 for random actions and 100 for the policy behind the expert set; it
is that of the policy after the last update, never of the best one. Each finished row is appended to
`benchmarks/results/offline_scores.csv` (`--quick`: to `runs/`), and rows that are there are not made again.

Settings that are tried (`--settings`) train ours with seeds from 100 on and see other episodes, so that none is chosen
by what is reported; their rows are kept in `runs/`.

The last line is a JSON object: by algorithm and side the interquartile mean over sets and seeds, with its interval.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from make_datasets import ROOT, load, mean_return, memory_of, returns_of
from rich.console import Console
from rich.table import Table
from rows import append, read

from rl_ros.episodes.statistics import interquartile_mean
from rl_ros.tasks.env import make
from rl_ros.training.bundle import load_bundle
from rl_ros.training.offline import train
from rl_ros.training.online import EVALUATION_SEED, Act
from rl_ros.training.rollouts import Rollouts
from rl_ros.training.runs import restore

RESULTS = Path(__file__).parent / "results/offline_scores.csv"
RUNS = Path(__file__).parents[1] / "runs/offline_scores"
PEER_PYTHON = Path(__file__).parents[1] / ".venv-bench/bin/python"
PEER = Path(__file__).with_name("peers_scores.py")
SIDES = ("ours", "d3rlpy")
TUNING_SEED = 100
"""The first seed of what is tried."""
BATCH = 256
COMMON = {"batch_size": BATCH, "hidden_size": 256, "hidden_layers": 2}
PLAIN = {"weight_decay": 0.0, "schedule": "constant", "average_rate": 1.0}
"""What the defaults of a training of minutes have beside the papers'."""
OURS: dict[str, dict[str, Any]] = {
    "awac": {},
    "bc": {**PLAIN, "learning_rate": 1e-3},
    "bcq": {},
    "bear": {},
    "cql": {},
    "crr": {},
    "iql": {
        **PLAIN,
        "schedule": "cosine",
        "warm_up": 0.0,
        "learning_rate": 3e-4,
        "discount": 0.99,
        "expectile": 0.7,
        "temperature": 3.0,
        "target_rate": 0.005,
    },
    "rebrac": {},
    "sac": {"learning_rate": 3e-4, "discount": 0.99, "target_rate": 0.005, "action_penalty": 0.0}
    | {"smallest_reward": None, "largest_reward": None},
    "td3_bc": {},
}
"""Settings other than the defaults, which are the papers'; both sides have all of these algorithms."""
SCALED_RETURNS = {"iql"}
"""Algorithms whose paper multiplies rewards by 1000 over the range of the returns (2110.06169, appendix B)."""


class Row(NamedTuple):
    """One line of the results."""

    algorithm: str
    side: str
    dataset: str
    seed: int
    updates: int
    episodes: int
    mean_return: float
    last_score: float


def learn_ours(
    name: str,
    file: Path,
    seed: int,
    updates: int,
    scale: float,
    rollouts: Rollouts,
    device: str,
    tried: Mapping[str, Any],
) -> Act:
    """Learn with ours; the run is kept, for `rl_ros compare` and `rl_ros doctor`."""
    run = RUNS / file.stem / f"{name}_{seed}"
    memory = memory_of(load(file), scale)
    settings = {**COMMON, **OURS[name], **tried}
    bundle = train(
        memory,
        rollouts.contract,
        name,
        run,
        seed=seed,
        updates=updates,
        overrides=settings,
        held_out=0.0,
        device=device,
    )
    return restore(load_bundle(bundle)).act


@contextmanager
def learned_by_peer(name: str, file: Path, seed: int, updates: int, scale: float, device: str) -> Iterator[Act]:
    """Learn with d3rlpy in a process of its own, which then answers observations."""
    command = [str(PEER_PYTHON), str(PEER), str(file), name, *map(str, (seed, updates, BATCH, scale)), device]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said)
        assert process.stdin is not None and process.stdout is not None
        pipe_in, pipe_out = process.stdin, process.stdout
        if not pipe_out.readline():
            process.wait()
            said.seek(0)
            raise RuntimeError(f"d3rlpy's {name} failed: {said.read().decode().strip()[-500:]}")

        def act(values: Any, goal: np.ndarray) -> np.ndarray:
            seen = np.ascontiguousarray(values["observation"], np.float32)
            pipe_in.write(np.int32(len(seen)).tobytes() + seen.tobytes())
            pipe_in.flush()
            count = len(seen) * action_size
            return np.frombuffer(pipe_out.read(4 * count), np.float32).reshape(len(seen), action_size)

        with np.load(file, allow_pickle=False) as arrays:
            action_size = arrays["actions"].shape[1]
        try:
            yield act
        finally:
            pipe_in.close()
            process.wait()


def score(
    side: str,
    name: str,
    file: Path,
    seed: int,
    updates: int,
    episodes: int,
    device: str,
    tried: Mapping[str, Any],
) -> Row:
    """Learn and evaluate; settings that are tried are ours alone, and see episodes of their own."""
    arrays = load(file)
    scale = 1.0
    if name in SCALED_RETURNS:
        returns = returns_of(arrays)
        scale = 1000.0 / max(float(returns.max() - returns.min()), 1e-6)
    first = EVALUATION_SEED + (episodes if tried else 0)
    seeds = range(first, first + episodes)
    with Rollouts(partial(make, str(arrays["environment"])), min(episodes, 10)) as rollouts:
        if side == "ours":
            act = learn_ours(name, file, seed, updates, scale, rollouts, device, tried)
            found = mean_return(rollouts.collect(act, seeds))
        else:
            with learned_by_peer(name, file, seed, updates, scale, device) as act:
                found = mean_return(rollouts.collect(act, seeds))
    low, high = float(arrays["random_return"]), float(arrays["expert_return"])
    last = 100.0 * (found - low) / (high - low)
    return Row(name, side, file.stem, seed, updates, episodes, round(found, 3), round(last, 3))


def interval(scores: Sequence[np.ndarray], resamples: int = 2000) -> tuple[float, ...]:
    """Interquartile mean of the scores of all sets and its 95 % interval; seeds are resampled within each set.

    One seed says nothing of how much others would differ, and there is no interval.
    """
    middle = float(interquartile_mean(np.concatenate(scores)))
    if max(map(len, scores)) == 1:
        return (middle,)
    rng = np.random.default_rng(0)
    drawn = [of_set[rng.integers(0, len(of_set), (resamples, len(of_set)))] for of_set in scores]
    low, high = np.percentile(interquartile_mean(np.concatenate(drawn, axis=1)), [2.5, 97.5])
    return middle, float(low), float(high)


def summarise(rows: Iterable[Row]) -> dict[str, dict[str, list[float]]]:
    """Print scores by set, and the interquartile means over the sets that both sides have; returns the latter."""
    rows = list(rows)
    table = Table("algorithm", "set", *SIDES, title="last scores, mean over seeds")
    figures: dict[str, dict[str, list[float]]] = {}
    for name in sorted({row.algorithm for row in rows}):
        of_side = {side: [row for row in rows if (row.algorithm, row.side) == (name, side)] for side in SIDES}
        present = [side for side in SIDES if of_side[side]]
        shared = sorted(set.intersection(*({row.dataset for row in of_side[side]} for side in present)))
        scores = {
            side: {
                dataset: np.array([row.last_score for row in of_side[side] if row.dataset == dataset])
                for dataset in sorted({row.dataset for row in rows if row.algorithm == name})
            }
            for side in SIDES
        }
        for dataset in scores[SIDES[0]]:
            found = (scores[side][dataset] for side in SIDES)
            cells = (f"{each.mean():.1f}" if len(each) else "" for each in found)
            table.add_row(name, dataset.replace("-v5-", " "), *cells)
        middles = {side: interval([scores[side][dataset] for dataset in shared]) for side in present}
        figures[name] = {side: [round(value, 2) for value in middles[side]] for side in present}
        forms = {0: "", 1: "{:.1f} (one seed)", 3: "{:.1f} ({:.1f}-{:.1f})"}
        cells = (forms[len(found)].format(*found) for found in (middles.get(side, ()) for side in SIDES))
        table.add_row(name, f"IQM of {len(shared)} (95 %)", *cells, end_section=True)
    Console().print(table)
    return figures


def main() -> int:
    """Make the rows that are missing, and summarise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--algorithms", default=",".join(OURS), help="separated by commas (default: all)")
    parser.add_argument("--datasets", help="separated by commas, without .npz (default: all that are made)")
    parser.add_argument("--sides", default=",".join(SIDES), help="ours, d3rlpy or both (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=100_000, help="default: %(default)s")
    parser.add_argument("--episodes", type=int, default=20, help="of each evaluation (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="of both sides, as torch names it (default: %(default)s)")
    parser.add_argument("--settings", default="{}", help="JSON, to try with ours; see above")
    parser.add_argument("--quick", action="store_true", help="two algorithms, a tiny set, few updates")
    parser.add_argument("--summary", action="store_true", help="only summarise what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tried = json.loads(options.settings)
    sets, results, first_seed = ROOT, RESULTS, 0
    if tried:
        results, first_seed, options.sides = RUNS / "tried.csv", TUNING_SEED, "ours"
    if options.quick:
        sets, results = ROOT / "quick", RUNS / "quick.csv"
        options.algorithms, options.seeds, options.updates, options.episodes = "bc,td3_bc", 1, 200, 2
        options.datasets = options.datasets or "Hopper-v5-medium"
    names = options.datasets.split(",") if options.datasets else sorted(f.stem for f in sets.glob("*.npz"))
    if not options.summary:
        rows = {row[:5] for row in read(Row, results)}
        for seed in range(first_seed, first_seed + options.seeds):
            for dataset in names:
                for algorithm in options.algorithms.split(","):
                    for side in options.sides.split(","):
                        if not tried and (algorithm, side, dataset, seed, options.updates) in rows:
                            continue
                        if side == "d3rlpy" and not PEER_PYTHON.exists():
                            print("d3rlpy is not installed; `make bench-setup` does it.", file=sys.stderr)
                            continue
                        began = time.monotonic()
                        file = sets / f"{dataset}.npz"
                        numbers = seed, options.updates, options.episodes
                        row = score(side, algorithm, file, *numbers, options.device, tried)
                        append(results, row)
                        print(*row, f"{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    found = [row for row in read(Row, results) if row.updates == options.updates]
    print(json.dumps(summarise(found) if found else {}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
