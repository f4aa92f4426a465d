"""Gazebo is not to be had here: what it is given is checked by its own parser where that is installed, and by ours."""

import ctypes
import ctypes.util
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import yaml

from rl_ros import gazebo
from rl_ros.contract import Contract
from rl_ros.errors import UserError
from rl_ros.graph import absolute, load_graph, resolve
from rl_ros.resources import share_directory, share_file
from rl_ros.robots.arm import Arm
from rl_ros.robots.bin import BinScene
from rl_ros.robots.pybullet_arm import Scene
from rl_ros.training.preflight import commanded, expected

LIBRARY = next((name for n in (16, 15, 14, 13, 12) if (name := ctypes.util.find_library(f"sdformat{n}"))), None)
needs_library = pytest.mark.skipif(
    LIBRARY is None, reason="libsdformat is not installed: on Debian, apt-get install libsdformat-dev sdformat-sdf"
)
WORLDS = share_directory() / "sim" / "gazebo"
WORLD = WORLDS / "lift.sdf"


def is_valid(path: Path) -> bool:
    """What `gz sdf --check` says."""
    assert LIBRARY is not None
    status: int = ctypes.CDLL(LIBRARY).cmdCheck(str(path).encode())
    return status == 0


@needs_library
def test_the_world_and_the_arm_are_valid_for_gazebos_own_parser(tmp_path: Path) -> None:
    for world in ("lift", "grasp"):
        assert is_valid(WORLDS / f"{world}.sdf")
    arm = tmp_path / "panda.urdf"
    arm.write_text(gazebo.robot_description())
    assert is_valid(arm)


@needs_library
def test_that_parser_would_find_a_mistake(tmp_path: Path) -> None:
    broken = tmp_path / "broken.sdf"
    broken.write_text(WORLD.read_text().replace('<link name="cube">', '<link name="">'))
    assert not is_valid(broken)
    broken.write_text(WORLD.read_text().replace('<model name="camera">', '<model name="cube">'))
    assert not is_valid(broken)


@pytest.mark.parametrize(("name", "kind"), [("lift", Scene), ("grasp", BinScene)])
def test_the_world_is_the_scene_of_the_simulation(name: str, kind: type[Scene]) -> None:
    scene = kind.load(share_file(f"sim/scenes/{name}.yaml"))
    world = ElementTree.parse(WORLDS / f"{name}.sdf").getroot().find("world")
    assert world is not None
    assert world.get("name") == name

    def numbers(path: str) -> list[float]:
        found = world.findtext(path)
        assert found is not None, path
        return [float(number) for number in found.split()]

    assert numbers("model[@name='table']/link/collision/geometry/box/size") == list(scene.table.size)
    if isinstance(scene, BinScene):
        tray = scene.tray
        assert numbers("model[@name='tray']/pose")[:2] == list(tray.centre)
        assert numbers("model[@name='tray']/link/visual[@name='floor_look']/geometry/box/size")[:2] == list(tray.size)
        for wall in world.findall("model[@name='tray']/link/collision"):
            *_, height, roll, pitch, _ = [float(number) for number in (wall.findtext("pose") or "").split()]
            assert (2 * height, abs(roll) + abs(pitch)) == (tray.height, tray.slope)
        things = [model for model in world.findall("model") if model.find("link/inertial") is not None]
        assert len(things) == scene.drawn.count
        low, high = scene.drawn.mass
        assert all(low <= float(thing.findtext("link/inertial/mass") or "nan") <= high for thing in things)
    else:
        assert numbers("model[@name='cube']/link/collision/geometry/box/size") == list(scene.objects[0].size)
        assert numbers("model[@name='cube']/link/inertial/mass") == [scene.objects[0].mass]
    camera = "model[@name='camera']/link/sensor/camera"
    assert numbers(f"{camera}/image/width") + numbers(f"{camera}/image/height") == [scene.camera.width] * 2
    assert numbers(f"{camera}/horizontal_fov") == [scene.camera.field_of_view]  # the image is square
    *eye, roll, pitch, yaw = numbers("model[@name='camera']/pose")
    looks = [math.cos(pitch) * math.cos(yaw), math.cos(pitch) * math.sin(yaw), -math.sin(pitch)]
    way = np.subtract(scene.camera.target, scene.camera.eye)
    assert eye == list(scene.camera.eye)
    assert roll == 0.0
    np.testing.assert_allclose(looks, way / np.linalg.norm(way), atol=1e-5)
    assert numbers("model[@name='camera']/link/sensor/update_rate") == [Contract.load(name).control_rate]


