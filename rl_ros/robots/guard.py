"""What an action may make the arm do. No ROS, and no clock: time is what the stamps say.

`CHECKS` is the guard: a message that is wrong is rejected whole, and answered by holding the position that
was measured; only magnitudes are clamped. `rl_ros/robots/sentry.py` stands before it and judges what arrives.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from rl_ros.robots.arm import Arm
from rl_ros.robots.collisions import Clearance
from rl_ros.robots.verdict import Code, Command, Limits, Request, Vector

__all__ = ["CHECKS", "Code", "Command", "Guard", "Limits", "Request"]


@dataclass
class Motion:
    """An action on its way through the checks, which reduce it."""

    request: Request
    tool: Vector
    """Where it is, (3,) m."""
    velocity: Vector
    """Of the tool, (3,) m/s."""
    gripper: Vector
    joint_velocity: Vector = field(default_factory=lambda: np.zeros(0))
    """rad/s over the next control period, once inverse kinematics has found it."""
    yaw_velocity: float = 0.0
    """Of the tool about the vertical, rad/s."""
    error: float = 0.0
    """What inverse kinematics missed the target by."""
    codes: list[Code] = field(default_factory=list)
    looked_up: tuple[Vector, Vector] | None = None
    """Joint velocities, and where they bring the tool, as last asked for."""


@dataclass(frozen=True)
class Moved:
    """What was known and told at the last command."""

    stamp: int
    measured: Vector
    positions: Vector
    velocity: Vector
    """rad/s that was commanded: (positions - measured) / period."""
    acceleration: Vector
    """rad/s^2, of the commanded velocities."""
    seen_velocity: Vector | None
    """rad/s that was measured over the period before; None where the arm came from rest."""

    def seen(self, request: Request) -> Vector:
        """rad/s (N,) measured since then."""
        return (request.measured - self.measured) / ((request.stamp - self.stamp) * 1e-9)


Rejection = tuple[Code, str]


class Check(NamedTuple):
    """One entry of the guard: clamps the motion, or says why the action is rejected."""

    name: str
    judge: "Callable[[Guard, Motion], Rejection | None]"


RAMP_FLOOR = 0.1
"""Share of the speed at which a ramp begins."""
REST = 1.5
"""Control periods without a command after which the arm has come to rest."""
HOLD_TOLERANCE = 0.02
"""rad that a joint may drift from where it is held, before it is held where it then is."""
BRAKES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of the velocity that are given up, one after the other, until the arm stays where it may be."""
EDGE = 1e-3
"""m that rounding and inverse kinematics may leave the workspace by."""


