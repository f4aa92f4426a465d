"""`rl_ros algorithms`: what `rl_ros train` can learn with, and the settings of each."""

import argparse
import dataclasses
import json
import sys
from typing import Any, NamedTuple, get_args, get_type_hints

from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Table

from rl_ros import schema
from rl_ros.algorithms.base import ALGORITHMS, Config, find_algorithm
from rl_ros.commands.console import console


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "algorithms",
        help="say what there is to learn with, and what can be set",
        description="Say what `rl_ros train` can learn with; of one of them, how it works and what --set can change.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="an algorithm, such as iql (default: all of them)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if options.name is None:
        table = Table("algorithm", "what it does")
        for name in sorted(ALGORITHMS):
            table.add_row(name, escape(summary(name)))
        console.print(table)
        print("rl_ros algorithms NAME says how one works and what can be set.", file=sys.stderr)
        return 0
    algorithm = find_algorithm(options.name)
    console.print(Markdown(sys.modules[algorithm.__module__].__doc__ or ""))
    table = Table("--set", "meaning", title=f"settings of {options.name}, with their defaults", title_justify="left")
    common = {field.name for field in dataclasses.fields(Config)}
    found = settings(algorithm.config_type)
    for rows in ([row for row in found if row.name not in common], [row for row in found if row.name in common]):
        for row in rows:
            table.add_row(escape(f"{row.name}={row.default}"), escape(f"{row.meaning} ({row.takes})"))
        table.add_section()
    console.print(table)
    return 0


def summary(name: str) -> str:
    """What an algorithm does: the first line of its file and, where that has several, of its class."""
    algorithm = find_algorithm(name)
    module = algorithm.__module__
    alone = sum(place.partition(":")[0] == module for place in ALGORITHMS.values()) == 1
    texts = [sys.modules[module].__doc__, None if alone else algorithm.__doc__]
    return " ".join(text.partition("\n")[0] for text in texts if text)


class Setting(NamedTuple):
    """What `--set` can change."""

    name: str
    default: str
    takes: str
    """The kind of value, in words."""
    meaning: str


def settings(config: type[Config]) -> list[Setting]:
    """The settings of an algorithm, in the order of its configuration."""
    kinds, meaning = get_type_hints(config), schema.meanings(config)
    return [
        Setting(field.name, json.dumps(field.default).strip('"'), _takes(kinds[field.name]), meaning[field.name])
        for field in dataclasses.fields(config)
    ]


def _takes(kind: Any) -> str:
    """What a value may be; an optional one may also be null."""
    kinds = [each for each in get_args(kind) if each is not type(None)] if type(None) in get_args(kind) else [kind]
    return " or ".join([*map(schema.describe, kinds), *(["null"] if kinds != [kind] else [])])
