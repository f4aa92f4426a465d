"""`rl_ros compare`: runs side by side."""

import argparse
from pathlib import Path

from rl_ros.commands.console import console


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "compare",
        help="draw the learning curves of runs",
        description="Draw learning curves, one for each algorithm, settings and data set, with intervals over its "
        "runs, into DIR/compare.html, and write them as DIR/compare.csv.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="runs of `rl_ros train`")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="receives the page and the CSV")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from rl_ros.training.compare import write_comparison

    page, table = write_comparison(options.runs, options.out)
    console.print(f"page: {page}")
    console.print(f"curves: {table}")
    return 0