class Guard:
    """Turns a tool velocity into joint positions one control period ahead, within limits.

    It remembers the last commands: speed, acceleration and jerk are of one command after another. The same
    requests in the same order give the same commands.

    Args:
        arm: kinematics and joint limits.
        limits: what is allowed.
        period: s, the control period.
        disabled: names of checks to leave out.
    """

    def __init__(self, arm: Arm, limits: Limits, period: float, disabled: Collection[str] = ()) -> None:
        self.arm, self.limits, self.period = arm, limits, period
        self.before = [check for check in TOOL_CHECKS if check.name not in disabled]
        self.after = [check for check in JOINT_CHECKS if check.name not in disabled]
        self.low, self.high = np.array(limits.workspace_low), np.array(limits.workspace_high)
        self.unsaid = np.where(self.low < self.high, 1e-9, EDGE)
        """m that an action may be corrected by along each axis without a word: a plane is kept to at every tick."""
        self.joint_low, self.joint_high = arm.lower + limits.joint_margin, arm.upper - limits.joint_margin
        self.joint_speed = arm.velocity_limit * limits.joint_speed_share
        self.acceleration, self.jerk = np.array(limits.joint_acceleration), np.array(limits.joint_jerk)
        self.table = Clearance(arm, limits.table_clearance, limits.table_height)
        self.itself = Clearance(arm, limits.self_clearance)
        self.restart()

    def restart(self) -> None:
        """The arm is at rest, and a ramp begins: at an episode's start, and after a stop."""
        self.last: Moved | None = None
        """None at rest."""
        self.accepted: int | None = None
        """Stamp of the last action that was not rejected, ns."""
        self.began: int | None = None
        """Stamp of the first action since the start that was not rejected, ns."""
        self._held: Vector | None = None

    def command(self, request: Request) -> Command:
        """Judge one action.

        Returns:
            The command to give; holding the measured position where the action is rejected.
        """
        if self.last and not 0 < request.stamp - self.last.stamp <= REST * self.period * 1e9:
            self.last = None
        position, rotation = self.arm.forward(request.measured)
        velocity, gripper = np.asarray(request.velocity, np.float64), np.asarray(request.gripper, np.float64)
        motion = Motion(request, position, velocity, gripper, yaw_velocity=float(request.yaw_velocity))
        for check in self.before:
            if rejection := check.judge(self, motion):
                return self._reject(request, *rejection)
        target = position + motion.velocity * self.period
        yaw = _yaw(rotation) + motion.yaw_velocity * self.period
        wanted, motion.error = self.arm.inverse(request.measured, target, self.arm.down(yaw))
        motion.joint_velocity = (wanted - request.measured) / self.period
        for check in self.after:
            if rejection := check.judge(self, motion):
                return self._reject(request, *rejection)
        positions = request.measured + motion.joint_velocity * self.period
        self._note(request, positions)
        self.accepted, self._held = request.stamp, None
        if self.began is None:
            self.began = request.stamp
        return Command(positions, float(motion.gripper[0]), tuple(motion.codes))

    def hold(self, measured: Vector, gripper: float, code: Code, detail: str = "") -> Command:
        """The command that stays where the arm is, with the reason.

        While it goes on it stays the same: following what is measured, the arm would sag from hold to hold.
        """
        if self._held is None or _largest(self._held - measured) > HOLD_TOLERANCE:
            self._held = measured.copy()
        self.last = None
        return Command(self._held.copy(), gripper, (code,), detail)

    def share(self, stamp: int) -> float:
        """Of the full speed that the ramp allows at that stamp."""
        if not self.limits.ramp:
            return 1.0
        began = stamp if self.began is None else self.began
        return min(max((stamp - began) * 1e-9 / self.limits.ramp, RAMP_FLOOR), 1.0)

    def excess(self, tool: Vector) -> Vector:
        """m that a tool position (3,) is outside the workspace by, along each axis."""
        return np.maximum(np.maximum(self.low - tool, tool - self.high), 0.0)

    def reached(self, motion: Motion, joint_velocity: Vector) -> Vector:
        """Where joints that fast would bring the tool, (3,) m; looked up once for each motion of the joints."""
        if motion.looked_up is None or motion.looked_up[0] is not joint_velocity:
            reached, _ = self.arm.forward(motion.request.measured + joint_velocity * self.period)
            motion.looked_up = joint_velocity, reached
        return motion.looked_up[1]

    def inside(self, motion: Motion, joint_velocity: Vector) -> bool:
        """Whether joints that fast would leave the tool in the workspace; outside it, no further out."""
        reached = self.reached(motion, joint_velocity)
        out, before = self.excess(reached).tolist(), self.excess(motion.tool).tolist()
        return all(now <= max(then, EDGE) for now, then in zip(out, before, strict=True))

    def hurry(self, motion: Motion, joint_velocity: Vector) -> float:
        """How many times faster than it may be the tool would be; a little is rounding."""
        reached = self.reached(motion, joint_velocity)
        return _largest(reached - motion.tool) / (self.limits.speed * self.period + EDGE)

    def within(self, motion: Motion, joint_velocity: Vector) -> bool:
        """Whether they would be within their limits; beyond them, no further out."""
        measured = motion.request.measured
        positions = measured + joint_velocity * self.period
        low, high = np.minimum(self.joint_low, measured), np.maximum(self.joint_high, measured)
        return bool(((positions >= low - 1e-9) & (positions <= high + 1e-9)).all())

    def _reject(self, request: Request, code: Code, detail: str) -> Command:
        newest = request.measured if request.newest is None else request.newest
        return self.hold(newest, request.held_gripper, code, detail)

    def _note(self, request: Request, positions: Vector) -> None:
        last, velocity = self.last, (positions - request.measured) / self.period
        acceleration = (velocity - (last.velocity if last else 0.0)) / self.period
        seen = last.seen(request) if last else None
        self.last = Moved(request.stamp, request.measured, positions, velocity, acceleration, seen)


