"""`rl_ros doctor`: why a run is not learning."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from rl_ros.commands.console import console


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "doctor",
        help="say why a run is not learning",
        description="Look for known faults in a run and its recordings, and say what to do about them. Exit status: 0 "
        "nothing was found, 1 something was. The last line is one JSON object.",
    )
    parser.add_argument("run_directory", type=Path, metavar="RUN", help="a run of `rl_ros train`")
    parser.add_argument("--bags", type=Path, metavar="DIR", help="its recordings, if they are not where they were")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    import torch

    from rl_ros.training.doctor import examine

    torch.set_num_threads(1)
    findings, evidence = examine(options.run_directory, options.bags)
    if evidence.memory is None:
        console.print("the run does not say which recordings it learned from: only its figures were looked at.")
    if findings:
        table = Table("severity", "what", "where", "what to do")
        for finding in findings:
            colour = "red" if finding.severity == "fault" else "yellow"
            cells = map(escape, (finding.what, finding.where, finding.remedy))
            table.add_row(f"[{colour}]{finding.severity}", *cells)
        console.print(table)
    else:
        console.print("nothing was found.")
    print(json.dumps({"healthy": not findings, "findings": [asdict(finding) for finding in findings]}))
    return int(bool(findings))