def test_the_arm_in_gazebo_is_the_arm_of_the_guard(tmp_path: Path) -> None:
    root, arm = ElementTree.fromstring(gazebo.robot_description()), Arm()
    begin = {
        joint.get("name"): float(joint.findtext("state_interface[@name='position']/param") or "nan")
        for joint in root.findall("ros2_control/joint")
    }
    assert tuple(begin)[:7] == arm.joint_names
    assert list(begin.values()) == [*arm.home, arm.robot.gripper.open, arm.robot.gripper.open]
    controllers = yaml.safe_load(share_file("sim/gazebo/controllers.yaml").read_text())
    plugin = root.find("gazebo/plugin/parameters")
    assert plugin is not None and Path(str(plugin.text)).is_file()
    managed = controllers["controller_manager"]["ros__parameters"]
    spawned = gazebo.processes()["spawn_controllers"].arguments
    assert set(spawned) == {name for name, value in managed.items() if isinstance(value, dict)}
    joints = {name: controllers[name]["ros__parameters"]["joints"] for name in spawned if name in controllers}
    assert joints == {
        "panda_arm_controller": list(arm.joint_names),
        "panda_hand_controller": list(arm.robot.gripper.joints),
    }


def test_a_scene_without_a_world_of_its_own_has_the_table() -> None:
    assert gazebo.worlds() == ["grasp", "lift"]
    assert [gazebo.world_of(scene) for scene in ("grasp", "lift", "reach")] == ["grasp", "lift", "lift"]
    started = gazebo.processes("grasp")
    assert started["gazebo"].command[-1] == str(WORLDS / "grasp.sdf")
    assert started["spawn_arm"].arguments[:2] == ("-world", "grasp")


@pytest.mark.parametrize("task", ["lift", "reach", "grasp"])
def test_all_that_the_graph_expects_comes_over_the_bridge_or_from_the_controllers(task: str) -> None:
    graph = resolve(load_graph(task), {"robot": "gazebo", "bags": "somewhere"})
    carried = {topic.ros_topic_name: topic.ros_type_name for topic in gazebo.bridged()}
    carried["/joint_states"] = "sensor_msgs/msg/JointState"  # the broadcaster's
    for topic, listeners in expected(graph).items():
        for node, endpoint in listeners:
            assert carried.get(topic) == endpoint.type, f"{node.name} listens to {topic}"
    listening = {absolute(f"{name}/joint_trajectory") for name in gazebo.processes()["spawn_controllers"].arguments}
    assert set(commanded(graph)) <= listening
    recorder = next(node for node in graph.nodes if node.name == "recorder")
    assert recorder.parameters["use_sim_time"]


def test_what_is_carried_is_published_in_the_world() -> None:
    world = WORLD.read_text()
    [image] = [topic.gz_topic_name for topic in gazebo.bridged() if topic.ros_type_name.endswith("/Image")]
    assert f"<topic>{image[1:]}</topic>" in world
    assert any(topic.gz_topic_name == "/model/cube/pose" for topic in gazebo.bridged())
    assert '<model name="cube">' in world
    for name, process in gazebo.processes().items():
        texts = (*process.command, *process.arguments, *map(str, process.parameters.values()))
        assert not any("$(" in text for text in texts), name
        for text in texts:
            if text.startswith("/") and "sim/gazebo" in text and "\n" not in text:
                assert Path(text).is_file(), text


def test_a_wrong_bridge_or_process_is_named() -> None:
    with pytest.raises(ValueError, match="expected an absolute name"):
        gazebo.Bridged("clock", "/clock", "rosgraph_msgs/msg/Clock", "gz.msgs.Clock", "GZ_TO_ROS")
    with pytest.raises(ValueError, match="expected types such as"):
        gazebo.Bridged("/clock", "/clock", "rosgraph_msgs/Clock", "gz.msgs.Clock", "GZ_TO_ROS")
    with pytest.raises(ValueError, match="either package and executable, or command"):
        gazebo.Process(package="ros_gz_sim")
    from rl_ros import schema

    with pytest.raises(UserError, match="direction: expected one of GZ_TO_ROS"):
        entry = {"ros_topic_name": "/a", "gz_topic_name": "/a", "ros_type_name": "a/msg/A", "gz_type_name": "gz.msgs.A"}
        schema.convert(gazebo.Bridged, entry | {"direction": "BOTH"}, "bridge.yaml")
