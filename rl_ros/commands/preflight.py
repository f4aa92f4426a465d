"""`rl_ros preflight`: what is wrong, before anything moves."""

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from rich.table import Table

from rl_ros.bringup import Supervisor, environment
from rl_ros.commands.console import console, duration
from rl_ros.graph import Graph, GraphNode, load_graph, parse_arguments, resolve
from rl_ros.training.preflight import CHECKS, Evidence, Finding, Status, probed

FRAMES = 30
COLOURS: dict[Status, str] = {"ok": "green", "warning": "yellow", "failure": "red"}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "preflight",
        help="check a graph, this machine and the robot's drivers before anything moves",
        description="Check clock, domain, shared memory, QoS of every pair, rates, contract and limits, policy and "
        "disk. Nothing of the graph is started, nothing moves. The last line is JSON; the status is 1 where something "
        "failed.",
    )
    parser.add_argument("graph", help="a graph in config/graphs, such as grasp")
    parser.add_argument("arguments", nargs="*", metavar="key:=value", help="arguments as for `rl_ros up`")
    parser.add_argument("--seconds", type=duration, default=2.0, help="to listen to the drivers (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    arguments = parse_arguments(options.arguments)
    graph = resolve(load_graph(options.graph), arguments)
    real, simulated_clock = arguments.get("robot", "pybullet") != "pybullet", arguments.get("robot") == "gazebo"
    contract = str(graph.nodes[0].parameters["contract"])
    seen = _probe(contract, {"frames": FRAMES, "seconds": 10.0}, with_camera=True)
    air: dict[str, Any] = {}
    if real:
        topics = " ".join(f"{topic}={kind}" for topic, kind in probed(graph, simulated_clock).items())
        air = _probe(contract, {"topics": topics, "seconds": options.seconds})["topics"]
    evidence = Evidence(graph, environment(), real, air, simulated_clock, (seen["frames"], FRAMES))
    findings = [finding for check in CHECKS for finding in check(evidence)]
    _show(options.graph, findings)
    counts = Counter(finding.status for finding in findings)
    print(json.dumps({"graph": options.graph, **{status: counts[status] for status in COLOURS}}))
    return int(bool(counts["failure"]))


def _probe(contract: str, parameters: dict[str, Any], with_camera: bool = False) -> dict[str, Any]:
    """What the probe found, in processes of its own."""
    with tempfile.TemporaryDirectory() as directory:
        result = Path(directory) / "result.json"
        given = {"contract": contract, "result": str(result), **parameters}
        nodes = {"probe": GraphNode("probe", given, stops_graph=True)}
        if with_camera:
            nodes["sample_camera"] = GraphNode("camera", {"contract": contract, "frames": FRAMES})
        with Supervisor(resolve(Graph("preflight", nodes=nodes), {}), print, alone=False) as supervisor:
            supervisor.wait()
        found: dict[str, Any] = json.loads(result.read_text()) if result.is_file() else {"frames": 0, "topics": {}}
    return found


def _show(graph: str, findings: list[Finding]) -> None:
    table = Table("check", "", "found", "fix", title=f"preflight of {graph}", title_justify="left")
    for each in findings:
        table.add_row(each.check, f"[{COLOURS[each.status]}]{each.status}[/]", each.found, each.fix)
    console.print(table)
