"""Does the recorder lose anything, and what does it cost?

Two cameras of 640x480 RGB at 30 Hz and joints at 200 Hz (and an action and a judgement for each image) are published
from one process, best effort as cameras are, and recorded by another over Fast DDS with the shipped profile.
The bar: 0 messages lost, under 25 % of a core.

    python benchmarks/recording.py [--quick] [--seconds S] [--bags DIRECTORY]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from robot import RecorderProcess, Robot, contract

from rl_ros.bringup import clean_shared_memory, environment
from rl_ros.episodes.bags import read_bag
from rl_ros.episodes.messages import stamp_of
from rl_ros.nodes.spin import ros

HEIGHT, WIDTH = 480, 640
CPU_BAR = 0.25


def publish(seconds: float) -> None:
    """The robot's process: one episode, then what it published as a line of JSON."""
    with ros():
        robot = Robot(contract(HEIGHT, WIDTH))
        robot.prepare(0)
        start = robot.begin(0)
        print("start", flush=True)
        end = robot.run(seconds)
        print("end", flush=True)
        robot.run(0.1)  # every topic passes the end
        state = robot.end(0, end)
        told = {
            "published": {t: sum(start <= s <= end for s in stamps) for t, stamps in robot.published.items()},
            "state": {"text": state.text, **state.values},
            "problems": [problem.text for problem in robot.problems],
        }
        robot.close()
    print(json.dumps(told), flush=True)


def measure(seconds: float, work: Path, bags: Path) -> dict[str, Any]:
    """One run; what was published, what is in the bag, and what the recorder used."""
    with RecorderProcess(work, contract(HEIGHT, WIDTH), bags) as recorder:
        with subprocess.Popen(
            [sys.executable, __file__, "--publish", "--seconds", str(seconds)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        ) as robot:
            assert robot.stdout is not None
            if robot.stdout.readline() != "start\n":
                raise SystemExit((work / "recorder.log").read_text() or "the robot's process failed")
            before, begun = recorder.cpu_seconds(), time.monotonic()
            robot.stdout.readline()
            after, elapsed = recorder.cpu_seconds(), time.monotonic() - begun
            told = json.loads(robot.stdout.readline())
        recorder.stop()
    used = {key: (seconds - before.get(key, 0.0)) / elapsed for key, seconds in after.items()}
    bag = read_bag(bags / "episode_000000")
    start, end = int(bag.metadata["start"]), int(bag.outcome["end"])
    recorded = Counter(message.topic for message in bag if start <= stamp_of(message.cdr) <= end)
    return {"used": used, "recorded": recorded, "topics": json.loads(bag.outcome["topics"]), **told}


def main() -> None:
    """Run, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 s instead of 60 s")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--bags", type=Path, help="keep the bag in this directory")
    parser.add_argument("--publish", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    seconds = arguments.seconds or (5.0 if arguments.quick else 60.0)
    if arguments.publish:
        publish(seconds)
        return
    with tempfile.TemporaryDirectory(prefix="rl_ros_recording_") as work:
        run = measure(seconds, Path(work), arguments.bags or Path(work) / "bags")
    clean_shared_memory()
    print(f"{'topic':<20}{'published':>10}{'in the bag':>11}{'lost':>6}{'told lost':>10}{'Hz':>8}{'worst gap ms':>14}")
    published = {topic: count for topic, count in run["published"].items() if count}
    for topic, count in published.items():
        told, recorded = run["topics"][topic], run["recorded"][topic]
        print(
            f"{topic:<20}{count:>10}{recorded:>11}{count - recorded:>6}{told['lost']:>10}{told['rate']:>8.1f}"
            f"{told['worst_gap'] * 1e3:>14.1f}"
        )
    for name, share in sorted(run["used"].items(), key=lambda item: -item[1]):
        if share > 0.001:
            print(f"{name:<30}{share:>8.1%} of a core")
    print(f"the recorder says: {run['state']['text']}")
    lost = sum(count - run["recorded"][topic] for topic, count in published.items())
    share = run["used"]["user"] + run["used"]["system"]
    figures = {
        "lost": lost,
        "told_lost": sum(told["lost"] for told in run["topics"].values()),
        "cpu_share": round(share, 4),
        "published": sum(published.values()),
        "seconds": seconds,
        "problems": run["problems"],
        "met": lost == 0 and share < CPU_BAR,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
