"""`rl_ros goal`: tell, or show, a running graph what is wanted."""

import argparse
import math
from pathlib import Path
from typing import Any

from rl_ros.bringup import Supervisor
from rl_ros.contract import Contract
from rl_ros.errors import UserError
from rl_ros.graph import GraphNode, alone, resolve


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "goal",
        help="give a running graph a goal",
        description="Publish a position on /goal/pose, or a picture on /goal/image where the graph's goals are "
        "pictures. It counts from the next tick on, to the end of the episode; in a graph started with "
        "keep_goal:=true until the next goal.",
    )
    parser.add_argument(
        "goal", nargs="+", metavar="X Y Z | PICTURE", help="m in the contract's frame, or a PNG or JPEG"
    )
    parser.add_argument(
        "--contract", help="whose frame a position is in (default: reach, or visual_reach for a picture)"
    )
    parser.add_argument("--namespace", default="", help="of the graph, if it was started in one (namespace:=arm_1)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    parameters = _parameters(options.goal)
    contract = options.contract or ("visual_reach" if "picture" in parameters else "reach")
    frame = Contract.load(contract).frame
    node = GraphNode("goal", {"contract": contract, **parameters}, stops_graph=True)
    graph = resolve(alone("goal", {"goal": node}, options.namespace), {})
    with Supervisor(graph, print, alone=False) as supervisor:
        status = supervisor.wait()
    if status == 0:
        place = f"{' '.join(f'{x:g}' for x in parameters['position'])} m in {frame}" if "position" in parameters else ""
        print(f"goal: {place or options.goal[0]}")
    return status


def _parameters(goal: list[str]) -> dict[str, Any]:
    """Of the node: a picture, or a position."""
    if len(goal) == 1:
        if not Path(goal[0]).is_file():
            raise UserError(f"goal: {goal[0]}: there is no such picture.")
        return {"picture": str(Path(goal[0]).resolve())}
    try:
        position = [float(coordinate) for coordinate in goal]
    except ValueError:
        position = []
    if len(position) != 3 or not all(map(math.isfinite, position)):
        raise UserError(f"goal: expected a picture or three finite numbers of metres, got {' '.join(goal)}.")
    return {"position": position}
