"""Shared by the tests: waiting with a bound, and one small episode of the lift contract as raw messages."""

import dataclasses
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from rl_ros.contract import Contract
from rl_ros.episodes import messages

PERIOD = 100_000_000
"""ns between the ticks of the lift contract."""
START = 1_000_000_000_000
"""ns, the stamp of the first tick."""

Raw = tuple[str, int, bytes]
"""Topic, stamp in ns, CDR bytes."""


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> bool:
    """Whether the condition came true within so many seconds; returns as soon as it does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
    return True


@contextmanager
def started(command: Sequence[str], **how: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the block, also where an assertion in it fails."""
    with subprocess.Popen(command, text=True, **how) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def small_contract() -> Contract:
    """The lift contract with an image of 4x4 and only what every tick needs recorded."""
    contract = Contract.load("lift")
    image = dataclasses.replace(contract.observation["image"], shape=(4, 4, 3))
    return dataclasses.replace(contract, observation={**contract.observation, "image": image}, record={})


def tick_messages(contract: Contract, tick: int, ticks: int, start: int = START) -> list[Raw]:
    """Everything that belongs to one tick; the values tell the tick. The last of `ticks` ends in success."""
    stamp = start + tick * PERIOD
    height, width, channels = contract.observation["image"].shape
    fingers = contract.observation["finger_position"].names
    over = float(tick == ticks - 1)
    raw = [
        ("/camera/image_raw", messages.image_cdr(stamp, "camera", np.full((height, width, channels), tick, np.uint8))),
        ("/tool/pose", messages.pose_cdr(stamp, contract.frame, [0.5, 0.0, 0.01 * tick])),
        ("/object/pose", messages.pose_cdr(stamp, contract.frame, [0.4, 0.1, 0.02])),
        ("/joint_states", messages.joint_state_cdr(stamp, fingers, [0.04, 0.04])),
        *messages.action_cdrs(contract, stamp, np.array([0.01 * tick, 0.0, 0.0, 1.0])).items(),
        (
            contract.reward.topic,
            messages.joint_state_cdr(
                stamp, ["reward", "success", "terminated", "truncated"], [0.5 * tick, over, over, 0.0]
            ),
        ),
    ]
    return [(topic, stamp, cdr) for topic, cdr in raw]


def goal_message(contract: Contract, start: int = START) -> Raw:
    """The desired goal, stamped just before the first tick."""
    goal = contract.goal.desired_goal
    return (goal.topic, start - 1, messages.joint_state_cdr(start - 1, goal.names, [0.1]))


def episode_messages(contract: Contract, ticks: int, start: int = START) -> list[Raw]:
    """A whole episode in the order of its stamps."""
    return [goal_message(contract, start)] + [
        raw for tick in range(ticks) for raw in tick_messages(contract, tick, ticks, start)
    ]


def restamped(cdr: bytes, stamp: int) -> bytes:
    """The message with another stamp."""
    seconds, nanoseconds = divmod(stamp, 1_000_000_000)
    return cdr[:4] + seconds.to_bytes(4, "little") + nanoseconds.to_bytes(4, "little") + cdr[12:]
