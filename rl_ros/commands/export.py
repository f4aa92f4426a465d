"""`rl_ros export`: bags as a data set of another library."""

import argparse
from pathlib import Path

from rl_ros.commands.console import console
from rl_ros.commands.train import add_reading, load_dataset
from rl_ros.errors import UserError

FORMATS = ("minari", "lerobot", "d3rlpy")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "export",
        help="write bags as a data set of Minari, LeRobot or d3rlpy",
        description="Write bags as a data set of another library: for d3rlpy a file, for the others a directory.",
    )
    parser.add_argument("bags", type=Path, metavar="BAGS", help="bags to export")
    parser.add_argument("--format", required=True, choices=FORMATS, help="of the data set")
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="a new directory or file")
    parser.add_argument("--video", action="store_true", help="lerobot: images as MP4, which is smaller and lossy")
    add_reading(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from rl_ros.episodes.exchange import d3rlpy, lerobot, minari
    from rl_ros.episodes.exchange.pieces import episodes_of

    if options.video and options.format != "lerobot":
        raise UserError(f"--video is for --format lerobot; {options.format} holds images as numbers.")
    contract, dataset = load_dataset(options)
    episodes = episodes_of(dataset)
    match options.format:
        case "minari":
            count = minari.write(episodes, contract, options.out)
        case "lerobot":
            count = lerobot.write(episodes, contract, options.out, video=options.video)
        case _:
            count = d3rlpy.write(episodes, contract, options.out)
    console.print(f"{count} episodes: {options.out}")
    return 0
