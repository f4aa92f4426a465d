"""Kinematics and limits of the arm, on Pinocchio.

Positions are metres, angles radians, in the arm's base frame (REP 103: x forward, y left, z up).
"""

import math
from pathlib import Path

import eigenpy
import numpy as np
import pinocchio
from numpy.typing import ArrayLike, NDArray

from rl_ros.errors import UserError
from rl_ros.resources import share_file
from rl_ros.robot import Robot

_HOME_PULL = 0.05  # share of the way home, within the null space, that one call of `inverse` takes
_CONVERGED = 1e-6  # m and rad together
_IDENTITY = np.eye(6)


class Arm:
    """Forward and inverse kinematics of an arm of six or more revolute joints, N in all, and its gripper.

    Every method is a function of its arguments alone. One instance serves one thread at a time
    (Pinocchio computes in a scratch area that the instance owns).

    Attributes:
        robot: what `config/robots/` says of it.
        joint_names: the revolute joints, base to tool.
        finger_joint_names: the prismatic joints of the hand, if the URDF has them.
        lower, upper: position limits, rad, float64 (N,).
        velocity_limit: rad/s, float64 (N,).
        effort_limit: N m, float64 (N,).
        home: ready pose, tool straight down, float64 (N,).
    """

    def __init__(self, robot: str = "panda", urdf: Path | None = None) -> None:
        """Loads the URDF of a robot.

        Args:
            robot: name of one in `config/robots/`, or a path.
            urdf: another description of the same robot.

        Raises:
            UserError: there is no such robot, its URDF cannot be read, has other joints than its home or no such frame.
        """
        self.robot = Robot.load(robot)
        self.urdf, tool_frame = urdf or share_file(self.robot.urdf), self.robot.tool_frame
        try:
            whole = pinocchio.buildModelFromUrdf(str(self.urdf))
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{self.urdf} cannot be read as a URDF: {error}.") from error
        names = list(whole.names)[1:]  # the first is Pinocchio's "universe"
        prismatic = [name for name in names if "JointModelP" in whole.joints[whole.getJointId(name)].shortname()]
        model = pinocchio.buildReducedModel(
            whole, [whole.getJointId(name) for name in prismatic], pinocchio.neutral(whole)
        )
        expected = len(self.robot.home)
        if model.nq != expected or model.nv != expected:
            raise UserError(f"{self.urdf} has {model.nv} arm joints; {self.robot.name} has {expected} revolute joints.")
        if not model.existFrame(tool_frame):
            raise UserError(f"{self.urdf} has no frame named {tool_frame}.")
        self._model = model
        self._data = model.createData()
        self._frame = model.getFrameId(tool_frame)
        self.tool_frame = tool_frame
        self.joint_names: tuple[str, ...] = tuple(list(model.names)[1:])
        self.finger_joint_names: tuple[str, ...] = tuple(prismatic)
        self.lower: NDArray[np.float64] = model.lowerPositionLimit.copy()
        self.upper: NDArray[np.float64] = model.upperPositionLimit.copy()
        self.velocity_limit: NDArray[np.float64] = model.upperVelocityLimit.copy()
        self.effort_limit: NDArray[np.float64] = model.upperEffortLimit.copy()
        self.home: NDArray[np.float64] = np.array(self.robot.home)

    def forward(self, positions: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pose of the tool: position (3,), m, and rotation matrix (3, 3), for joint positions (N,).

        Raises:
            ValueError: positions are not N finite numbers.
        """
        pinocchio.framesForwardKinematics(self._model, self._data, _finite("positions", positions, self.home.shape))
        pose = self._data.oMf[self._frame]
        return pose.translation.copy(), pose.rotation.copy()

    def jacobian(self, positions: ArrayLike) -> NDArray[np.float64]:
        """Jacobian (6, N) at the tool in world axes: rows are linear (m/rad), then angular (rad/rad) velocity.

        Raises:
            ValueError: positions are not N finite numbers.
        """
        return self._jacobian(_finite("positions", positions, self.home.shape), pinocchio.LOCAL_WORLD_ALIGNED)

    def inverse(
        self,
        seed_positions: ArrayLike,
        position: ArrayLike,
        rotation: ArrayLike,
        iterations: int = 20,
        damping: float = 1e-3,
    ) -> tuple[NDArray[np.float64], float]:
        """Joint positions that bring the tool to a pose near the seed's, by damped least squares.

        Each iteration takes the step of Nakamura and Hanafusa (1986), `J^T (J J^T + damping^2 I)^-1 e`.
        The first also moves a little towards `home` within the null space of J, so that a long sequence
        of small steps does not wander through the redundant direction. Results keep to the joint limits.

        Args:
            seed_positions: joint positions to start from, (N,).
            position: wanted tool position, m, (3,).
            rotation: wanted tool rotation matrix, (3, 3).
            iterations: the most steps to take; fewer are taken once the error is below 1e-6.
            damping: trades accuracy near singular poses for smaller joint steps.

        Returns:
            Joint positions, float64 (N,), and the error that remains: the norm of (m, rad) together.
            A large error says that the pose is out of reach, not that something failed.

        Raises:
            ValueError: an argument has the wrong shape or is not finite.
        """
        positions = np.minimum(
            np.maximum(_finite("seed_positions", seed_positions, self.home.shape), self.lower), self.upper
        )
        target = pinocchio.SE3(_finite("rotation", rotation, (3, 3)), _finite("position", position, (3,)))
        regularisation = damping**2 * _IDENTITY
        pull: NDArray[np.float64] | None = _HOME_PULL * (self.home - positions)
        for iteration in range(iterations + 1):
            jacobian = self._jacobian(positions, pinocchio.LOCAL)
            error = self._error(target)
            if iteration == iterations or (error @ error < _CONVERGED**2 and pull is None):
                break
            # Its solver is four times as fast as numpy's, which is made for larger matrices.
            transposed = jacobian.T
            gram = eigenpy.LLT(jacobian.dot(transposed) + regularisation)
            if pull is None:
                step = transposed.dot(gram.solve(error))
            else:
                # J# (e - J pull) + pull: the pull, and what the task needs on top of it.
                step = transposed.dot(gram.solve(error - jacobian.dot(pull))) + pull
                pull = None
            positions = np.minimum(np.maximum(positions + step, self.lower), self.upper)
        return positions, float(np.sqrt(error @ error))

    @staticmethod
    def down(yaw: float = 0.0) -> NDArray[np.float64]:
        """Rotation (3, 3) of a tool that points straight down, turned by `yaw` rad about the world's z.

        At yaw 0 the tool's x is the world's x, and the fingers open along the world's y.

        Raises:
            ValueError: yaw is not finite.
        """
        if not math.isfinite(yaw):
            raise ValueError(f"yaw must be finite, not {yaw}")
        cosine, sine = math.cos(yaw), math.sin(yaw)
        return np.array([[cosine, sine, 0.0], [sine, -cosine, 0.0], [0.0, 0.0, -1.0]])

    def _jacobian(self, positions: NDArray[np.float64], axes: "pinocchio.ReferenceFrame") -> NDArray[np.float64]:
        """The Jacobian (6, N) at the tool in the given axes; leaves the tool's pose in the scratch area."""
        pinocchio.computeJointJacobians(self._model, self._data, positions)
        pinocchio.updateFramePlacement(self._model, self._data, self._frame)
        return pinocchio.getFrameJacobian(self._model, self._data, self._frame, axes)

    def _error(self, target: "pinocchio.SE3") -> NDArray[np.float64]:
        """Twist (6,) in the tool's axes from the pose in the scratch area to the target."""
        return pinocchio.log6(self._data.oMf[self._frame].actInv(target)).np


def _finite(name: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The value as float64 of the given shape; ValueError where it is not, or is not finite."""
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {array.shape}")
    # For so few numbers several times as fast as numpy's, and it is asked at every command.
    if not all(map(math.isfinite, array.ravel().tolist())):
        raise ValueError(f"{name} must be finite, not {array.tolist()}")
    return array


def quaternion(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """A rotation matrix (3, 3) as x, y, z, w."""
    return np.array(eigenpy.Quaternion(rotation).coeffs())
