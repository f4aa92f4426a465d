"""What is left when a node is killed, whichever it is?

The graph runs as `rl_ros up` runs it, in real time and each node in a process of its own. A node is killed (SIGKILL) at
a random moment of an episode, the next one in the next run, and so on. Then the graph must have stopped safely: no
process is left, none had to be killed to end, the arm's command had not moved on for two control periods when the last
one ended, and nothing remains in /dev/shm. Every bag of an episode that had ended is read and must be whole, and so
must the one that was cut off, which the recorder completes or the next recorder recovers. A killed `policy` is started
again instead, as someone would on the robot: `recovered` counts runs in which the graph stopped safely, or went on with
the next episode.

    python benchmarks/kill.py [--quick] [--kills N]
"""

import argparse
import json
import random
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from crash import ros_environment
from live_graph import Rig, circling_bundle
from rich.console import Console
from rich.progress import track
from rich.table import Table

from rl_ros.bringup import clean_shared_memory
from rl_ros.contract import Contract
from rl_ros.episodes.bags import find_bags, read_bag
from rl_ros.episodes.recover import recover_bags
from rl_ros.nodes.spin import ros

NODES = ("arm_guard", "policy", "recorder", "reward", "goal_encoder", "arm_sim", "episode_manager")
QUICK, FULL = 3, 20
STOP = 15.0
"""s in which a graph must have stopped."""
EPISODE_LENGTH = 30
"""Ticks, so that some episodes have ended when the kill comes."""


@dataclass
class Kill:
    """One kill, and what came of it."""

    node: str
    episodes: int = 0
    """Ended before the kill."""
    intact: int = 0
    end: str = ""
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def kill(node: str, work: Path, rate: float, moment: float) -> Kill:
    """Bring up a graph, kill one node in its second episode or later, and look at what is left."""
    outcome = Kill(node)
    work.mkdir()
    contract = Contract.load("pick_and_place_image")
    text = contract.to_yaml().replace(f"control_rate: {contract.control_rate}", f"control_rate: {rate}")
    (work / "contract.yaml").write_text(text)
    contract = Contract.load(str(work / "contract.yaml"))
    bundle = circling_bundle(work / "bundle", contract)
    with ros():
        with Rig(work, work / "contract.yaml", bundle, {"episode_length": str(EPISODE_LENGTH)}, {}, {}) as rig:
            rig.until(lambda: rig.closed, "the first episode to end")
            rig.wait_until_it_moves()
            time.sleep(moment)
            ended = set(rig.closed)
            began, episode = time.monotonic(), rig.episode()
            rig.signal(node, signal.SIGKILL)
            if node == "policy":
                rig.supervisor.restart(node)
                rig.until(lambda: (rig.episode() or 0) > (episode or 0) and rig.moves(), "the next episode", 40.0)
                outcome.end = "went on with the next episode"
            else:
                status = rig.supervisor.wait()
                outcome.end = f"stopped with status {status}"
            outcome.seconds = time.monotonic() - began
            before = time.monotonic()
        if node != "policy":
            if time.monotonic() - before > STOP:
                outcome.problems.append("a process had to be killed")
            period = contract.period
            late = [h for h in rig.speeds if h.at > began + 3 * period]
            if node == "arm_guard" and any(h.what > 0.05 for h in late):
                outcome.problems.append("the arm went on")
    left = [name for name, process in rig.supervisor.processes.items() if process.poll() is None]
    outcome.problems += [f"{name} is left" for name in left]
    recovered = recover_bags(rig.bags)
    outcome.problems += [bag.text for bag in recovered if bag.problem]
    bags = {path.name: read_bag(path) for path in find_bags(rig.bags)}
    outcome.episodes = len(ended)
    for number in sorted(ended):
        bag = bags.get(f"episode_{number:06d}")
        if bag is not None and not bag.damage and sum(1 for _ in bag) > 0:
            outcome.intact += 1
        else:
            outcome.problems.append(f"episode {number}: {'missing' if bag is None else bag.damage}")
    outcome.problems += [f"{name}: {bag.damage}" for name, bag in bags.items() if bag.damage]
    return outcome


def main() -> None:
    """Run, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} kills instead of {FULL}")
    parser.add_argument("--kills", type=int)
    parser.add_argument("--rate", type=float, default=10.0, help="Hz, the control rate")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    count = arguments.kills or (QUICK if arguments.quick else FULL)
    moments = random.Random(arguments.seed)
    before = {path.name for path in Path("/dev/shm").glob("fastdds*")}
    with tempfile.TemporaryDirectory(prefix="rl_ros_kill_") as work, ros_environment():
        kills = [
            kill(NODES[number % len(NODES)], Path(work) / str(number), arguments.rate, moments.uniform(0.0, 1.0))
            for number in track(range(count), "kills")
        ]
    clean_shared_memory()
    # Segments have names of their own; ports are shared by all graphs on this machine.
    left = [path.name for path in Path("/dev/shm").glob("fastdds_[0-9a-f]*") if path.name not in before]
    table = Table(title="kill -9 of each node in turn")
    for column in ("killed", "the graph", "s", "bags intact", ""):
        table.add_column(column)
    for one in kills:
        verdict = f"[red]{'; '.join(one.problems)}" if one.problems else "[green]safe"
        table.add_row(one.node, one.end, f"{one.seconds:.1f}", f"{one.intact} of {one.episodes}", verdict)
    Console(width=140).print(table)
    figures = {
        "kills": len(kills),
        "recovered": sum(not one.problems for one in kills),
        "bags": sum(one.episodes for one in kills),
        "bags_intact": sum(one.intact for one in kills),
        "shared_memory_left": len(left),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
