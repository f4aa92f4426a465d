"""Milliseconds for a batch of 256 transitions from a memory of a million, plain and with HER; peers in the same run.

    .venv/bin/python benchmarks/sampling.py [--quick]

A transition is 25 numbers of observation and 3 of position, as many of the next observation, 4 of action, 3 of goal,
reward, terminated and truncated. Our batches are drawn and taken sixteen at a time, and the time of a batch includes
all of that; the peers draw one at a time, as they offer nothing else. They need `make bench-setup`.

The last line is a JSON object: `plain_ms`, `her_ms`, `sb3_her_ms`, `d3rlpy_ms`.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from rl_ros.episodes.hindsight import Hindsight, relabelled_share
from rl_ros.episodes.memory import Columns, ReplayMemory

BATCH, LENGTH, OBSERVATION, ACTION, GOAL = 256, 50, 25, 4, 3
AT_ONCE = 16
"""Batches of a block."""
BARS = {"plain_ms": 0.03, "her_ms": 0.08}
PEER_PYTHON = Path(__file__).parents[1] / ".venv-bench/bin/python"


def make_memory(transitions: int) -> ReplayMemory:
    """Random episodes of 50 transitions."""
    rng = np.random.default_rng(0)
    episodes = transitions // LENGTH
    rows = episodes * (LENGTH + 1)
    last = np.arange(1, rows + 1) % (LENGTH + 1) == 0
    observation = {
        "state": rng.random((rows, OBSERVATION), np.float32),
        "position": rng.random((rows, GOAL), np.float32),
    }
    return ReplayMemory(
        Columns(
            observation=observation,
            auxiliary={},
            desired_goal=rng.random((rows, GOAL), np.float32),
            action=rng.random((rows, ACTION), np.float32),
            reward=rng.random(rows, np.float32),
            terminated=np.zeros(rows, bool),
            truncated=np.roll(last, -1),
            has_transition=~last,
            lengths=np.full(episodes, LENGTH + 1),
        ),
        achieved_goal="position",
    )


def compute_reward(achieved_goal: np.ndarray, desired_goal: np.ndarray) -> np.ndarray:
    """0 within 5 cm, else -1, as in the Fetch tasks."""
    difference = achieved_goal - desired_goal
    return -(np.vecdot(difference, difference) > 0.05**2).astype(np.float32)


def milliseconds(block: Callable[[], None], blocks: int) -> float:
    """Median over blocks of batches, per batch."""
    times = []
    for _ in range(blocks):
        began = time.perf_counter()
        block()
        times.append((time.perf_counter() - began) / AT_ONCE * 1e3)
    return float(np.median(times))


def ours(transitions: int, blocks: int) -> dict[str, float]:
    """Our two figures."""
    memory, rng = make_memory(transitions), np.random.default_rng(0)
    hindsight = Hindsight({"future": relabelled_share(4)}, compute_reward)

    def plain() -> None:
        block = memory.take(memory.sample(rng, (AT_ONCE, BATCH)))
        for index in range(AT_ONCE):
            block[index]

    def her() -> None:
        rows = memory.sample(rng, (AT_ONCE, BATCH))
        block = hindsight.relabel(memory, rows, hindsight.goal_rows(rng, memory, rows), rng)
        for index in range(AT_ONCE):
            block[index]

    return {"plain_ms": milliseconds(plain, blocks), "her_ms": milliseconds(her, blocks)}


def peers(transitions: int, samples: int) -> dict[str, float | None]:
    """The peers' figures, from a process of their own; None where they are not installed."""
    if not PEER_PYTHON.exists():
        print("the peers are not installed; `make bench-setup` does it.", file=sys.stderr)
        return {"sb3_her_ms": None, "d3rlpy_ms": None}
    script = Path(__file__).with_name("peers_sampling.py")
    command = [str(PEER_PYTHON), str(script), str(transitions), str(samples)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float | None] = json.loads(finished.stdout.splitlines()[-1])
    return figures


def main() -> int:
    """Measure, print a table and the JSON line; status 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a memory of 100,000 and fewer batches")
    quick = parser.parse_args().quick
    transitions = 100_000 if quick else 1_000_000
    figures: dict[str, float | None] = {**ours(transitions, 100 if quick else 1000)}
    figures |= peers(transitions, 20 if quick else 100)
    table = Table("figure", "ms a batch", "bar", title=f"batches of {BATCH} from {transitions:,} transitions")
    for name, value in figures.items():
        table.add_row(name, "not installed" if value is None else f"{value:.4f}", str(BARS.get(name, "")))
    Console().print(table)
    print(json.dumps({name: value if value is None else round(value, 4) for name, value in figures.items()}))
    return int(any((figures[name] or 0.0) > bar for name, bar in BARS.items()))


if __name__ == "__main__":
    sys.exit(main())
