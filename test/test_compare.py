"""Runs side by side, and what a run writes as it goes."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from pushes import cart_bags
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rl_ros.cli import main
from rl_ros.episodes.statistics import bootstrap_interval, interquartile_mean
from rl_ros.training.compare import average
from rl_ros.training.logs import RunLog


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_row_is_on_disk_at_once_in_both_files(tmp_path: Path) -> None:
    with RunLog(tmp_path / "metrics.csv") as log:
        log.write({"update": 100, "seconds": 1.234, "critic_loss": 0.123456789})
        assert rows_of(tmp_path / "metrics.csv") == [{"update": "100", "seconds": "1.23", "critic_loss": "0.123457"}]
        log.write({"update": 200, "seconds": 2.0, "critic_loss": 0.1, "validation_policy_loss": -3.0})
        events = EventAccumulator(str(tmp_path)).Reload()
    assert rows_of(tmp_path / "metrics.csv")[0]["validation_policy_loss"] == ""
    assert events.Tags()["scalars"] == ["training/critic_loss", "validation/policy_loss"]
    losses = [(event.step, event.value) for event in events.Scalars("training/critic_loss")]
    assert losses == [(100, pytest.approx(0.123456789)), (200, pytest.approx(0.1))]


def test_a_run_that_goes_on_adds_to_both_and_another_begins_anew(tmp_path: Path) -> None:
    for append, steps in ((False, [1]), (True, [1, 2]), (False, [3])):
        with RunLog(tmp_path / "progress.csv", append) as log:
            log.write({"env_steps": steps[-1], "return": 0.5})
        assert [int(row["env_steps"]) for row in rows_of(tmp_path / "progress.csv")] == steps
        events = EventAccumulator(str(tmp_path)).Reload()
        assert [event.step for event in events.Scalars("training/return")] == steps


def test_curves_are_averaged_over_the_steps_that_all_have_reached() -> None:
    steps = np.array([0.0, 100.0, 200.0])
    curve = average([(steps, steps), (steps[:2], steps[:2] + 10.0)])
    assert curve.steps[-1] == 100.0
    np.testing.assert_allclose(curve.mean, curve.steps + 5.0)
    np.testing.assert_allclose([curve.low, curve.high], [curve.steps, curve.steps + 10.0])
    alone = average([(steps, steps)])
    np.testing.assert_array_equal(alone.low, alone.high)


def test_an_interval_is_narrower_the_more_runs_there_are() -> None:
    rng = np.random.default_rng(0)
    few, many = (np.subtract(*bootstrap_interval(rng.normal(size=n))[::-1]) for n in (5, 500))
    assert 0.14 < many < 0.22  # 2 x 1.96 / sqrt(500)
    assert few > 3 * many


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end() -> None:
    assert interquartile_mean(np.array([-100.0, 1.0, 3.0, 100.0])) == 2.0
    # Of six scores one and a half are left out at each end.
    assert interquartile_mean(np.array([-9.0, 1.0, 2.0, 4.0, 5.0, 90.0])) == pytest.approx((0.5 + 2 + 4 + 2.5) / 3)
    np.testing.assert_array_equal(interquartile_mean(np.ones((2, 5))), [1.0, 1.0])


def test_the_command_compares_runs_by_algorithm_and_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    bags = cart_bags(tmp_path / "random_pushes", 20)
    runs = []
    for algorithm, seed in (("iql", 0), ("iql", 1), ("bc", 0)):
        runs.append(str(tmp_path / f"{algorithm}_{seed}"))
        given = ["--bags", str(bags), "--out", runs[-1], "--updates", "200", "--seed", str(seed)]
        assert (
            main(["train", "--algorithm", algorithm, *given, "--set", "hidden_size=16", "--set", "batch_size=16"]) == 0
        )
    assert main(["compare", *runs, "--out", str(tmp_path / "compared")]) == 0
    rows = rows_of(tmp_path / "compared/compare.csv")
    assert {(row["algorithm"], row["data"], row["runs"]) for row in rows} == {
        ("iql", "random_pushes", "2"),
        ("bc", "random_pushes", "1"),
    }
    ends = [rows_of(Path(run) / "metrics.csv")[-1] for run in runs]
    last = next(row for row in rows[::-1] if (row["algorithm"], row["figure"]) == ("iql", "critic_loss"))
    losses = [float(end["critic_loss"]) for end in ends[:2]]
    assert float(last["step"]) == 200
    assert float(last["mean"]) == pytest.approx(np.mean(losses), rel=1e-4)
    assert float(last["low"]) == pytest.approx(min(losses), rel=1e-4)
    page = (tmp_path / "compared/compare.html").read_text()
    assert "iql on random_pushes" in page
    assert "data:image/png;base64," in page
    assert "<script" not in page
    assert "http" not in page

    capsys.readouterr()
    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "none")]) == 2
    assert "holds no metrics.csv" in capsys.readouterr().err
