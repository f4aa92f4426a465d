"""The way home of a real arm, between two episodes. No ROS, and no clock but the stamps of joint states."""

import numpy as np

from rl_ros.robots.arm import Arm
from rl_ros.robots.collisions import Clearance
from rl_ros.robots.guard import Rejection
from rl_ros.robots.verdict import Code, Limits, Vector

ARRIVED = 0.01
"""rad that each joint may be away from home."""
BEHIND = 0.1
"""rad that a joint may lag behind the command."""
GAP = 0.25
"""s without joint states after which an arm stands still, and its way home begins anew."""
OVERTIME = 3.0
"""s after the end of the motion for the arm to arrive."""
PEAK = 1.875
"""Peak speed over mean speed of a minimum-jerk motion."""


class Homing:
    """One way home: every joint moves along one straight line in joint space, with minimum jerk
    (10 t^3 - 15 t^4 + 6 t^5; Flash and Hogan 1985), so that none is faster than the speed given.

    Args:
        arm: which comes home.
        limits: the clearances that it keeps on the way.
        period: s, from one command to the next.
        speed: rad/s of the fastest joint.
    """

    def __init__(self, arm: Arm, limits: Limits, period: float, speed: float) -> None:
        self.arm, self.period, self.speed = arm, period, speed
        self.clearances = {
            Code.TABLE: Clearance(arm, limits.table_clearance, limits.table_height),
            Code.SELF_COLLISION: Clearance(arm, limits.self_clearance),
        }
        self.restart()

    def restart(self) -> None:
        """The next position that is measured is where the way begins."""
        self.start: Vector | None = None
        self.told = 0
        """Stamp that the last command answered, ns."""
        self.walked = 0.0
        """s of the way that were commanded; a period at a time, however much later the next measurement comes."""

    def step(self, stamp: int, measured: Vector) -> Vector | Rejection | None:
        """The command after a measurement.

        Args:
            stamp: of the measurement, ns.
            measured: joint positions (N,) rad.

        Returns:
            Joint positions (N,) rad to be at one period later; why the arm cannot come home; or None where no command
            is due yet.
        """
        since = (stamp - self.told) * 1e-9
        if self.start is None or not 0.0 <= since <= max(GAP, 2.0 * self.period):  # or a clock that was set back
            self.start, self.walked = measured.copy(), 0.0
        elif stamp < self.told + round(self.period * 1e9):
            return None
        self.told = stamp
        if self.walked > self.duration + OVERTIME and not self.arrived(measured):
            away = np.abs(self.arm.home - measured)
            joint = self.arm.joint_names[int(np.argmax(away))]
            return Code.OUT_OF_REACH, f"{joint} is still {np.max(away):.3f} rad from home"
        lag = np.abs(self._at(self.walked) - measured)
        if np.max(lag) > BEHIND:
            joint = self.arm.joint_names[int(np.argmax(lag))]
            return Code.JOINT_STATE_INVALID, f"{joint} does not follow: {np.max(lag):.3f} rad behind on the way home"
        target = self._at(self.walked + self.period)
        for code, clearance in self.clearances.items():
            if not clearance.kept(target):
                near, what = clearance.nearest(target)
                if near <= clearance.nearest(measured)[0]:
                    return code, f"on the way home {what} would be {near:.4f} m apart; move the arm by hand"
        self.walked += self.period
        return target

    def arrived(self, measured: Vector) -> bool:
        """Whether the arm is home, at joint positions (N,) rad."""
        return bool((np.abs(self.arm.home - measured) <= ARRIVED).all())

    @property
    def duration(self) -> float:
        """s from the start to home."""
        assert self.start is not None
        return float(np.max(np.abs(self.arm.home - self.start))) * PEAK / self.speed

    def _at(self, walked: float) -> Vector:
        assert self.start is not None
        share = min(walked / self.duration, 1.0) if self.duration else 1.0
        along = share**3 * (10.0 - 15.0 * share + 6.0 * share**2)
        position: Vector = self.start + along * (self.arm.home - self.start)
        return position
