"""Does anything grow, go missing or stay behind when a graph runs for long?

The reach graph runs in real time at 20 Hz as `rl_ros up` runs it, recording; the policy is the shipped bundle.
`memory_growth` is the resident memory of all its processes in the last tenth of the time over that of the second tenth,
minus one (in the first, everything is touched for the first time). An episode is missed if the episode manager numbered
it and it has no result, did not run to its end (`success` or `timeout`), or has no whole bag. What the graph
leaves in /dev/shm is counted once it has stopped.

    python benchmarks/soak.py [--quick] [--minutes M]
"""

import argparse
import csv
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from crash import ros_environment
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rl_ros.bringup import Supervisor
from rl_ros.episodes.bags import read_bag
from rl_ros.graph import load_graph, resolve
from rl_ros.training.live import read_results

QUICK, FULL = 1.0, 30.0
EVERY = 2.0
"""s between two looks at the memory."""
RATE, LENGTH = 20, 200
"""Hz, and ticks of an episode: ten seconds."""
KEPT = 50
"""Bags that are kept on the disk; older ones are read, counted and removed."""
RESULTS = Path(__file__).parent / "results" / "soak.csv"
BAR = 0.01


def resident(pid: int) -> float:
    """MB of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def segments() -> set[str]:
    """What Fast DDS has in shared memory, of all graphs on this machine."""
    return {path.name for path in Path("/dev/shm").glob("*fastdds*")}


class Bags:
    """Reads bags as they are finished, so that a long run needs no large disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.whole: set[str] = set()
        self.problems: list[str] = []

    def read(self, all_of_them: bool = False) -> None:
        """Those that are finished; the newest few are left for later."""
        paths = sorted(self.directory.glob("episode_??????"))
        for path in paths if all_of_them else paths[:-KEPT]:
            bag = read_bag(path)
            lost = sum(told["lost"] for told in json.loads(bag.outcome.get("topics", "{}")).values())
            if bag.damage or lost or not sum(1 for _ in bag):
                self.problems.append(f"{path.name}: {bag.damage or f'{lost} messages lost'}")
            else:
                self.whole.add(path.name)
            shutil.rmtree(path)


def soak(work: Path, episodes: int) -> tuple[dict[str, list[float]], Bags, list[dict]]:
    """Run so many episodes; MB by process, the bags, and the results of the episodes."""
    results, bags = work / "episodes.jsonl", Bags(work / "bags")
    given = {"bags": str(bags.directory), "results": str(results), "episode_length": str(LENGTH)}
    resolved = resolve(load_graph("reach"), {**given, "episodes": str(episodes)})
    memory: dict[str, list[float]] = {}
    looked = 0.0
    with (work / "graph.log").open("w", buffering=1) as log, Progress() as progress:
        task = progress.add_task("episodes", total=episodes)
        with Supervisor(resolved, lambda line: print(line, file=log)) as graph:

            def look() -> None:
                nonlocal looked
                if time.monotonic() - looked < EVERY:
                    return
                looked = time.monotonic()
                for name, process in graph.processes.items():
                    memory.setdefault(name, []).append(resident(process.pid))
                bags.read()
                progress.update(task, completed=len(read_results(results).episodes))

            status = graph.wait(look, 0.5)
    if status:
        raise SystemExit(f"the graph ended with status {status}:\n{(work / 'graph.log').read_text()[-2000:]}")
    bags.read(all_of_them=True)
    return memory, bags, read_results(results).episodes


def growth(megabytes: list[float]) -> float:
    """The last tenth over the second tenth, minus one."""
    tenth = max(1, len(megabytes) // 10)
    return float(np.median(megabytes[-tenth:]) / np.median(megabytes[tenth : 2 * tenth]) - 1.0)


def main() -> None:
    """Run, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK:g} min instead of {FULL:g}")
    parser.add_argument("--minutes", type=float)
    arguments = parser.parse_args()
    minutes = arguments.minutes or (QUICK if arguments.quick else FULL)
    before = segments()
    with tempfile.TemporaryDirectory(prefix="rl_ros_soak_") as work, ros_environment():
        asked = max(1, round(minutes * 60 * RATE / LENGTH))
        memory, bags, episodes = soak(Path(work), asked)
    domain = int(os.environ.get("ROS_DOMAIN_ID", "0"))
    ports = range(7400 + 250 * domain, 7400 + 250 * (domain + 1))
    ours = {f"fastdds_port{port}" for port in ports}
    # Segments that came meanwhile and whose owner lives are another graph's.
    left = sorted(name for name in segments() - before if name in ours)
    total = [sum(each) for each in zip(*memory.values(), strict=False)]
    ended = [e for e in episodes if e["outcome"] in ("success", "timeout")]
    well = {e["episode"] for e in ended if f"episode_{e['episode']:06d}" in bags.whole}
    missed = sorted(set(range(asked)) - well)
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["seconds", *memory])
        for number, row in enumerate(zip(*memory.values(), strict=False)):
            rows.writerow([number * EVERY, *(round(each, 2) for each in row)])
    table = Table(title=f"{minutes:g} min at 20 Hz, {len(episodes)} episodes")
    for column in ("process", "MB, second tenth", "MB, last tenth", "growth"):
        table.add_column(column)
    for name, megabytes in [*memory.items(), ("all", total)]:
        tenth = max(1, len(megabytes) // 10)
        first, last = np.median(megabytes[tenth : 2 * tenth]), np.median(megabytes[-tenth:])
        table.add_row(name, f"{first:.1f}", f"{last:.1f}", f"{growth(megabytes):+.2%}")
    Console().print(table)
    for problem in bags.problems:
        print(problem)
    figures = {
        "minutes": minutes,
        "episodes": len(episodes),
        "outcomes": dict(Counter(e["outcome"] for e in episodes)),
        "missed_episodes": len(missed),
        "memory_growth": round(growth(total), 4),
        "shared_memory_left": len(left),
        "met": not missed and growth(total) < BAR and not left,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
