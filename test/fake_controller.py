"""A joint_trajectory_controller as its documentation describes it: what it accepts, follows and gives up.

Written from the documented interface of ros2_controllers: command interface position, state interface position;
parameters `constraints` (trajectory, goal, goal_time), `cmd_timeout`, `allow_nonzero_velocity_at_trajectory_end`
(false), `allow_partial_joints_goal` (false), `interpolate_from_desired_state` and `positions_upsampling`. Like the real
one it does not look whether numbers are finite.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A point of a trajectory, in the order of the message's joint names."""

    positions: tuple[float, ...]
    time_from_start: float
    velocities: tuple[float, ...] = ()


@dataclass(frozen=True)
class Trajectory:
    """A trajectory_msgs/JointTrajectory; stamp 0 begins now, s otherwise."""

    stamp: float
    joint_names: tuple[str, ...]
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Parameters:
    """The controller's parameters; the defaults of the real one, but for tolerances, which there are none of."""

    path_tolerance: float = 0.0
    """rad; 0 is none."""
    goal_tolerance: float = 0.0
    """rad; 0 is none."""
    goal_time: float = 0.0
    """s; 0 waits for ever."""
    cmd_timeout: float = 0.0
    """s after the end of a trajectory; 0 is none."""
    interpolate_from_desired_state: bool = False
    policy_frequency: float = 0.0
    """Hz of positions-only chunks (positions_upsampling); 0 does not upsample."""


@dataclass
class _Active:
    times: Vector
    """s, from the moment it was accepted."""
    positions: Vector
    velocities: Vector | None
    began: float
    ends: float


