"""Layers: rewards recomputed over a cache, and when they are not trusted."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import PERIOD, START, episode_messages, small_contract

from rl_ros.cli import main
from rl_ros.commands.relabel import judge_of
from rl_ros.contract import Contract
from rl_ros.episodes.bags import find_bags
from rl_ros.episodes.cache import DIRECTORY, INDEX, Dataset, load_columns
from rl_ros.episodes.record import EpisodeFile, EpisodeRecorder
from rl_ros.episodes.relabel import judge_again, read_layer, write_layer
from rl_ros.errors import UserError
from rl_ros.tasks.goals import THRESHOLD
from rl_ros.tasks.task import make_task

TICKS = 6


@pytest.fixture
def contract() -> Contract:
    return small_contract()


def dataset(directory: Path, contract: Contract, episodes: int = 2) -> Dataset:
    for number in range(episodes):
        if (directory / f"episode_{number:06d}").exists():
            continue
        recorder = EpisodeRecorder(directory, contract, patience=0.0)
        recorder.begin(number, START - 1, {"seed": "0"})
        for topic, stamp, cdr in episode_messages(contract, TICKS):
            recorder.receive(topic, stamp, stamp, cdr)
        recorder.end(number, START + 1000 * PERIOD, "success")
        recorder.close()
    return load_columns(sorted(directory.glob("episode_*")), contract, directory / ".rl_ros_cache")


def height(values: dict[str, np.ndarray], desired_goal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reward is the height of the tool, success at 3 cm; the goal must be there."""
    assert desired_goal.shape == (len(values["tool_position"]), 1)
    tool = values["tool_position"][:, 2]
    return tool, np.isclose(tool, 0.03)


def test_each_transition_is_judged_by_where_it_arrives(tmp_path: Path, contract: Contract) -> None:
    layer = judge_again(dataset(tmp_path, contract), height)
    arrived = [0.01, 0.02, 0.03, 0.04, 0.05, 0.0]
    np.testing.assert_allclose(layer.reward, arrived * 2, rtol=1e-6)
    assert layer.terminated.tolist() == [False, False, True, False, False, False] * 2
    # The recorded success at the end is none now: the episode only stops there.
    assert layer.truncated.tolist() == [False, False, False, False, True, False] * 2
    assert layer.successes == 2


def test_a_layer_is_read_back_and_recordings_and_cache_stay_as_they_are(tmp_path: Path, contract: Contract) -> None:
    base = dataset(tmp_path, contract)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.*") if file.is_file()}
    layer = judge_again(base, height)
    write_layer(base, "height", layer)
    read = read_layer(base, "height")
    for name in ("reward", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(read, name), getattr(layer, name))
        np.testing.assert_array_equal(getattr(read.over(base).columns, name), getattr(layer, name))
    assert {file: file.read_bytes() for file in before} == before


def test_a_layer_over_other_bags_is_refused(tmp_path: Path, contract: Contract) -> None:
    base = dataset(tmp_path, contract)
    write_layer(base, "height", judge_again(base, height))
    with pytest.raises(UserError, match="the layer height was made over other bags; run `rl_ros relabel"):
        read_layer(dataset(tmp_path, contract, episodes=3), "height")
    with pytest.raises(UserError, match="there is no layer other over these bags"):
        read_layer(base, "other")


@pytest.mark.parametrize("damage", [lambda f: f.write_bytes(f.read_bytes()[:-1]), Path.unlink])
@pytest.mark.parametrize("name", [INDEX, "reward.npy"])
def test_a_damaged_layer_is_refused(
    tmp_path: Path, contract: Contract, name: str, damage: Callable[[Path], object]
) -> None:
    base = dataset(tmp_path, contract)
    damage(write_layer(base, "height", judge_again(base, height)) / name)
    with pytest.raises(UserError, match="rl_ros relabel"):
        read_layer(base, "height")


def test_the_command_writes_a_layer(tmp_path: Path, contract: Contract, capsys: pytest.CaptureFixture[str]) -> None:
    base = dataset(tmp_path, contract)
    assert main(["relabel", str(tmp_path), "--task", "lift"]) == 0
    assert "successes by the task" in capsys.readouterr().out
    layer = read_layer(base, "lift")
    assert layer.successes == 0  # the object of these recordings never leaves the table
    assert main(["relabel", str(tmp_path), "--task", "juggle"]) == 2
    assert "no task is named 'juggle'" in capsys.readouterr().err


@pytest.mark.parametrize(("task", "judged"), [("reach", r"of shape \[3\]"), ("visual_reach", "latents of pictures")])
def test_a_task_with_other_goals_does_not_judge(
    tmp_path: Path, contract: Contract, task: str, judged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = dataset(tmp_path, contract)
    assert main(["relabel", str(tmp_path), "--task", task]) == 2
    expected = rf"--task {task}: it judges by goals that are {judged}, and those of contract lift are of shape \[1\]"
    assert re.search(expected, " ".join(capsys.readouterr().err.split()))
    with pytest.raises(UserError, match="there is no layer"):
        read_layer(base, task)


def test_a_task_that_judges_by_what_was_not_recorded_is_one_sentence() -> None:
    values = {"tool_position": np.zeros((1, 3), np.float32)}
    with pytest.raises(UserError, match="--task push: it judges by object_position, .* have only tool_position"):
        judge_of(make_task("push"))(values, np.zeros((1, 3), np.float32))


def test_recordings_without_goals_are_not_judged(
    tmp_path: Path, contract: Contract, capsys: pytest.CaptureFixture[str]
) -> None:
    file = EpisodeFile(tmp_path, "foreign", contract.recorded_topics(), {})
    for topic, stamp, cdr in episode_messages(contract, TICKS)[1:]:
        file.write(topic, stamp, cdr)
    file.close({})
    (tmp_path / "contract.yaml").write_text(contract.to_yaml())
    read = [str(tmp_path), "--contract", str(tmp_path / "contract.yaml")]
    assert main(["ingest", *read]) == 0
    assert "desired_goal: taken as zeros" in capsys.readouterr().out
    assert main(["relabel", *read, "--task", "lift"]) == 2
    assert "no goal was recorded, so --task lift has nothing to judge by" in " ".join(capsys.readouterr().err.split())


def test_recordings_of_one_task_teach_another(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    assert main(["collect", "pick_and_place", "--episodes", "3", "--bags", str(bags)]) == 0
    assert main(["relabel", str(bags), "--task", "reach"]) == 0
    recorded = load_columns(find_bags(bags), Contract.load("pick_and_place"), bags / DIRECTORY)
    assert recorded.decoded == 0  # what was decoded to be judged is what is learned from
    layer, columns = read_layer(recorded, "reach"), recorded.columns
    begins = np.flatnonzero(columns.has_transition)
    away = np.linalg.norm(columns.observation["tool_position"][begins + 1] - columns.desired_goal[begins], axis=1)
    # To reach is to have the hand at the goal, wherever the object is.
    np.testing.assert_array_equal(layer.reward[begins], np.where(away < THRESHOLD, 0.0, -1.0))
    assert (layer.reward != columns.reward).any()
    weights = []
    for task in ("pick_and_place", "reach"):
        run = tmp_path / task
        train = ["train", "--algorithm", "iql", "--bags", str(bags), "--out", str(run), "--updates", "20"]
        assert main([*train, *(["--task", task] if task == "reach" else []), "--set", "batch_size=32"]) == 0
        weights.append((run / "bundle" / "weights.safetensors").read_bytes())
    assert weights[0] != weights[1]
