"""The command line: what documents tell to type, and how mistakes are told."""

import shlex
from pathlib import Path

import pytest

from rl_ros import cli
from rl_ros.commands import train

ROOT = Path(__file__).parent.parent
TYPED = [
    command.strip()
    for file in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for line in file.read_text().splitlines()
    if line.startswith("    rl_ros ")
    for command in line.split("&&")
]


@pytest.mark.parametrize("command", TYPED)
def test_commands_in_documents_are_complete(command: str) -> None:
    given = shlex.split(command, comments=True)[1:]
    options, rest = cli._parser(given).parse_known_args(given)
    assert all(":=" in each for each in rest)
    if options.run is train.run:
        assert options.online or options.seconds or options.updates, "train wants to be told how long"
