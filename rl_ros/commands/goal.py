"""`rl_ros goal`: tell a running graph where to go."""

import argparse
import math

from rl_ros.bringup import Supervisor
from rl_ros.contract import Contract
from rl_ros.errors import UserError
from rl_ros.graph import Graph, GraphNode, resolve


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "goal",
        help="give a running graph a goal",
        description="Publish a position on /goal/pose. It counts from the next tick on, to the end of the episode; "
        "in a graph started with keep_goal:=true until the next goal.",
    )
    parser.add_argument("position", nargs=3, type=float, metavar=("X", "Y", "Z"), help="m in the contract's frame")
    parser.add_argument("--contract", default="reach", help="whose frame it is in (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if not all(math.isfinite(coordinate) for coordinate in options.position):
        raise UserError(f"goal: expected three finite numbers of metres, got {options.position}.")
    frame = Contract.load(options.contract).frame
    node = GraphNode("goal", {"contract": options.contract, "position": options.position}, stops_graph=True)
    with Supervisor(resolve(Graph("goal", nodes={"goal": node}), {}), print, alone=False) as supervisor:
        status = supervisor.wait()
    if status == 0:
        print(f"goal: {' '.join(f'{coordinate:g}' for coordinate in options.position)} m in {frame}")
    return status
