"""What `rl_ros algorithms` says of what there is to learn with."""

import pytest

from rl_ros import schema
from rl_ros.algorithms.base import ALGORITHMS, find_algorithm
from rl_ros.cli import main
from rl_ros.commands.algorithms import settings, summary
from rl_ros.commands.train import read_settings


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_every_algorithm_says_what_it_does_and_what_each_of_its_settings_means(name: str) -> None:
    assert summary(name).endswith(".") and len(summary(name)) > len("Behaviour cloning.")
    for setting in settings(find_algorithm(name).config_type):
        assert setting.meaning.endswith("."), setting


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_defaults_are_written_as_they_can_be_set(name: str) -> None:
    config = find_algorithm(name).config_type
    given = read_settings([f"{setting.name}={setting.default}" for setting in settings(config)])
    assert schema.convert(config, given, name) == config()


def test_the_list_names_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["algorithms"]) == 0
    words = capsys.readouterr().out.split()
    assert set(ALGORITHMS) <= set(words)


def test_of_one_its_paper_and_settings_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["algorithms", "iql"]) == 0
    shown = capsys.readouterr().out
    assert "2110.06169" in shown and "expectile=0.8" in shown and "batch_size=64" in shown


def test_one_that_there_is_not_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["algorithms", "ppo"]) == 2
    assert "'ppo'" in capsys.readouterr().err
