"""What the commands share on the console: tables, progress bars, argument types."""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from rl_ros.errors import UserError
from rl_ros.training.live import Results

console = Console()
OFFLINE = ("task", "split_on", "split_at", "arguments", "held_out", "actors", "human_share", "cache")
"""Options of training in one piece from bags that are there."""


def positive(text: str) -> int:
    """Argument type: a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def seed(text: str) -> int:
    """Argument type: a whole number that every generator takes as its seed."""
    value = int(text)
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"expected at least 0 and less than 2**63, got {text}")
    return value


def duration(text: str) -> float:
    """Argument type: seconds, positive and finite."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, got {text}")
    return value


def share(text: str) -> float:
    """Argument type: a share, from 0 to less than 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 0 and less than 1, got {text}")
    return value


def refuse(options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Refuse options that would have no effect, by their names in `options`.

    Raises:
        UserError: some of them are given; the sentence begins with `why`.
    """
    flags = ["KEY:=TOPIC" if name == "arguments" else f"--{name.replace('_', '-')}" for name in names]
    given = [flag for name, flag in zip(names, flags, strict=True) if getattr(options, name)]
    if given:
        raise UserError(f"{why}; leave out {', '.join(given)}.")


def show(figures: dict[str, Any], title: str) -> None:
    """A table of figures."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), _text(value))
    console.print(table)


def _text(value: Any, between: str = "\n") -> str:
    """A figure in words: figures within it line by line, those within them beside each other, an interval as such."""
    if isinstance(value, dict):
        return between.join(f"{name.replace('_', ' ')} {_text(each, ', ')}" for name, each in value.items())
    return " to ".join(map(str, value)) if isinstance(value, list) else str(value)


def progress() -> Progress:
    """A progress bar for long work."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


@contextmanager
def episode_bar(title: str, episodes: int) -> Iterator[Callable[[Results], None]]:
    """A progress bar of episodes and their success so far."""
    with progress() as bar:
        task: TaskID = bar.add_task(title, total=episodes)

        def advance(results: Results) -> None:
            done = len(results.episodes)
            rate = f", success {results.successes / done:.2f}" if done else ""
            bar.update(task, completed=done, description=f"{title}{rate}")

        yield advance
