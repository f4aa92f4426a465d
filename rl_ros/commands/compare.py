"""`rl_ros compare`: runs side by side."""

import argparse
import sys
from pathlib import Path

from rl_ros.commands.console import console
from rl_ros.errors import UserError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "compare",
        help="draw the learning curves of runs",
        description="Draw learning curves, one for each algorithm, settings and data set, with intervals over its "
        "runs, into DIR/compare.html, and write them as DIR/compare.csv. What is no run is left out.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="runs of `rl_ros train`")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="receives the page and the CSV")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from rl_ros.training.compare import write_comparison
    from rl_ros.training.runs import metrics_file

    runs = []
    for directory in options.runs:
        try:
            metrics_file(directory)
            runs.append(directory)
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
    if not runs:
        raise UserError("none of these is a run; `rl_ros train` makes one.")
    page, table = write_comparison(runs, options.out)
    console.print(f"page: {page}")
    console.print(f"curves: {table}")
    return 0
