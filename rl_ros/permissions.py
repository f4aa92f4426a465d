"""Who may publish, subscribe and serve what: the SROS2 policy of a graph, from the graph itself.

`python -m rl_ros.permissions DIRECTORY` writes one file for each graph; docs/security.md says what to do with them.
"""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from rl_ros.graph import ResolvedNode, load_graph, node_specs, resolve
from rl_ros.resources import share_directory

ARGUMENTS = {"robot": "real", "bags": "bags", "operator": "true"}
"""Of the graph on a robot: all that can run on it."""
PARAMETER_SERVICES = (
    "describe_parameters", "get_parameter_types", "get_parameters", "get_type_description", "list_parameters",
    "set_parameters", "set_parameters_atomically",
)  # fmt: skip
"""Which every node of rclpy has."""
EVERYWHERE = {"publish": ("parameter_events", "rosout"), "subscribe": ("clock", "parameter_events")}


def policy_xml(graph_name: str) -> str:
    """The policy of a graph for `ros2 security`, one enclave for each process."""
    graph = resolve(load_graph(graph_name), ARGUMENTS)
    root = ElementTree.Element("policy", version="0.2.0")
    enclaves = ElementTree.SubElement(root, "enclaves")
    for process, nodes in graph.processes.items():
        enclave = ElementTree.SubElement(enclaves, "enclave", path=f"/rl_ros/{process}")
        profiles = ElementTree.SubElement(enclave, "profiles")
        for node in nodes:
            _profile(profiles, node, node.name)
            if node.name == "recorder":  # its subscriptions are of a node that is in no executor
                _profile(profiles, node, "recorder_intake")
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    comment = f"<!-- Who may do what in the graph {graph_name} on a robot. Made by `python -m rl_ros.permissions`. -->"
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{comment}\n{text}\n'


def _profile(profiles: ElementTree.Element, node: ResolvedNode, name: str) -> None:
    profile = ElementTree.SubElement(profiles, "profile", ns="/", node=name)
    topics = {
        "publish": {node.name_of(endpoint) for endpoint in node.publishes} | {f"/{t}" for t in EVERYWHERE["publish"]},
        "subscribe": {node.name_of(endpoint) for endpoint in node.subscribes}
        | {f"/{t}" for t in EVERYWHERE["subscribe"]},
    }
    for verb, names in topics.items():
        group = ElementTree.SubElement(profile, "topics", {verb: "ALLOW"})
        for topic in sorted(names):
            ElementTree.SubElement(group, "topic").text = topic.lstrip("/")
    served = {service.service for service in node_specs()[node.name].serves}
    group = ElementTree.SubElement(profile, "services", reply="ALLOW")
    for service in sorted(served | {f"{name}/{each}" for each in PARAMETER_SERVICES}):
        ElementTree.SubElement(group, "service").text = service
    if node.name == "trainer":
        group = ElementTree.SubElement(profile, "services", request="ALLOW")
        ElementTree.SubElement(group, "service").text = "policy/set_parameters"


def main() -> int:
    """Write the policy of every graph into a directory."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for graph in sorted((share_directory() / "config" / "graphs").glob("*.yaml")):
        (directory / f"{graph.stem}.policy.xml").write_text(policy_xml(graph.stem))
    return 0


if __name__ == "__main__":
    sys.exit(main())
