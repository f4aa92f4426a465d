"""What Gazebo needs beside the graph, from `sim/gazebo/`: processes, the bridge, the arm's description. No ROS."""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rl_ros import schema
from rl_ros.resources import share_directory, share_file
from rl_ros.robot import Robot


@dataclass(frozen=True)
class Process:
    """A program of another package, or a command; one of both."""

    package: str = ""
    executable: str = ""
    command: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.package and self.executable) == bool(self.command):
            raise ValueError("expected either package and executable, or command.")


@dataclass(frozen=True)
class Bridged:
    """One topic that ros_gz_bridge carries."""

    ros_topic_name: str
    gz_topic_name: str
    ros_type_name: str
    gz_type_name: str
    direction: Literal["GZ_TO_ROS", "ROS_TO_GZ", "BIDIRECTIONAL"]
    subscriber_queue: int = 10
    publisher_queue: int = 10
    lazy: bool = False

    def __post_init__(self) -> None:
        if not self.ros_topic_name.startswith("/"):
            raise ValueError(f"ros_topic_name: expected an absolute name, got '{self.ros_topic_name}'.")
        if len(self.ros_type_name.split("/")) != 3 or not self.gz_type_name.startswith("gz.msgs."):
            raise ValueError(f"expected types such as pkg/msg/Name and gz.msgs.Name, got {self.ros_type_name}.")


@dataclass(frozen=True)
class _Processes:
    processes: dict[str, Process]


@dataclass(frozen=True)
class _Bridge:
    topics: tuple[Bridged, ...]


DEFAULT_WORLD = "lift"


def worlds() -> list[str]:
    """The names of all worlds."""
    return sorted(file.stem for file in share_file("sim/gazebo/lift.sdf").parent.glob("*.sdf"))


def world_of(scene: str) -> str:
    """The world that is like a scene of the simulation; where there is none, the table with the cube."""
    return scene if scene in worlds() else DEFAULT_WORLD


def processes(world: str = DEFAULT_WORLD) -> dict[str, Process]:
    """What is to be started, in that order, with every place filled in.

    Args:
        world: one of those in `sim/gazebo`.

    Raises:
        UserError: a file is wrong.
    """
    file = schema.load(_Processes, share_file("sim/gazebo/processes.yaml"))
    values = {"$(share)": str(share_directory()), "$(world)": world, "$(robot_description)": robot_description()}

    def filled(text: Any) -> Any:
        for name, value in values.items():
            text = text.replace(name, value) if isinstance(text, str) else text
        return text

    return {
        name: replace(
            process,
            command=tuple(filled(part) for part in process.command),
            arguments=tuple(filled(part) for part in process.arguments),
            parameters={key: filled(value) for key, value in process.parameters.items()},
        )
        for name, process in file.processes.items()
    }


def bridged() -> tuple[Bridged, ...]:
    """What the bridge carries.

    Raises:
        UserError: the file is wrong.
    """
    path = share_file("sim/gazebo/bridge.yaml")
    return schema.convert(_Bridge, {"topics": schema.plain_yaml(path.read_text())}, str(path)).topics


def robot_description() -> str:
    """The Panda's URDF with a stand, ros2_control and Gazebo's plugin: each joint begins at home, the hand open."""
    robot = Robot.load("panda")
    root = ElementTree.parse(share_file(robot.urdf)).getroot()
    extra = ElementTree.parse(share_file("sim/gazebo/panda.xml")).getroot()
    root.extend(list(extra))
    system = root.find("ros2_control")
    assert system is not None
    revolute = [joint.get("name", "") for joint in root.findall("joint[@type='revolute']")]
    begin = dict(zip(revolute, robot.home, strict=True)) | dict.fromkeys(robot.gripper.joints, robot.gripper.open)
    for name, position in begin.items():
        joint = ElementTree.SubElement(system, "joint", name=name)
        ElementTree.SubElement(joint, "command_interface", name="position")
        state = ElementTree.SubElement(joint, "state_interface", name="position")
        ElementTree.SubElement(state, "param", name="initial_value").text = str(position)
        ElementTree.SubElement(joint, "state_interface", name="velocity")
    for parameters in root.iter("parameters"):
        parameters.text = (parameters.text or "").replace("$(share)", str(share_directory()))
    return ElementTree.tostring(root, encoding="unicode")
