"""`rl_ros up`: start a graph."""

import argparse

from rich.table import Table
from rich.tree import Tree

from rl_ros.bringup import Supervisor
from rl_ros.commands.console import console
from rl_ros.graph import ResolvedGraph, absolute, load_graph, parse_arguments, qos, resolve


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "up",
        help="start a graph of nodes, as `ros2 launch` would",
        description="Start a graph of nodes and stay in front until it ends or Ctrl-C stops it.",
    )
    parser.add_argument("graph", help="a graph in config/graphs, such as grasp")
    parser.add_argument(
        "arguments", nargs="*", metavar="key:=value", help="arguments of the graph; --dry-run shows them"
    )
    parser.add_argument("--print", action="store_true", help="print what would be started, and start nothing")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="move nothing: as --print; with robot:=real the graph then runs on the real sensors, and shows what the "
        "controllers would be given instead of giving it to them",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    graph = load_graph(options.graph)
    arguments = parse_arguments(options.arguments)
    real = arguments.get("robot") == "real"
    if options.dry_run and real:
        arguments["dry_run"] = "true"
    resolved = resolve(graph, arguments)
    if options.print or options.dry_run:
        table = Table("argument", "default", "what for", title=f"arguments of {graph.name}", title_justify="left")
        for name, argument in graph.arguments.items():
            choices = f" ({', '.join(argument.choices)})" if argument.choices else ""
            table.add_row(name, repr(argument.default), argument.description + choices)
        console.print(table)
        console.print(_tree(resolved))
        if options.print or not real:
            return 0
    with Supervisor(resolved, lambda line: print(line, flush=True)) as supervisor:
        return supervisor.wait()


def _tree(graph: ResolvedGraph) -> Tree:
    tree = Tree(f"graph {graph.name}: {len(graph.processes)} processes, {len(graph.nodes)} nodes")
    for process, nodes in graph.processes.items():
        branch = tree.add(f"process {process}")
        for node in nodes:
            leaf = branch.add(f"node {node.name}" + (" (the graph ends with it)" if node.stops_graph else ""))
            parameters = leaf.add("parameters")
            for name, value in node.parameters.items():
                parameters.add(f"{name}: {value!r}")
            if node.remaps:
                remaps = leaf.add("remaps")
                for old, new in node.remaps.items():
                    remaps.add(f"{old} -> {new}")
            for title, endpoints in (("publishes", node.publishes), ("subscribes", node.subscribes)):
                if endpoints:
                    topics = leaf.add(title)
                    for endpoint in endpoints:
                        profile = qos(endpoint.qos, graph.lossless)
                        topics.add(f"{absolute(endpoint.topic, graph.namespace)}  {endpoint.type}  ({profile})")
    return tree
