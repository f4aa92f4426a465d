"""Share of a training step that goes into loading: behaviour cloning at batch 256 of 64x64 images.

    .venv/bin/python benchmarks/loader.py [--quick]

Each step takes a batch from a replay memory of images and makes one update of the real algorithm with it, on one
thread, as `rl_ros train` does. The last line is a JSON object: `stall_share`, `load_ms`, `step_ms`.
"""

import argparse
import json
import sys
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from rl_ros.algorithms.base import dataset_statistics, make_algorithm
from rl_ros.contract import Contract
from rl_ros.episodes.allocation import keep_freed_memory
from rl_ros.episodes.memory import Columns, ReplayMemory

BATCH, LENGTH, BAR = 256, 40, 0.05


def make_memory(contract: Contract, episodes: int) -> ReplayMemory:
    """Random data of the contract's shapes."""
    rng = np.random.default_rng(0)
    rows = episodes * (LENGTH + 1)
    last = np.arange(1, rows + 1) % (LENGTH + 1) == 0
    low, high = contract.action_low, contract.action_high
    action = rng.uniform(low, high, (rows, len(low))).astype(np.float32)
    discrete = contract.action_discrete
    action[:, discrete] = np.where(rng.random((rows, discrete.sum())) < 0.5, low[discrete], high[discrete])
    columns = {
        name: rng.integers(0, 256, (rows, *key.shape), np.uint8)
        if key.dtype == "uint8"
        else rng.random((rows, *key.shape), np.float32)
        for name, key in (contract.observation | contract.auxiliary).items()
    }
    return ReplayMemory(
        Columns(
            observation={name: columns[name] for name in contract.observation},
            auxiliary={name: columns[name] for name in contract.auxiliary},
            desired_goal=rng.random((rows, *contract.goal.desired_goal.shape), np.float32),
            action=action,
            reward=np.zeros(rows, np.float32),
            terminated=np.zeros(rows, bool),
            truncated=np.roll(last, -1),
            has_transition=~last,
            lengths=np.full(episodes, LENGTH + 1),
        )
    )


def main() -> int:
    """Measure, print a table and the JSON line; status 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller memory and fewer steps")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    keep_freed_memory()
    contract = Contract.load("lift")
    memory = make_memory(contract, 100 if quick else 1500)
    learner = make_algorithm("bc", contract, dataset_statistics(memory, contract))
    rng = np.random.default_rng(0)
    steps, warm_up = (20, 3) if quick else (150, 10)
    loading, whole = [], []
    for rows in memory.sample(rng, (warm_up + steps, BATCH)):
        began = time.perf_counter()
        batch = memory.take(rows)
        loaded = time.perf_counter()
        learner.update(batch)
        loading.append(loaded - began)
        whole.append(time.perf_counter() - began)
    load, step = (float(np.sum(times[warm_up:])) / steps * 1e3 for times in (loading, whole))
    figures = {"stall_share": round(load / step, 4), "load_ms": round(load, 3), "step_ms": round(step, 2)}
    table = Table("figure", "value", "bar", title=f"batch {BATCH} of 64x64 images from {len(memory):,} transitions")
    for name, value in figures.items():
        table.add_row(name, str(value), str(BAR) if name == "stall_share" else "")
    Console().print(table)
    print(json.dumps(figures))
    return int(figures["stall_share"] > BAR)


if __name__ == "__main__":
    sys.exit(main())
