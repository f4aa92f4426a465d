"""Each check of preflight finds what it is there for, and names a fix."""

import base64
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl_ros.bringup import Supervisor, environment
from rl_ros.cli import main
from rl_ros.commands import preflight as command
from rl_ros.episodes import messages
from rl_ros.graph import load_graph, resolve
from rl_ros.robots.arm import Arm
from rl_ros.training import preflight
from rl_ros.training.preflight import Evidence, Finding

ARM = "/panda_arm_controller/joint_trajectory"
HAND = "/panda_hand_controller/joint_trajectory"
CAMERA = "/camera/color/image_raw"


def endpoint(kind: str, node: str = "driver", reliable: bool = True, latched: bool = False) -> dict[str, Any]:
    return {"node": node, "type": kind, "reliable": reliable, "transient_local": latched}


def heard(kind: str, rate: float, age: float = 0.01) -> dict[str, Any]:
    count = 40
    return {
        "messages": count, "first": 10.0, "last": 10.0 + (count - 1) / rate, "ages": [age] * count,
        "publishers": [endpoint(kind)], "subscribers": [],
    }  # fmt: skip


def air() -> dict[str, dict[str, Any]]:
    """All that the lift graph needs of a real arm."""
    trajectory = "trajectory_msgs/msg/JointTrajectory"
    joints = messages.joint_state_cdr(1, Arm().joint_names, Arm().home)
    return {
        "/joint_states": heard("sensor_msgs/msg/JointState", 500.0) | {"cdr": base64.b64encode(joints).decode()},
        CAMERA: heard("sensor_msgs/msg/Image", 10.0),
        "/object/pose": heard("geometry_msgs/msg/PoseStamped", 30.0),
        "/camera/camera_info": heard("sensor_msgs/msg/CameraInfo", 10.0),
        ARM: {"messages": 0, "publishers": [], "subscribers": [endpoint(trajectory)]},
        HAND: {"messages": 0, "publishers": [], "subscribers": [endpoint(trajectory)]},
    }


def evidence(**arguments: str) -> Evidence:
    graph = resolve(load_graph("lift"), {"robot": "real", "policy": "", **arguments})
    return Evidence(graph, environment(), True, air(), False, (30, 30))


def findings(given: Evidence) -> list[Finding]:
    return [finding for check in preflight.CHECKS for finding in check(given)]


def test_nothing_is_wrong_with_a_robot_that_is_ready(tmp_path: Path) -> None:
    found = findings(evidence(bags=str(tmp_path)))
    assert not [each for each in found if each.status == "failure"]
    assert {each.check for each in found} >= {"domain", "clock", "shared memory", "images", "QoS", "drivers", "limits"}
    assert all(each.fix for each in found if each.status != "ok")


@pytest.mark.parametrize("bags", ["", "somewhere"])
def test_a_graph_expects_of_the_drivers_what_it_does_not_publish_itself(bags: str) -> None:
    graph = evidence(bags=bags).graph
    required = {
        topic
        for topic, listeners in preflight.expected(graph).items()
        if not all(endpoint.qos.startswith("recorded") for _, endpoint in listeners)
    }
    assert required == {"/joint_states", CAMERA, "/object/pose"}


def without(topic: str) -> Callable[[dict], None]:
    return lambda found: found.pop(topic)


def changed(topic: str, **values: Any) -> Callable[[dict], None]:
    return lambda found: found[topic].update(values)