def _finite(guard: Guard, motion: Motion) -> Rejection | None:
    # NaN passes every comparison and clamp below, so this comes first.
    if _all_finite(motion.velocity) and _all_finite(motion.gripper) and math.isfinite(motion.yaw_velocity):
        return None
    return Code.NOT_FINITE, (
        f"velocity {motion.velocity.tolist()}, about the vertical {motion.yaw_velocity}, "
        f"gripper {motion.gripper.tolist()}"
    )


def _size(guard: Guard, motion: Motion) -> Rejection | None:
    velocity, gripper = motion.velocity.shape, motion.gripper.shape
    if (velocity, gripper) == ((3,), (1,)):
        return None
    return Code.WRONG_SIZE, f"shapes {velocity} and {gripper}, not (3,) and (1,)"


def _age(guard: Guard, motion: Motion) -> Rejection | None:
    request, most = motion.request, guard.limits.action_age
    age = (request.measured_stamp - request.stamp) * 1e-9
    if age < 0:
        return Code.FUTURE_ACTION, f"answers an observation {-age:.3f} s newer than the newest joint state"
    if age > most or request.waited > most:
        return Code.STALE_ACTION, (
            f"answers an observation {age:.3f} s older than the newest joint state, and came {request.waited:.3f} s "
            f"ago; allowed are {most:.3f} s"
        )
    return None


def _goal(guard: Guard, motion: Motion) -> Rejection | None:
    goal = motion.request.goal
    if goal is None or _all_finite(goal):
        return None
    return Code.GOAL_INVALID, f"the desired goal is {goal.tolist()}: its encoder does not vouch for it"


def _speed(guard: Guard, motion: Motion) -> None:
    most = guard.limits.speed
    # A rounding error above the limit is no reason to report a limit.
    turn = guard.limits.yaw_speed
    if _largest(motion.velocity) > most * (1 + 1e-6) or abs(motion.yaw_velocity) > turn * (1 + 1e-6):
        motion.codes.append(Code.SPEED_LIMITED)
    motion.velocity = _clip(motion.velocity, -most, most)
    motion.yaw_velocity = min(max(motion.yaw_velocity, -turn), turn)


def _ramp(guard: Guard, motion: Motion) -> None:
    share = guard.share(motion.request.stamp)
    most = guard.limits.speed * share
    if share < 1.0 and _largest(motion.velocity) > most * (1 + 1e-6):
        motion.codes.append(Code.RAMP_LIMITED)
        motion.velocity = _clip(motion.velocity, -most, most)
    turn = guard.limits.yaw_speed * share
    motion.yaw_velocity = min(max(motion.yaw_velocity, -turn), turn)


def _workspace(guard: Guard, motion: Motion) -> None:
    target = motion.tool + motion.velocity * guard.period
    inside = _clip(target, guard.low, guard.high)
    correction = np.abs(inside - target)
    if _largest(correction) > 1e-9:
        if (correction > guard.unsaid).any():
            motion.codes.append(Code.WORKSPACE_LIMITED)
        # A tool that is outside comes back, and no faster than it may go.
        most = guard.limits.speed * guard.share(motion.request.stamp)
        motion.velocity = _clip((inside - motion.tool) / guard.period, -most, most)


def _gripper(guard: Guard, motion: Motion) -> None:
    bounded = _clip(motion.gripper, 0.0, 1.0)
    if _largest(bounded - motion.gripper) > 1e-6:
        motion.codes.append(Code.GRIPPER_LIMITED)
    motion.gripper = bounded


