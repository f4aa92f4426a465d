"""Steps a second of our environments and of the same tasks of panda-gym, one process each, with random actions.

    .venv/bin/python benchmarks/env_speed.py [--quick]

A step of ours simulates 0.05 s of the arm, one of panda-gym 0.04 s. Both count resets, one every 50 steps. They take
turns, and the median of the rounds counts, so that a machine that is busy for a while slows down both. panda-gym needs
`make bench-setup`.

The last line is a JSON object: `ours_steps_s`, `panda_gym_steps_s` and `ratio`, of the task with the lowest ratio.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

TASKS = ("Reach", "Push", "Slide", "PickAndPlace")
BAR = 2.0
HERE = Path(__file__).parent
PEER_PYTHON = HERE.parent / ".venv-bench/bin/python"


class Stepper:
    """A process that steps one environment when it is told to."""

    def __init__(self, python: str, module: str, name: str) -> None:
        command = [python, str(HERE / "peers_env.py"), module, name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def steps_a_second(self, episodes: int) -> float:
        """Over so many episodes of 50 steps."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{episodes}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("{"):
                return float(json.loads(line)["steps_s"])
        raise SystemExit(f"{self.process.args!r}: ended before it had measured anything.")

    def close(self) -> None:
        """End it."""
        self.process.communicate()


def main() -> int:
    """Measure, print a table and the JSON line; status 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 5 if parser.parse_args().quick else 25
    if not PEER_PYTHON.exists():
        raise SystemExit("panda-gym is not installed; `make bench-setup` does it.")
    rows = []
    for task in TASKS:
        ours = Stepper(sys.executable, "rl_ros.tasks.env", f"rl_ros/{task}-v0")
        theirs = Stepper(str(PEER_PYTHON), "panda_gym", f"Panda{task}-v3")
        measured = np.array([[stepper.steps_a_second(4) for stepper in (ours, theirs)] for _ in range(rounds + 1)])
        ours.close()
        theirs.close()
        a, b = np.median(measured[1:], axis=0)  # the first round warms up
        rows.append({"task": task, "ours_steps_s": round(a), "panda_gym_steps_s": round(b), "ratio": round(a / b, 2)})
    table = Table("task", "ours, steps/s", "panda-gym, steps/s", "ratio", title="environment steps a second")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    with (results / "env_speed.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    worst = min(rows, key=lambda row: float(row["ratio"]))
    print(json.dumps({name: value for name, value in worst.items() if name != "task"}))
    return int(float(worst["ratio"]) < BAR)


if __name__ == "__main__":
    sys.exit(main())
