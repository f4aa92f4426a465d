"""`rl_ros ingest`: bags of any robot to training arrays, and what became of them."""

import argparse
import re
from collections import Counter
from pathlib import Path

from rich.table import Table

from rl_ros.commands.console import console
from rl_ros.commands.train import add_reading, load_dataset


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "ingest",
        help="decode bags for training",
        description="Decode bags of any recorder into the cache that training uses, and say what became of them.",
    )
    parser.add_argument("bags", type=Path, metavar="BAGS", help="a directory of bags, or one bag")
    add_reading(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    contract, dataset = load_dataset(options)
    table = Table(title=f"{options.bags} by contract {contract.name}", title_justify="left", show_header=False)
    table.add_row("bags decoded now", str(dataset.decoded))
    table.add_row("episodes", str(len(dataset.episodes)))
    table.add_row("ticks", str(len(dataset.stamps)))
    table.add_row("transitions", str(sum(episode.transitions for episode in dataset.episodes)))
    table.add_row("left out", str(len(dataset.refused)))
    table.add_row("columns", str(dataset.directory))
    console.print(table)
    reasons = count_reasons([problem for episode in dataset.episodes for problem in episode.problems])
    if reasons:
        problems = Table("what", "times", title="cut out, or worth knowing", title_justify="left")
        for reason, times in reasons.most_common():
            problems.add_row(reason, str(times))
        console.print(problems)
    return 0


def count_reasons(problems: list[str]) -> Counter[str]:
    """How often each reason occurs in the problems of episodes, figures that differ from tick to tick put aside."""
    reasons: Counter[str] = Counter()
    for problem in problems:
        found = re.fullmatch(r"(.*) \((\d+) times\)", problem)
        text, times = (found[1], int(found[2])) if found else (problem, 1)
        text = re.sub(r"-?[0-9.]+ s (old|away|later), at most ([0-9.]+) s allowed", r"more than \2 s \1", text)
        text = re.sub(r"not finite: .*", "not finite", text)
        reasons[re.sub(r"^ticks [0-9.]+ s apart", "ticks missing between", text)] += times
    return reasons