TOOL_CHECKS: tuple[Check, ...] = (
    Check("finite", _finite),
    Check("size", _size),
    Check("age", _age),
    Check("goal", _goal),
    Check("gripper", _gripper),
    Check("speed", _speed),
    Check("ramp", _ramp),
    Check("workspace", _workspace),
)
"""Of the action; then inverse kinematics turns the tool's velocity into that of the joints."""


def _reach(guard: Guard, motion: Motion) -> Rejection | None:
    if motion.error <= guard.limits.reach_error:
        return None
    return Code.OUT_OF_REACH, f"misses the target by {motion.error:.3f}"


def _joint_position(guard: Guard, motion: Motion) -> None:
    """No joint is faster than it can brake before its limit; one beyond it goes no further, but may come back."""
    measured = motion.request.measured
    room = np.array([guard.joint_high - measured, measured - guard.joint_low])
    up, down = _stoppable(room, guard.acceleration, guard.period)
    bounded = _clip(motion.joint_velocity, -down, up)
    if _largest(bounded - motion.joint_velocity) > 1e-9:
        motion.codes.append(Code.JOINT_POSITION_LIMITED)
    motion.joint_velocity = bounded


def _joint_speed(guard: Guard, motion: Motion) -> None:
    """Against what was measured, then and last, and against the last command. All joints slow down together: the tool
    stays on its line."""
    request, most = motion.request, guard.joint_speed * guard.share(motion.request.stamp)
    low, high = -most, most
    newest = request.measured if request.newest is None else request.newest
    for other in (newest, *([guard.last.positions] if guard.last else [])):
        ahead = (other - request.measured) / guard.period
        low, high = _both(low, high, ahead - most, ahead + most)
    _reduce(motion, _clip(np.zeros_like(low), low, high), low, high, Code.JOINT_SPEED_LIMITED)


def _acceleration(guard: Guard, motion: Motion) -> None:
    """Against the last command, and against the measured velocity."""
    last, change = guard.last, guard.acceleration * guard.period
    rest = np.zeros_like(change)
    commanded, seen = (last.velocity, last.seen(motion.request)) if last else (rest, rest)
    low, high = _both(seen - change, seen + change, commanded - change, commanded + change)
    _brake(guard, motion, _clip(commanded, low, high), low, high, Code.ACCELERATION_LIMITED)


def _jerk(guard: Guard, motion: Motion) -> None:
    """Against the last two commands, and against the last two measured velocities."""
    last, change = guard.last, guard.jerk * guard.period**2
    commanded = last.velocity + last.acceleration * guard.period if last else np.zeros_like(change)
    low, high = commanded - change, commanded + change
    if last and last.seen_velocity is not None:
        seen = 2.0 * last.seen(motion.request) - last.seen_velocity
        low, high = _both(seen - change, seen + change, low, high)
    _brake(guard, motion, _clip(commanded, low, high), low, high, Code.JERK_LIMITED)


def _tool_speed(guard: Guard, motion: Motion) -> None:
    """Of what the joints' limits have left of the motion, which may bend the tool's way."""
    if (times := guard.hurry(motion, motion.joint_velocity)) > 1.0:
        motion.codes.append(Code.SPEED_LIMITED)
        motion.joint_velocity = motion.joint_velocity / times


def _outside(guard: Guard, motion: Motion) -> Rejection | None:
    """Of what the joints' limits have left of the motion."""
    if guard.inside(motion, motion.joint_velocity):
        return None
    return Code.OUTSIDE_WORKSPACE, "the joints' limits would lead the tool out of the workspace"


def _table(guard: Guard, motion: Motion) -> Rejection | None:
    return _apart(guard.table, motion, guard.period, Code.TABLE)


def _self_collision(guard: Guard, motion: Motion) -> Rejection | None:
    return _apart(guard.itself, motion, guard.period, Code.SELF_COLLISION)


def _rate(guard: Guard, motion: Motion) -> Rejection | None:
    if guard.accepted is None:
        return None
    gap = (motion.request.stamp - guard.accepted) * 1e-9
    if gap >= guard.period / 2:
        return None
    return Code.TOO_OFTEN, f"{gap:.3f} s after the last action, the control period is {guard.period:.3f} s"


