"""Live against bag: runs episodes in lockstep, reads their bags back, and compares every transition bit for bit.

The last line is one JSON object: `ticks` compared and `mismatches` found.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rl_ros.contract import Contract
from rl_ros.episodes.bags import find_bags
from rl_ros.episodes.ingest import read_episodes
from rl_ros.episodes.trace import compare, read_traces
from rl_ros.training.live import run_episodes


def main() -> int:
    """Run the check; the exit status is 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=10_000, help="at least so many (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="200 ticks")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ticks, mismatches = run(200 if options.quick else options.ticks, options.seed)
    table = Table("ticks", "mismatches")
    table.add_row(str(ticks), str(len(mismatches)))
    Console().print(table)
    for sentence in mismatches[:20]:
        print(sentence)
    print(json.dumps({"ticks": ticks, "mismatches": len(mismatches)}))
    return 1 if mismatches else 0


def run(ticks: int, seed: int) -> tuple[int, list[str]]:
    """Compare at least `ticks` ticks of the scripted expert."""
    shortest = 10  # ticks of an episode, at least
    compared = 0
    mismatches: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        part = 0
        while compared < ticks:
            here = Path(directory) / str(part)
            episodes = min(200, max(5, (ticks - compared) // (2 * shortest)))
            arguments = {"bags": str(here / "bags"), "trace": str(here / "trace"), "seed": str(seed + 1000 * part)}
            run_episodes("lift", arguments, episodes, here / "log")
            read, refused = read_episodes(find_bags(here / "bags"), Contract.load("lift"))
            traces = read_traces(sorted((here / "trace").glob("*.jsonl")))
            count, found = compare(traces, read)
            compared, mismatches, part = compared + count, mismatches + found + refused, part + 1
    return compared, mismatches


if __name__ == "__main__":
    sys.exit(main())
