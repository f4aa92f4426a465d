"""Milliseconds to maximise Q for 256 states at once, and to answer one observation as the robot does.

    .venv/bin/python benchmarks/cem.py [--quick]

`cem_ms_256` is the cross-entropy method with 64 samples and 2 iterations, beyond encoding the images, on two threads;
`encode_ms_256` is encoding them. `act_ms` is one observation through `policy.onnx`, encoding and search together.

The last line is a JSON object: `cem_ms_256`, `encode_ms_256`, `act_ms`.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from rl_ros.algorithms.base import make_algorithm
from rl_ros.algorithms.qt_opt import QPolicy
from rl_ros.contract import Contract
from rl_ros.training.bundle import load_bundle, save_learner

STATES = 256
THREADS = 2
NORMALISATION = {
    "tool_position": {"mean": [0.5, 0.0, 0.1], "std": [0.05, 0.05, 0.05]},
    "tool_orientation": {"mean": [1.0, 0.0, 0.0, 0.0], "std": [0.01, 0.3, 0.01, 0.01]},
    "finger_position": {"mean": [0.02, 0.02], "std": [0.01, 0.01]},
}
"""About what recordings have; the export's check draws its observations from it."""
BARS = {"cem_ms_256": 15.0, "act_ms": 100.0}


def milliseconds(call: Callable[[], object], times: int) -> float:
    """Median over calls; the first is not counted."""
    call()
    found = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        found.append((time.perf_counter() - began) * 1e3)
    return float(np.median(found))


def observations(count: int) -> dict[str, np.ndarray]:
    """Noise for pictures, and hands over the tray."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (count, 64, 64, 3), np.uint8),
        "tool_position": rng.uniform((0.4, -0.1, 0.02), (0.6, 0.1, 0.2), (count, 3)).astype(np.float32),
        "tool_orientation": np.tile(np.array([1.0, 0.0, 0.0, 0.0], np.float32), (count, 1)),
        "finger_position": np.full((count, 2), 0.04, np.float32),
    }


def measure(times: int) -> dict[str, float]:
    """All figures."""
    contract = Contract.load("grasp")
    learner = make_algorithm("qt_opt", contract, NORMALISATION)
    policy = cast(QPolicy, learner.policy)
    seen = {name: torch.from_numpy(value) for name, value in observations(STATES).items()}
    goal = torch.zeros(STATES, 1)
    with torch.no_grad():
        scene = policy.encoder.scene(policy.encoder(seen, goal))
        figures = {
            "cem_ms_256": milliseconds(lambda: policy.search(policy.q, scene), times),
            "encode_ms_256": milliseconds(lambda: policy.encoder(seen, goal), times),
        }
    with tempfile.TemporaryDirectory() as directory:
        bundle = save_learner(Path(directory) / "bundle", learner)
        deployed = load_bundle(bundle).policy()
    one = {name: value[0] for name, value in observations(1).items()}
    figures["act_ms"] = milliseconds(lambda: deployed.act(one, np.zeros(1, np.float32)), 10 * times)
    return figures


def main() -> int:
    """Measure, print a table and the JSON line; status 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer calls")
    torch.set_num_threads(THREADS)
    figures = measure(10 if parser.parse_args().quick else 100)
    table = Table("figure", "ms", "bar", title=f"the cross-entropy method, {STATES} states, 64 samples, 2 iterations")
    for name, value in figures.items():
        table.add_row(name, f"{value:.2f}", str(BARS.get(name, "")))
    Console().print(table)
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))
    return int(any(figures[name] > bar for name, bar in BARS.items()))


if __name__ == "__main__":
    sys.exit(main())
