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
from rl_ros.training.compare import Data, Run, average, group
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


def run_of(algorithm: str, data: Data, success: float, **settings: str) -> Run:
    figures = {"success": (np.array([100.0]), np.array([success]))}
    return Run(Path(algorithm), algorithm, data, "update", figures, settings=settings)


def test_runs_of_other_tasks_or_settings_are_no_seeds_of_each_other() -> None:
    reach, push = (Data(name, Path(f"/runs/{name}/bags")) for name in ("reach", "push"))
    groups = group(
        [
            run_of("td3_bc", reach, 0.8, alpha="0.1", discount="0.99"),
            run_of("td3_bc", reach, 0.6, alpha="0.1", discount="0.99"),
            run_of("td3_bc", reach, 0.4, alpha="2.5", discount="0.99"),
            run_of("td3_bc", push, 0.2, alpha="0.1", discount="0.99"),
            run_of("bc", push, 0.1, discount="0.9"),
        ]
    )
    # What is the same everywhere is not said.
    assert [(each.name, len(each.runs), each.curves["success"].mean[0]) for each in groups] == [
        ("td3_bc alpha=0.1 on reach", 2, pytest.approx(0.7)),
        ("td3_bc alpha=2.5 on reach", 1, 0.4),
        ("td3_bc alpha=0.1 on push", 1, 0.2),
        ("bc on push", 1, 0.1),
    ]


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ([Data("push", Path("/a/bags"))], ["bc"]),
        ([Data("push", Path("/a/expert")), Data("push", Path("/a/play"))], ["bc on expert", "bc on play"]),
        ([Data("push", Path("/a/bags")), Data("push", Path("/b/bags"))], ["bc on a/bags", "bc on b/bags"]),
        ([Data("push", Path("/a/bags"), layer) for layer in ("", "near")], ["bc on bags", "bc on bags (near)"]),
        ([Data("push"), Data("reach")], ["bc on push", "bc on reach"]),
    ],
)
def test_data_are_called_by_the_shortest_name_that_is_only_theirs(data: list[Data], names: list[str]) -> None:
    assert [each.name for each in group([run_of("bc", each, 0.5) for each in data])] == names


def test_the_command_compares_runs_by_algorithm_settings_and_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    bags = cart_bags(tmp_path / "random_pushes", 20)
    runs = []
    for algorithm, seed, rate in (("iql", 0, 0.001), ("iql", 1, 0.001), ("iql", 0, 0.01), ("bc", 0, 0.001)):
        runs.append(str(tmp_path / f"{algorithm}_{seed}_{rate}"))
        given = ["--bags", str(bags), "--out", runs[-1], "--updates", "200", "--seed", str(seed)]
        settings = ["--set", "hidden_size=16", "--set", "batch_size=16", "--set", f"learning_rate={rate}"]
        assert main(["train", "--algorithm", algorithm, *given, *settings]) == 0
    capsys.readouterr()
    everything = sorted(str(path) for path in tmp_path.iterdir())  # as `runs/*` names them
    assert main(["compare", *everything, "--out", str(tmp_path / "compared")]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"left out: {bags}: holds no metrics.csv, so it is no run; `rl_ros train` makes one."
    ]
    rows = rows_of(tmp_path / "compared/compare.csv")
    assert {(row["algorithm"], row["settings"], row["data"], row["runs"]) for row in rows} == {
        ("iql", "learning_rate=0.001", "random_pushes", "2"),
        ("iql", "learning_rate=0.01", "random_pushes", "1"),
        ("bc", "", "random_pushes", "1"),
    }
    ends = [rows_of(Path(run) / "metrics.csv")[-1] for run in runs]
    last = next(row for row in rows[::-1] if (row["runs"], row["figure"]) == ("2", "critic_loss"))
    losses = [float(end["critic_loss"]) for end in ends[:2]]
    assert float(last["step"]) == 200
    assert float(last["mean"]) == pytest.approx(np.mean(losses), rel=1e-4)
    assert float(last["low"]) == pytest.approx(min(losses), rel=1e-4)
    page = (tmp_path / "compared/compare.html").read_text()
    assert "iql learning_rate=0.001<" in page
    assert "random_pushes" in page
    assert "data:image/png;base64," in page
    assert "<script" not in page
    assert "http" not in page

    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "none")]) == 2
    assert "holds no metrics.csv" in (said := capsys.readouterr().err)
    assert "error: none of these is a run" in said