@dataclass
class FakeTrajectoryController:
    """Call `command` with each message and `update` at the update rate; both take the controller's clock, s."""

    joints: tuple[str, ...]
    measured: Vector
    parameters: Parameters = field(default_factory=Parameters)
    accepted: int = 0
    rejected: list[str] = field(default_factory=list)
    """Why messages were rejected."""
    aborted: list[str] = field(default_factory=list)
    """Why trajectories that had begun were given up; the arm is held where it was measured."""
    reference: Vector = field(init=False)
    """What the joints are told."""
    reference_velocity: Vector = field(init=False)

    def __post_init__(self) -> None:
        self.reference, self.reference_velocity = self.measured.copy(), np.zeros_like(self.measured)
        self._active: _Active | None = None

    @property
    def error(self) -> Vector:
        """The state's error: reference minus feedback."""
        return self.reference - self.measured

    def command(self, trajectory: Trajectory, now: float) -> bool:
        """A message on ~/joint_trajectory; whether it is followed."""
        trajectory = self._with_times(trajectory)
        if reason := self._refusal(trajectory, now):
            self.rejected.append(reason)
            return False
        order = [trajectory.joint_names.index(name) for name in self.joints]
        start = trajectory.stamp or now
        first = self.reference if self.parameters.interpolate_from_desired_state else self.measured
        times = np.array([now, *(start + point.time_from_start for point in trajectory.points)])
        positions = np.array([first, *(np.array(point.positions)[order] for point in trajectory.points)])
        velocities = None
        if trajectory.points[0].velocities:
            given = [np.array(point.velocities)[order] for point in trajectory.points]
            velocities = np.array([self.reference_velocity, *given])
        kept = np.concatenate([[True], times[1:] > now])  # points in the past are left out
        if velocities is None and self.parameters.policy_frequency:
            velocities = _spline_velocities(times[kept], positions[kept], self.reference_velocity)
        elif velocities is not None:
            velocities = velocities[kept]
        self._active = _Active(times[kept], positions[kept], velocities, now, float(times[-1]))
        self.accepted += 1
        return True

    def update(self, now: float, measured: Vector) -> Vector:
        """One cycle of the controller; returns what the hardware is told."""
        self.measured = measured
        active, limits = self._active, self.parameters
        if active is None:
            return self.reference
        self.reference, self.reference_velocity = _sample(active, now)
        error = np.max(np.abs(self.error))
        if now < active.ends:
            if 0 < limits.path_tolerance < error:
                self._abort(f"path tolerance: {error:.3f} rad")
        elif limits.goal_time and now > active.ends + limits.goal_time and 0 < limits.goal_tolerance < error:
            self._abort(f"goal tolerance: {error:.3f} rad {limits.goal_time:g} s after the end")
        elif limits.cmd_timeout > limits.goal_time and now > active.ends + limits.cmd_timeout:
            self._abort(f"cmd_timeout: nothing for {limits.cmd_timeout:g} s after the end of the trajectory")
        return self.reference

    def _abort(self, reason: str) -> None:
        self.aborted.append(reason)
        self.reference, self.reference_velocity = self.measured.copy(), np.zeros_like(self.measured)
        self._active = None

    def _with_times(self, trajectory: Trajectory) -> Trajectory:
        """Points without any time get those of the policy's frequency, where chunks are expected."""
        frequency, points = self.parameters.policy_frequency, trajectory.points
        if not frequency or any(point.time_from_start or point.velocities for point in points):
            return trajectory
        timed = [Point(point.positions, (i + 1) / frequency) for i, point in enumerate(points)]
        return Trajectory(trajectory.stamp, trajectory.joint_names, tuple(timed))

    def _refusal(self, trajectory: Trajectory, now: float) -> str:
        names, points = trajectory.joint_names, trajectory.points
        if not names:
            return "no joint names"
        if len(names) != len(self.joints):
            return f"{len(names)} joints, the controller has {len(self.joints)}"
        if unknown := [name for name in names if name not in self.joints]:
            return f"'{unknown[0]}' is none of the controller's joints"
        if len(set(names)) < len(names):
            return "a joint is named twice"
        if not points:
            return "an empty trajectory"
        if trajectory.stamp and trajectory.stamp + points[-1].time_from_start < now:
            return "ends in the past"
        if points[-1].velocities and any(abs(velocity) > 1e-9 for velocity in points[-1].velocities):
            return "velocity at the end is not zero"
        before = -1.0
        for point in points:
            if point.time_from_start <= before:
                return f"time between points is not increasing: {before:g} s, {point.time_from_start:g} s"
            before = point.time_from_start
            if len(point.positions) != len(names):
                return f"{len(point.positions)} positions for {len(names)} joints"
            if point.velocities and len(point.velocities) != len(names):
                return f"{len(point.velocities)} velocities for {len(names)} joints"
        return ""


def _sample(active: _Active, now: float) -> tuple[Vector, Vector]:
    """Position and velocity: linear where only positions are known, cubic where velocities are, held at the end."""
    times, positions, velocities = active.times, active.positions, active.velocities
    if now >= times[-1]:
        return positions[-1].copy(), np.zeros_like(positions[-1])
    after = int(np.searchsorted(times, now, side="right"))
    before, span = after - 1, times[after] - times[after - 1]
    share, step = (now - times[before]) / span, positions[after] - positions[before]
    if velocities is None:
        return positions[before] + share * step, step / span
    left, right = velocities[before] * span, velocities[after] * span
    a, b = 2 * (positions[before] - positions[after]) + left + right, 3 * step - 2 * left - right
    position = positions[before] + share * (left + share * (b + share * a))
    return position, (left + share * (2 * b + 3 * share * a)) / span


def _spline_velocities(times: Vector, positions: Vector, start: Vector) -> Vector:
    """Velocities at the points that make the curve twice continuously differentiable; at rest at the end."""
    count, gaps = len(times), np.diff(times)
    matrix, right = np.eye(count), np.zeros_like(positions)
    right[0] = start
    for i in range(1, count - 1):
        h0, h1 = gaps[i - 1], gaps[i]
        matrix[i, i - 1 : i + 2] = 1 / h0, 2 / h0 + 2 / h1, 1 / h1
        right[i] = 3 * ((positions[i] - positions[i - 1]) / h0**2 + (positions[i + 1] - positions[i]) / h1**2)
    return np.linalg.solve(matrix, right)
