"""What a robot is to rl_ros: `config/robots/NAME.yaml`, read into one dataclass. No kinematics, no ROS."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from rl_ros import schema
from rl_ros.errors import UserError
from rl_ros.resources import share_directory

Place = Literal["real", "gazebo"]


@dataclass(frozen=True)
class Gripper:
    """The joints that the gripper's controller moves, and where each is when it is closed and when it is open."""

    joints: tuple[str, ...]
    closed: float
    """m or rad."""
    open: float
    """m or rad."""

    def position(self, opening: float) -> float:
        """Where each joint is, m or rad, at an opening from 0 (closed) to 1 (open)."""
        return self.closed + opening * (self.open - self.closed)


@dataclass(frozen=True)
class Robot:
    """An arm with its gripper, and what its drivers call their topics. Position, velocity and effort limits are in
    the URDF; here is what a URDF cannot say."""

    name: str
    urdf: str
    """Relative to the files that ship with rl_ros."""
    base_frame: str
    tool_frame: str
    home: tuple[float, ...]
    """rad: where an episode begins, the tool straight down."""
    joint_acceleration: tuple[float, ...]
    """rad/s^2, at most."""
    joint_jerk: tuple[float, ...]
    """rad/s^3, at most."""
    gripper: Gripper
    topics: dict[Place, dict[str, str]] = field(default_factory=dict)
    """By where the arm is: the name that its drivers use for a topic of ours."""

    def __post_init__(self) -> None:
        for name in ("joint_acceleration", "joint_jerk"):
            if len(getattr(self, name)) != len(self.home) or min(getattr(self, name)) <= 0:
                raise ValueError(f"{name}: expected {len(self.home)} positive numbers, as many as home has.")
        if self.gripper.open == self.gripper.closed:
            raise ValueError("gripper: open and closed are the same.")

    def values(self) -> dict[str, str]:
        """What a graph may use as `$(arm.NAME)`, as text."""
        return {
            f"arm.{entry.name}": str(list(value)) if isinstance(value, tuple) else str(value)
            for entry in fields(self)
            if isinstance(value := getattr(self, entry.name), (str, tuple))
        }

    @classmethod
    def load(cls, name: str) -> "Robot":
        """The robot of that name in `config/robots/`, or of a path to a YAML file of that form.

        Raises:
            UserError: there is none, or it is wrong.
        """
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            path = share_directory() / "config" / "robots" / f"{name}.yaml"
            if not path.is_file():
                known = ", ".join(sorted(each.stem for each in path.parent.glob("*.yaml")))
                raise UserError(f"no robot is named '{name}'; there are: {known}, or give a path to a .yaml.")
        return schema.load(cls, path)
