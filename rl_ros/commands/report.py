"""`rl_ros report`: one HTML page of a run, or a video of recorded episodes."""

import argparse
from itertools import islice
from pathlib import Path

from rl_ros.commands.console import console, positive
from rl_ros.episodes.memory import Episode
from rl_ros.errors import UserError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "report",
        help="write report.html of a run, or a video of bags",
        description="Write RUN/report.html; or with --video an MP4 of the episodes in a directory of bags.",
    )
    parser.add_argument("directory", type=Path, metavar="RUN", help="that `rl_ros demo` left; with --video, of bags")
    parser.add_argument("--video", type=Path, metavar="FILE.mp4", help="what the camera saw, episode after episode")
    parser.add_argument("--episodes", type=positive, default=10, help="in the video, at most (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if options.video:
        console.print(f"video: {video(options.directory, options.video, options.episodes)}")
        return 0
    from rl_ros.training.report import write_report

    console.print(f"report: {write_report(options.directory)}")
    return 0


def video(bags: Path, file: Path, count: int) -> Path:
    """Write the first episodes of some bags as a video; returns its path.

    Raises:
        UserError: there are no bags, no episode can be read, or there is no camera.
    """
    from rl_ros.episodes.bags import find_bags, read_bag
    from rl_ros.episodes.ingest import episodes_of
    from rl_ros.episodes.video import shown, write_video

    refused: list[str] = []
    found: list[Episode] = []
    rate = 0.0
    for path in find_bags(bags):
        bag = read_bag(path)
        contract = bag.contract
        if contract is None:
            refused.append(f"{path}: embeds no contract")
            continue
        if contract.goal.image:
            contract = contract.without_latent()
        rate = contract.control_rate
        found += islice(episodes_of(bag, contract, refused), count - len(found))
        if len(found) >= count:
            break
    if not found:
        raise UserError(f"{bags}: no episode can be shown; {'; '.join(refused) or 'they hold none'}.")
    write_video(file, shown(found, rate), rate)
    return file
