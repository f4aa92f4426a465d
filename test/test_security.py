"""Who may hear a graph, and who may speak to it."""

import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from helpers import wait_for

from rl_ros import bringup
from rl_ros.bringup import Supervisor
from rl_ros.graph import Graph, GraphNode, load_graph, resolve
from rl_ros.permissions import policy_xml
from rl_ros.resources import share_directory

LOOPBACK = "0100007F"
PORTS = 7400, 250


def udp_ports(process: int) -> dict[int, str]:
    """By port the address that a process's sockets are bound to, as /proc writes it."""
    sockets = set()
    for entry in Path(f"/proc/{process}/fd").iterdir():
        try:
            sockets.add(os.readlink(entry))
        except FileNotFoundError:
            continue
    found = {}
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        columns = line.split()
        if f"socket:[{columns[9]}]" in sockets:
            address, port = columns[1].split(":")
            found[int(port, 16)] = address
    return found


def test_a_graph_listens_on_this_machine_only(ros_domain: int) -> None:
    base, width = PORTS
    ours = range(base + width * ros_domain, base + width * (ros_domain + 1))
    graph = Graph("one", nodes={"goal_encoder": GraphNode("encoder", {"contract": "reach"})})

    def listening() -> dict[int, str]:
        [process] = supervisor.processes.values()
        return {port: address for port, address in udp_ports(process.pid).items() if port in ours}

    with Supervisor(resolve(graph, {}), lambda line: None) as supervisor:
        assert wait_for(lambda: len(listening()) >= 2, 20.0)
        assert set(listening().values()) == {LOOPBACK}


@pytest.mark.parametrize(
    ("variables", "profile"),
    [
        ({}, "fastdds.xml"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}, "fastdds.xml"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}, "fastdds_network.xml"),
        ({"ROS_STATIC_PEERS": "192.0.2.7"}, "fastdds_network.xml"),
    ],
)
def test_the_network_is_listened_to_where_someone_says_so(
    variables: dict[str, str], profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_STATIC_PEERS", bringup.profile_variable()):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Path(bringup.environment()[bringup.profile_variable()]).name == profile


def test_the_profile_is_where_this_fast_dds_looks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    assert bringup.profile_variable() == "FASTDDS_DEFAULT_PROFILES_FILE"
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    assert bringup.profile_variable() == "FASTRTPS_DEFAULT_PROFILES_FILE"


def test_both_profiles_differ_in_nothing_but_the_interfaces() -> None:
    alone, network = (ElementTree.parse(share_directory() / "config" / name).getroot() for name in (
        "fastdds.xml", "fastdds_network.xml",
    ))  # fmt: skip
    for transport in alone.findall(".//{*}transport_descriptor"):
        for whitelist in transport.findall("{*}interfaceWhiteList"):
            transport.remove(whitelist)

    def plain(element: ElementTree.Element) -> list:
        return [element.tag, (element.text or "").strip(), [plain(child) for child in element]]

    assert plain(alone) == plain(network)


def allowed(root: ElementTree.Element, node: str, kind: str, verb: str) -> set[str]:
    [profile] = [each for each in root.iter("profile") if each.get("node") == node]
    return {
        str(topic.text)
        for group in profile
        if group.tag == f"{kind}s" and group.get(verb) == "ALLOW"
        for topic in group
    }


@pytest.mark.parametrize("graph", ["lift", "reach", "push", "pick_and_place"])
def test_the_shipped_policies_are_those_of_the_graphs(graph: str) -> None:
    shipped = share_directory() / "config" / "security" / f"{graph}.policy.xml"
    assert shipped.read_text() == policy_xml(graph), "write them again: python -m rl_ros.permissions config/security"


def test_a_policy_lets_the_guard_alone_speak_to_the_controllers() -> None:
    root = ElementTree.fromstring(policy_xml("lift"))
    graph = resolve(load_graph("lift"), {"robot": "real", "bags": "bags", "operator": "true"})
    commands = {"panda_arm_controller/joint_trajectory", "panda_hand_controller/joint_trajectory"}
    for node in (each.name for each in graph.nodes):
        assert bool(commands & allowed(root, node, "topic", "publish")) is (node == "arm_guard")
        assert "rosout" in allowed(root, node, "topic", "publish")
        assert f"{node}/get_parameters" in allowed(root, node, "service", "reply")
    assert "policy/action" not in allowed(root, "policy", "topic", "publish")  # a person's node is between
    assert "policy/action" in allowed(root, "operator", "topic", "publish")
    assert "arm_guard/rearm" in allowed(root, "arm_guard", "service", "reply")
