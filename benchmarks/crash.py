"""How much does a recorder lose that is killed, and what is left of a bag that is cut off?

The recorder is killed (SIGKILL) at random moments of an episode that a robot publishes over Fast DDS: two small
cameras at 30 Hz, joints at 200 Hz. The next recorder on the same directory recovers the bag. `worst_lost_ms` is the
age, at the kill, of the oldest published message that is not in the recovered bag; the bar is 200 ms. Then a small
bag is cut off at every byte and read: `unread_chunks` counts complete chunks that were not given.

    python benchmarks/crash.py [--quick] [--crashes N]
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mcap.reader import make_reader
from robot import RecorderProcess, Robot, contract

from rl_ros.bringup import clean_shared_memory, environment
from rl_ros.contract import Recorded
from rl_ros.episodes import messages
from rl_ros.episodes.bags import mcap_file, read_bag
from rl_ros.episodes.record import EpisodeFile
from rl_ros.errors import UserError
from rl_ros.nodes.spin import ros

SIZE = 64
BAR_MS = 200.0
QUICK, FULL = 5, 50
SHORTEST, LONGEST = 0.2, 2.0
"""s of an episode before the recorder is killed."""


def lost_ms(robot: Robot, start: int, killed: int, bag: Path) -> float:
    """Age in ms, at the moment of the kill, of the oldest message that is not in the bag; 0 if all are."""
    recovered = read_bag(bag)
    assert not recovered.damage, recovered.damage
    assert recovered.outcome["outcome"] == "interrupted"
    found: dict[str, set[int]] = {}
    for message in recovered:
        found.setdefault(message.topic, set()).add(messages.stamp_of(message.cdr))
    published = ((topic, stamp) for topic, stamps in robot.published.items() for stamp in stamps)
    lost = [stamp for topic, stamp in published if start <= stamp <= killed and stamp not in found.get(topic, ())]
    return max(0.0, (killed - min(lost, default=killed)) / 1e6)


def crash(count: int, work: Path, random_numbers: random.Random) -> list[float]:
    """Kill the recorder so many times; the worst age of what each kill lost, in ms."""
    recorded, bags = contract(SIZE, SIZE), work / "bags"
    kills: list[tuple[int, int]] = []
    losses = []
    with ros():
        robot = Robot(recorded)
        for number in range(count + 1):
            with RecorderProcess(work, recorded, bags) as recorder:
                robot.prepare(number)  # acknowledged, so that the bag of the kill before is recovered by now
                if number:
                    losses.append(lost_ms(robot, *kills[-1], bags / f"episode_{number - 1:06d}_interrupted"))
                    print(f"crash {number:>3}: {losses[-1]:7.1f} ms", flush=True)
                if number == count:
                    recorder.stop()
                    break
                start = robot.begin(number)
                robot.run(random_numbers.uniform(SHORTEST, LONGEST))
                killed = time.time_ns()
                recorder.kill()
                kills.append((start, killed))
        left = [path.name for path in bags.glob("*.unfinished")]
        assert not left, f"not recovered: {left}"
        robot.close()
    return losses


def truncate(work: Path) -> tuple[int, int, Counter[str]]:
    """Cut a small bag off at every byte: how often, complete chunks that were not read, and what was said."""
    topics = {"/a": Recorded("geometry_msgs/msg/PoseStamped"), "/b": Recorded("std_msgs/msg/Bool")}
    file = EpisodeFile(work, "small", topics, {"seed": "1"})
    written = []
    for number in range(12):
        cdr = messages.pose_cdr(number + 1, "base", [number, 0.0, 0.0])
        file.write("/a", number + 1, cdr)
        written.append(cdr)
        if number % 3 == 2:
            file.flush()
    path = mcap_file(file.close({"outcome": "success"}))
    whole = path.read_bytes()
    with path.open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None
    ends = [index.chunk_start_offset + index.chunk_length for index in summary.chunk_indexes]
    cut = work / "cut.mcap"
    unread, said = 0, Counter[str]()
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        complete = sum(end <= length for end in ends)
        try:
            bag = read_bag(cut)
            read = [message.cdr for message in bag.messages]
            assert read == written[: len(read)], "a message that was never written"
            unread += complete - len(read) // 3
            said["damage reported" if bag.damage else "damage NOT reported"] += 1
        except UserError:
            unread += complete
            said["refused in one sentence"] += 1
    return len(whole), unread, said


@contextmanager
def ros_environment() -> Iterator[None]:
    """What bringup gives every process, for this one."""

    before = dict(os.environ)
    os.environ.update(environment())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def main() -> None:
    """Run, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} crashes instead of {FULL}")
    parser.add_argument("--crashes", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    count = arguments.crashes or (QUICK if arguments.quick else FULL)
    with tempfile.TemporaryDirectory(prefix="rl_ros_crash_") as work:
        truncations, unread, said = truncate(Path(work))
        for sentence, times in said.items():
            print(f"{times:>6} of {truncations} truncations: {sentence}")
        with ros_environment():
            losses = crash(count, Path(work), random.Random(arguments.seed))
    clean_shared_memory()
    worst = max(losses)
    figures = {
        "worst_lost_ms": round(worst, 1),
        "median_lost_ms": round(sorted(losses)[len(losses) // 2], 1),
        "crashes": len(losses),
        "truncations": truncations,
        "unread_chunks": unread,
        "met": worst <= BAR_MS and unread == 0 and not said["damage NOT reported"],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
