"""Every check between a policy and the arm. No ROS, no state but the last command's time.

The node around it (`rl_ros/nodes/arm_guard.py`) is a process of its own and the only publisher on the
controllers' topics. A message that is wrong is rejected whole; only magnitudes are clamped.
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from rl_ros.robots.arm import Arm


class Code(Enum):
    """Why the guard did what it did; stable names, published as they are."""

    OK = "ok"
    SPEED_LIMITED = "speed_limited"
    WORKSPACE_LIMITED = "workspace_limited"
    JOINTS_LIMITED = "joints_limited"
    NOT_FINITE = "not_finite"
    WRONG_SIZE = "wrong_size"
    INCOMPLETE = "incomplete"
    STALE_ACTION = "stale_action"
    NO_JOINT_STATE = "no_joint_state"
    OUT_OF_REACH = "out_of_reach"
    EMERGENCY_STOP = "emergency_stop"
    WATCHDOG = "watchdog"

    @property
    def rejected(self) -> bool:
        """Whether the command was replaced by holding still."""
        return self not in (Code.OK, Code.SPEED_LIMITED, Code.WORKSPACE_LIMITED, Code.JOINTS_LIMITED)


@dataclass(frozen=True)
class Limits:
    """What the guard allows. Lengths in m, in the arm's base frame."""

    workspace_low: tuple[float, float, float]
    workspace_high: tuple[float, float, float]
    speed: float
    """m/s, of the tool, along each axis."""
    joint_margin: float
    """rad kept from each joint's position limits."""
    joint_speed_share: float
    """Share of each joint's velocity limit that may be used."""
    action_age: float
    """s between the observation an action answers and the newest joint state, at most."""
    reach_error: float = 0.01
    """m and rad together that inverse kinematics may miss by."""


@dataclass(frozen=True)
class Command:
    """What goes to the controllers: joint positions (7,) rad and the gripper, 0 closed to 1 open."""

    positions: NDArray[np.float64]
    gripper: float
    code: Code
    detail: str = ""


class Guard:
    """Turns a tool velocity into joint positions one control period ahead, within limits.

    Args:
        arm: kinematics and joint limits.
        limits: what is allowed.
        period: s, the control period.
    """

    def __init__(self, arm: Arm, limits: Limits, period: float) -> None:
        self.arm, self.limits, self.period = arm, limits, period
        self._low = np.asarray(limits.workspace_low)
        self._high = np.asarray(limits.workspace_high)
        self._joint_low = arm.lower + limits.joint_margin
        self._joint_high = arm.upper - limits.joint_margin

    def command(
        self,
        velocity: NDArray[np.float64],
        gripper: NDArray[np.float64],
        age: float,
        measured: NDArray[np.float64],
        held_gripper: float,
    ) -> Command:
        """Judge one action.

        Args:
            velocity: of the tool, (3,) m/s in the base frame.
            gripper: (1,), 0 closed to 1 open.
            age: s between the observation it answers and the newest joint state.
            measured: joint positions (7,) rad now.
            held_gripper: what the gripper was last told, kept where the action is rejected.

        Returns:
            The command to give; holding the measured position where the action is rejected.
        """
        velocity, gripper = np.asarray(velocity, np.float64), np.asarray(gripper, np.float64)
        if velocity.shape != (3,) or gripper.shape != (1,):
            return self.hold(
                measured, held_gripper, Code.WRONG_SIZE, f"shapes {velocity.shape} and {gripper.shape}, not (3,) (1,)"
            )
        # NaN passes every comparison and clamp below, so this comes first.
        if not (np.isfinite(velocity).all() and np.isfinite(gripper).all()):
            return self.hold(
                measured, held_gripper, Code.NOT_FINITE, f"velocity {velocity.tolist()}, gripper {gripper.tolist()}"
            )
        if not 0.0 <= age <= self.limits.action_age:
            return self.hold(
                measured,
                held_gripper,
                Code.STALE_ACTION,
                f"answers an observation {age:.3f} s older than the newest joint state, "
                f"allowed are 0 to {self.limits.action_age:.3f} s",
            )
        code = Code.OK
        # A rounding error above the limit is no reason to report a limit.
        if np.abs(velocity).max() > self.limits.speed * (1 + 1e-6):
            code = Code.SPEED_LIMITED
        velocity = np.clip(velocity, -self.limits.speed, self.limits.speed)
        position, rotation = self.arm.forward(measured)
        target = position + velocity * self.period
        inside = np.clip(target, self._low, self._high)
        if np.abs(inside - target).max() > 1e-9:
            code = Code.WORKSPACE_LIMITED
        wanted, error = self.arm.inverse(measured, inside, self.arm.down(_yaw(rotation)))
        if error > self.limits.reach_error:
            return self.hold(measured, held_gripper, Code.OUT_OF_REACH, f"misses the target by {error:.3f}")
        step = wanted - measured
        largest = self.arm.velocity_limit * self.limits.joint_speed_share * self.period
        excess = float(np.max(np.abs(step) / largest))
        if excess > 1.0:
            # All joints slow down together: the tool stays on its line.
            step, code = step / excess, Code.JOINTS_LIMITED
        positions = measured + step
        bounded = np.clip(positions, np.minimum(self._joint_low, measured), np.maximum(self._joint_high, measured))
        if np.abs(bounded - positions).max() > 1e-9:
            code = Code.JOINTS_LIMITED
        return Command(bounded, float(np.clip(gripper[0], 0.0, 1.0)), code)

    def hold(self, measured: NDArray[np.float64], gripper: float, code: Code, detail: str = "") -> Command:
        """The command that stays where the arm is, with the reason."""
        return Command(measured.copy(), gripper, code, detail)


def _yaw(rotation: NDArray[np.float64]) -> float:
    """Heading of a tool that points down, rad; see Arm.down."""
    return float(np.arctan2(rotation[1, 0], rotation[0, 0]))
