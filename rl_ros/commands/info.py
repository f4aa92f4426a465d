"""`rl_ros info`: what is in a bag."""

import argparse
from pathlib import Path

from rich.table import Table

from rl_ros.commands.console import console
from rl_ros.episodes.bags import read_bag
from rl_ros.episodes.ingest import read_episode


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
    if bag.messages:
        times = [message.log_time for message in bag.messages]
        table.add_row("duration", f"{(max(times) - min(times)) * 1e-9:.2f} s")
    table.add_row("damage", bag.damage or "none")
    if bag.missing:
        table.add_row("incomplete topics", ", ".join(bag.missing))
    if contract is not None:
        episode = read_episode(bag, contract)
        table.add_row("ticks", str(len(episode.stamps)))
        table.add_row("transitions", str(int(episode.has_transition.sum())))
        table.add_row("return", f"{episode.reward.sum():g}")
        for problem in episode.problems:
            table.add_row("problem", problem)
    console.print(table)
    topics = Table("topic", "type", "messages")
    for topic, (message_type, count) in sorted(bag.topics.items()):
        topics.add_row(topic, message_type, str(count))
    console.print(topics)
    return 0
