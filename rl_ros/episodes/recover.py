"""Turns bags whose recorder was killed into complete ones, as far as they reach."""

import fcntl
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl_ros.contract import Contract, Recorded
from rl_ros.episodes import messages
from rl_ros.episodes.bags import Bag, mcap_file, read_bag
from rl_ros.episodes.health import EpisodeHealth
from rl_ros.episodes.record import UNFINISHED, EpisodeFile, unused
from rl_ros.errors import UserError
from rl_ros.graph import offered_profiles, qos

INTERRUPTED = "interrupted"
"""Outcome of a recovered episode, and suffix of its name: a new episode may take the number it had."""


@dataclass(frozen=True)
class RecoveredBag:
    """What became of one unfinished bag."""

    path: Path
    """Where the recovered bag is, or the unfinished one if it was left."""
    problem: str = ""
    """Why it was left, in a sentence; empty if it was recovered."""
    number: str = ""
    """Number of the episode."""
    topics: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Count, rate (Hz), worst gap (s) and loss by topic."""

    @property
    def text(self) -> str:
        """One sentence for the log."""
        if self.problem:
            return f"{self.path}: not recovered: {self.problem}"
        count = sum(told["count"] for told in self.topics.values())
        return f"{self.path}: recovered {count} messages of an interrupted episode"


def recover_bags(directory: Path) -> list[RecoveredBag]:
    """Recover every unfinished bag in a directory, except those that are being recorded at this moment.

    All complete chunks are kept, the outcome is `interrupted`, and the name gets the suffix `_interrupted`. May be
    cut short itself at any point: the next call carries on. A bag that cannot be recovered is left as it is.
    """
    found = []
    for unfinished in sorted(directory.glob(f"*{UNFINISHED}")):
        try:
            recovered = _recover(unfinished)
        except (UserError, messages.MessageError, OSError) as error:
            recovered = RecoveredBag(unfinished, str(error))
        if recovered is not None:
            found.append(recovered)
    return found


def _recover(unfinished: Path) -> RecoveredBag | None:
    # The recovered bag is made inside the unfinished one, and nothing of that is removed before it is complete.
    name = f"{unfinished.name.removesuffix(UNFINISHED)}_{INTERRUPTED}"
    inside = unfinished / name
    if not inside.exists():
        if not any(unfinished.iterdir()):
            unfinished.rmdir()
            return None
        with mcap_file(unfinished).open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            shutil.rmtree(unfinished / (name + UNFINISHED), ignore_errors=True)
            _complete(read_bag(unfinished), unfinished, name)
    mcap_of_killed = [file for file in unfinished.glob("*.mcap") if file.is_file()]
    for file in mcap_of_killed:
        file.unlink()
    final = inside.rename(unused(unfinished.parent / name))
    shutil.rmtree(unfinished)
    outcome = read_bag(final).outcome
    return RecoveredBag(final, "", outcome["episode"], json.loads(outcome["topics"]))


def _complete(bag: Bag, directory: Path, name: str) -> Path:
    """Write what is left of a bag into a complete one."""
    topics = _topics(bag)
    control_rate = bag.contract.control_rate if bag.contract else 1.0
    start = int(bag.metadata.get("start", 0))
    health = EpisodeHealth(topics, control_rate, start, real_time=False)
    profiles = offered_profiles(bag.contract) if bag.contract else {}
    lossless = bag.metadata.get("lossless") == "true"
    offered = {topic: qos(profile, lossless) for topic, profile in profiles.items()}
    file = EpisodeFile(directory, name, topics, bag.metadata, offered)
    for message in bag:
        stamp = messages.stamp_of(message.cdr)
        file.write(message.topic, message.log_time, message.cdr)
        health.receive(message.topic, stamp)
    ends = [told.newest for topic, told in health.topics.items() if topics[topic].every_tick and told.count]
    end = max(ends, default=start)
    # The tick that was going on is cut short, which is no loss.
    health.finish(end - round(1e9 / control_rate))
    return file.close(
        {
            "outcome": INTERRUPTED,
            "end": str(end),
            "missing": "[]",
            "topics": json.dumps(health.summary()),
            "faults": json.dumps([*health.damage().values(), f"interrupted: {bag.damage or 'not closed'}"]),
            "seed": bag.metadata.get("seed", ""),
            "episode": bag.metadata.get("episode", ""),
        }
    )


def _topics(bag: Bag) -> dict[str, Recorded]:
    """Those of its contract, and any other that is in it."""
    contract: Contract | None = bag.contract
    known = contract.recorded_topics() if contract else {}
    return known | {topic: Recorded(kind) for topic, (kind, _) in bag.topics.items() if topic not in known}
