"""`rl_ros audit`: what to know of recordings before training on them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from rl_ros.commands.console import console, progress, show
from rl_ros.commands.train import add_cuts, cuts_of
from rl_ros.contract import Contract
from rl_ros.episodes.audit import Audit, Level, audit
from rl_ros.episodes.bags import find_bags, read_bag
from rl_ros.errors import UserError
from rl_ros.graph import parse_arguments

STATUS = {Level.OK: 0, Level.WARN: 1, Level.BAD: 3}
"""Exit status by verdict; 2 is a mistake of the user's, as everywhere."""
ROWS = 30
"""Flagged episodes that are listed on the console."""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "audit",
        help="say what to know of recordings before training on them",
        description="Check bags and give a verdict on each episode. Exit status: 0 all is well, 1 there are warnings, "
        "3 there are episodes not to train on.",
    )
    parser.add_argument("bags", type=Path, metavar="BAGS", help="a directory of bags, or one bag")
    parser.add_argument(
        "arguments", nargs="*", metavar="key:=topic", help="where a key of the contract is in these bags"
    )
    parser.add_argument("--contract", help="name or path of a contract (default: the one in the first bag)")
    add_cuts(parser)
    parser.add_argument("--html", type=Path, metavar="PAGE", help="write a page with pictures and plots")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    paths = find_bags(options.bags)
    contract = Contract.load(options.contract) if options.contract else _embedded(paths)
    contract = contract.remapped(parse_arguments(options.arguments))
    cuts = cuts_of(options)
    with progress() as bar:
        task = bar.add_task("auditing", total=len(paths))
        found = audit(paths, contract, progress=lambda: bar.advance(task), cuts=cuts)
    _show(found, str(options.bags))
    if options.html:
        from rl_ros.episodes.audit_page import write_audit_page

        write_audit_page(found, options.html)
        console.print(f"page: {options.html}")
    return STATUS[found.level]


def _embedded(paths: Sequence[Path]) -> Contract:
    for path in paths:
        try:
            contract = read_bag(path).contract
        except UserError:
            continue  # the audit itself says what is wrong with it
        if contract is not None:
            return contract
    raise UserError(f"{paths[0]}: no bag here embeds a contract; name one with --contract.")


def _show(found: Audit, title: str) -> None:
    show(found.summary(), title)
    colours = {Level.OK: "green", Level.WARN: "yellow", Level.BAD: "red"}
    flagged = sorted((e for e in found.episodes if e.level), key=lambda e: -e.level)
    if flagged or found.findings:
        table = Table("verdict", "episode", "why")
        lines = [(finding.level, "all", finding.text) for finding in found.findings]
        lines += [(episode.level, episode.name, episode.reasons) for episode in flagged[:ROWS]]
        for level, name, why in lines:
            table.add_row(f"[{colours[level]}]{level}", escape(name), escape(why))
        console.print(table)
        if len(flagged) > ROWS:
            console.print(f"and {len(flagged) - ROWS} more; --html lists all of them")
    console.print(f"verdict: [{colours[found.level]}]{found.level}")
