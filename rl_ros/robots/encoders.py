"""Whether joint states can be what an arm measures. No ROS: positions and stamps go in."""

import numpy as np

from rl_ros.robots.arm import Arm
from rl_ros.robots.verdict import Code, Vector

BEYOND = 0.1
"""rad that a joint may be measured beyond its limits, before the measurement is taken for wrong."""
FASTER = 1.5
"""How many times as fast as its limit a joint may be measured to move, before the measurement is taken for wrong."""
NOISE = 0.05
"""rad between two measurements that need no explanation."""
ASKED = 0.002
"""rad that a command asks of a joint, at least, for the arm to be expected to move."""


class Encoders:
    """Compares each joint state with the one before, and with what was commanded since.

    Args:
        arm: limits of its joints.
        frozen: s for which the joints may be measured at the same place to the last bit while they are told to move.
    """

    def __init__(self, arm: Arm, frozen: float) -> None:
        self.arm, self.frozen = arm, frozen
        self.restart()

    def restart(self) -> None:
        """An episode is about to begin: the arm may be put anywhere."""
        self._last: tuple[int, Vector] | None = None
        self._still_since = 0
        self._driven_since: int | None = None
        """Stamp of the first of the commands, one after the other, that ask the arm to move, ns."""
        self._driven = False
        self._stuck = False
        """Whether the joints were found frozen, until they are measured elsewhere."""

    def commanded(self, stamp: int, change: Vector | None) -> None:
        """What the newest command asks of the joints, (7,) rad; None where it holds them still."""
        if change is None or np.abs(change).max() < ASKED:
            self._driven_since = None
        elif self._driven_since is None:
            self._driven_since = stamp
        self._driven |= change is not None

    def judge(self, stamp: int, positions: Vector) -> tuple[Code, str] | None:
        """Why positions (7,) rad cannot be true, and if nothing speaks against them, remember them."""
        within = (positions >= self.arm.lower - BEYOND) & (positions <= self.arm.upper + BEYOND)
        if not within.all():  # so is NaN
            return Code.JOINT_STATE_INVALID, f"joints at {positions.tolist()}, not finite or beyond their limits"
        if self._last is None:
            self._last, self._still_since = (stamp, positions), stamp
            return None
        then, before = self._last
        moved = np.abs(positions - before)
        most = NOISE + FASTER * self.arm.velocity_limit * (stamp - then) * 1e-9
        # Before the first command of an episode a simulated arm is put where it begins.
        if self._driven and (moved > most).any():
            joint = int(np.argmax(moved - most))
            return Code.JOINT_STATE_INVALID, (
                f"{self.arm.joint_names[joint]} moved by {moved[joint]:.3f} rad in {(stamp - then) * 1e-9:.3f} s, more "
                "than it can; are positions in the order of their names?"
            )
        if moved.any():
            self._still_since, self._stuck = stamp, False
        elif self._driven_since is not None:
            self._stuck |= (stamp - max(self._still_since, self._driven_since)) * 1e-9 > self.frozen
        if self._stuck:
            still = (stamp - self._still_since) * 1e-9
            return Code.JOINT_STATES_FROZEN, f"the same to the last bit for {still:.3f} s although told to move"
        self._last = stamp, positions
        return None
