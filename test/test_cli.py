"""The command line: what documents tell to type, and how mistakes are told."""

import shlex
from pathlib import Path

import pytest
from pushes import cart_bags

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


@pytest.mark.parametrize("seed", ["-1", str(10**23), "1.5"])
@pytest.mark.parametrize("command", ["train --bags x --out y", "collect grasp --bags x", "evaluate x", "demo"])
def test_a_seed_is_one_that_every_generator_takes(command: str, seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main([*command.split(), "--seed", seed])
    assert "argument --seed: " in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1"])
def test_training_lasts_for_a_positive_time(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["train", "--bags", "x", "--out", "y", "--algorithm", "bc", "--seconds", seconds])
    assert f"argument --seconds: expected a positive number of seconds, got {seconds}" in capsys.readouterr().err


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(cart_bags(tmp_path_factory.mktemp("bags"), 3))


@pytest.mark.parametrize(
    "command",
    [
        "train --bags BAGS --algorithm bc --updates 1 --out PLACE",
        "export BAGS --format d3rlpy --out PLACE",
        "export BAGS --format minari --out PLACE",
        "audit BAGS --html PLACE",
    ],
)
def test_a_place_that_cannot_be_written_is_one_sentence(
    command: str, bags: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = "/proc/x"
    assert cli.main(command.replace("BAGS", bags).replace("PLACE", place).split()) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == f"error: {place}: No such file or directory; check the path and its permissions."


def test_a_path_of_another_kind_is_one_sentence(bags: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.touch()
    assert cli.main(["train", "--bags", bags, "--algorithm", "bc", "--updates", "1", "--out", str(file)]) == 2
    assert f"error: {file}: File exists" in capsys.readouterr().err
    assert cli.main(["info", "/dev/null"]) == 2
    assert "error: /dev/null: Not a directory" in capsys.readouterr().err


def test_an_error_that_names_no_file_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise OSError("a bug")

    monkeypatch.setattr("rl_ros.commands.info.read_bag", broken)
    with pytest.raises(OSError, match="a bug"):
        cli.main(["info", "x"])