JOINT_CHECKS: tuple[Check, ...] = (
    Check("reach", _reach),
    Check("joint_position", _joint_position),
    Check("joint_speed", _joint_speed),
    Check("acceleration", _acceleration),
    Check("jerk", _jerk),
    Check("speed", _tool_speed),
    Check("workspace", _outside),
    Check("table", _table),
    Check("self_collision", _self_collision),
    Check("rate", _rate),
)
"""Of what the joints would do. Speed and workspace are looked at again: it is the joints that move the tool."""

CHECKS = TOOL_CHECKS + JOINT_CHECKS


def _clip(values: Vector, low: Vector | float, high: Vector | float) -> Vector:
    # For a few numbers this, and the two below, are several times as fast as numpy's own.
    clipped: Vector = np.minimum(np.maximum(values, low), high)
    return clipped


def _largest(values: Vector) -> float:
    """Of finite numbers, the largest magnitude."""
    return max(map(abs, values.ravel().tolist()))


def _all_finite(values: Vector) -> bool:
    return all(map(math.isfinite, values.ravel().tolist()))


def _stoppable(distance: Vector, acceleration: Vector, period: float) -> Vector:
    """The highest speed from which a joint stops within the distance, if it slows by at most `acceleration * period`
    in each period; zero where there is no distance left."""
    left, step = np.maximum(distance, 0.0), acceleration * period
    # Braking from v takes whole periods n = floor(v / step), and period * ((n + 1) v - step n (n + 1) / 2).
    whole = np.floor((np.sqrt(1.0 + 8.0 * left / (step * period)) - 1.0) / 2.0)
    return (left / period + step * whole * (whole + 1.0) / 2.0) / (whole + 1.0)


def _both(low: Vector, high: Vector, other_low: Vector, other_high: Vector) -> tuple[Vector, Vector]:
    """What two ranges have in common; where they have nothing, the point of the first that is nearest to the other."""
    return _clip(other_low, low, high), _clip(other_high, low, high)


def _reduce(motion: Motion, start: Vector, low: Vector, high: Vector, code: Code) -> None:
    """Go from `start`, which is within the range, towards the wanted velocity as far as every joint may."""
    wanted = motion.joint_velocity
    if ((wanted >= low - 1e-9) & (wanted <= high + 1e-9)).all():
        return
    change = wanted - start
    room = np.where(change > 0, high - start, low - start)
    share = np.min(np.divide(room, change, out=np.ones_like(change), where=np.abs(change) > 1e-12))
    motion.joint_velocity = start + max(share, 0.0) * change
    motion.codes.append(code)


def _brake(guard: Guard, motion: Motion, start: Vector, low: Vector, high: Vector, code: Code) -> None:
    """As `_reduce`, but the arm brakes as hard as it must: where it may be, and how fast, goes before how gently."""
    wanted = motion.joint_velocity
    _reduce(motion, start, low, high, code)
    reduced = motion.joint_velocity
    if reduced is wanted:
        return
    for share in BRAKES:
        motion.joint_velocity = (1.0 - share) * reduced
        velocity = motion.joint_velocity
        if guard.within(motion, velocity) and guard.inside(motion, velocity) and guard.hurry(motion, velocity) <= 1.0:
            break
        motion.codes[-1] = Code.BRAKED


def _apart(clearance: Clearance, motion: Motion, period: float, code: Code) -> Rejection | None:
    """Too near is where the arm may not go; from there it may come away."""
    measured = motion.request.measured
    positions = measured + motion.joint_velocity * period
    if clearance.kept(positions):
        return None
    near, what = clearance.nearest(positions)
    before, _ = clearance.nearest(measured)
    return None if near > before else (code, f"{what} would be {near:.4f} m apart")


def _yaw(rotation: Vector) -> float:
    """Heading of a tool that points down, rad; see Arm.down."""
    return math.atan2(rotation[1, 0], rotation[0, 0])
