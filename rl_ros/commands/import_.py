"""`rl_ros import`: a data set of another library as bags."""

import argparse
from pathlib import Path

from rl_ros.commands.console import console
from rl_ros.contract import Contract

FORMATS = ("minari", "lerobot")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "import",
        help="write a data set of Minari or LeRobot as bags",
        description="Write a data set of another library as bags, one an episode, to train on like any other.",
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="the data set's directory")
    parser.add_argument("--format", required=True, choices=FORMATS, help="of the data set")
    parser.add_argument("--contract", required=True, help="name or path of the contract that says what it means")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new directory for the bags")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from rl_ros.episodes.exchange import bags, lerobot, minari
    from rl_ros.episodes.exchange.pieces import empty_directory

    contract = Contract.load(options.contract)
    read = minari.read if options.format == "minari" else lerobot.read
    written = bags.write_bags(read(options.path, contract), contract, empty_directory(options.out))
    console.print(f"{len(written)} episodes: {options.out}")
    return 0