@pytest.mark.parametrize(
    ("break_it", "check", "sentence"),
    [
        (without("/joint_states"), "sensors", "nobody publishes /joint_states"),
        (without(CAMERA), "sensors", f"nobody publishes {CAMERA}"),
        (changed(CAMERA, last=10.0 + 39 / 30.0), "rates", f"{CAMERA} comes at 30.0 Hz, needed are 8 to 12"),
        (changed("/joint_states", last=14.0), "rates", "/joint_states comes at 9.8 Hz, needed are at least 20"),
        (
            changed(
                "/object/pose",
                cdr=base64.b64encode(messages.pose_cdr(1, "camera_optical_frame", [0.0, 0.1, 0.9])).decode(),
            ),
            "frames",
            "/object/pose is in frame 'camera_optical_frame', not in panda_link0",
        ),
        (changed(CAMERA, ages=[3.2]), "clock", f"{CAMERA} is stamped +3.20 s away"),
        (changed(CAMERA, publishers=[endpoint("sensor_msgs/msg/CompressedImage")]), "QoS", "publishes sens"),
        (
            changed("/joint_states", publishers=[endpoint("sensor_msgs/msg/JointState", "robot", reliable=False)]),
            "QoS",
            "arm_guard asks robot for reliable: hears nothing",
        ),
        (changed(CAMERA, publishers=[endpoint("sensor_msgs/msg/Image")] * 2), "sensors", "2 publishers on"),
        (changed(ARM, subscribers=[]), "controllers", f"nobody listens to {ARM}"),
        (changed(ARM, publishers=[endpoint("trajectory_msgs/msg/JointTrajectory", "moveit")]), "controllers", "moveit"),
        (
            changed(
                "/joint_states",
                cdr=base64.b64encode(messages.joint_state_cdr(1, Arm("ur5e").joint_names, np.zeros(6))).decode(),
            ),
            "arm",
            "joint states are of another arm",
        ),
        (
            changed(
                "/joint_states",
                cdr=base64.b64encode(messages.joint_state_cdr(1, Arm().joint_names, np.full(7, 9.0))).decode(),
            ),
            "arm",
            "beyond their limits",
        ),
    ],
)
def test_a_driver_that_is_not_as_it_should_be_is_named(
    break_it: Callable[[dict], None], check: str, sentence: str
) -> None:
    given = evidence()
    break_it(given.air)  # type: ignore[arg-type]
    failures = [each for each in findings(given) if each.status == "failure"]
    assert [each for each in failures if each.check == check and sentence in each.found and each.fix], failures


def test_what_is_wrong_with_graph_and_machine_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(given: Evidence) -> str:
        return "; ".join(f"{each.check}: {each.found}" for each in findings(given) if each.status == "failure")

    other = tmp_path / "other.yaml"
    other.write_text(evidence().contract.to_yaml().replace("frame: panda_link0", "frame: world"))
    assert "the contract is in world, the base of panda is panda_link0" in failed(evidence(contract=str(other)))
    assert "there is no such policy bundle" in failed(evidence(policy=str(tmp_path / "none")))
    assert "20 of 30 images" in failed(dataclasses.replace(evidence(), frames=(20, 30)))
    assert not failed(dataclasses.replace(evidence(), frames=(29, 30)))
    assert "no Fast DDS profile" in failed(dataclasses.replace(evidence(), environment={}))
    monkeypatch.setenv("ROS_DOMAIN_ID", "500")
    assert "ROS_DOMAIN_ID is '500'" in failed(dataclasses.replace(evidence(), environment=environment()))
    usage = preflight.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: usage._replace(free=10_000_000))
    assert "10 MB free in /dev/shm, 201 MB needed" in failed(evidence(bags=str(tmp_path)))
    assert "disk: 0.0 GB free" in failed(evidence(bags=str(tmp_path)))


def test_a_graph_that_runs_already_is_a_failure() -> None:
    nothing = dataclasses.replace(evidence().graph, processes={})
    with Supervisor(nothing):
        assert "already runs on domain" in "".join(each.found for each in preflight.check_domain(evidence()))
    assert [each.status for each in preflight.check_domain(evidence())] == ["ok"]


def test_the_command_ends_with_json_and_the_status_of_its_worst(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The probe itself runs in test_real_arm.py, beside an arm.
    monkeypatch.setattr(command, "_probe", lambda *given, **how: {"frames": command.FRAMES, "topics": air()})
    assert main(["preflight", "reach"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["failure"] == 0
    assert main(["preflight", "reach", "policy:=nowhere"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert json.loads(told[-1])["failure"] == 1
    assert any("policy" in line and "failure" in line for line in told)
