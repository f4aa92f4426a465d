"""`rl_ros report`: one HTML page of a run."""

import argparse
from pathlib import Path

from rl_ros.commands.console import console


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser("report", help="write report.html of a run", description="Write RUN/report.html.")
    parser.add_argument("run_directory", type=Path, metavar="RUN", help="a directory that `rl_ros demo` left")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from rl_ros.training.report import write_report

    console.print(f"report: {write_report(options.run_directory)}")
    return 0
