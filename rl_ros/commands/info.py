"""`rl_ros info`: what is in a bag."""

import argparse
from collections import Counter
from pathlib import Path

from rich.table import Table

from rl_ros.commands.console import console
from rl_ros.contract import Contract
from rl_ros.episodes.bags import Bag, read_bag
from rl_ros.episodes.ingest import episodes_of


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "info", help="say what is in a bag", description="Say what is in a bag: topics, outcome, contract, damage."
    )
    parser.add_argument("bag", type=Path, metavar="BAG", help="a bag's directory or its .mcap file")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    bag = read_bag(options.bag)
    contract = bag.contract
    table = Table(title=str(options.bag), title_justify="left", show_header=False)
    table.add_row("outcome", bag.outcome.get("outcome", "none: the recording was cut off, or is of another recorder"))
    table.add_row("seed", bag.metadata.get("seed", "unknown"))
    table.add_row("contract", contract.name if contract else "none embedded")
    table.add_row("recorded with", f"rl_ros {bag.metadata['rl_ros']}" if "rl_ros" in bag.metadata else "unknown")
    first, last = _span(bag)
    table.add_row("duration", f"{(last - first) * 1e-9:.2f} s")
    table.add_row("damage", bag.damage or "none")
    if bag.missing:
        table.add_row("incomplete topics", ", ".join(bag.missing))
    if contract is not None:
        _add_episodes(table, bag, contract)
    console.print(table)
    topics = Table("topic", "type", "messages")
    for topic, (message_type, count) in sorted(bag.topics.items()):
        topics.add_row(topic, message_type, str(count))
    console.print(topics)
    return 0


def _span(bag: Bag) -> tuple[int, int]:
    """Log times of the first message and of the last, ns; 0 and 0 where there is none."""
    first, last = 0, 0
    for message in bag:
        first, last = min(first or message.log_time, message.log_time), max(last, message.log_time)
    return first, last


def _add_episodes(table: Table, bag: Bag, contract: Contract) -> None:
    """What its episodes come to, all together; one at a time is in memory."""
    refused: list[str] = []
    episodes, ticks, transitions, total, problems = 0, 0, 0, 0.0, Counter[str]()
    for episode in episodes_of(bag, contract, refused):
        episodes += 1
        ticks += len(episode.stamps)
        transitions += int(episode.has_transition.sum())
        total += float(episode.reward.sum())
        problems.update(episode.problems)
    if episodes != 1:
        table.add_row("episodes", str(episodes))
    table.add_row("ticks", str(ticks))
    table.add_row("transitions", str(transitions))
    table.add_row("return", f"{total:g}")
    for problem, times in problems.items():
        table.add_row("problem", problem if episodes == 1 else f"{problem} in {times} episodes")
    for sentence in refused:
        table.add_row("left out", sentence)
