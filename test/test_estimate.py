"""What recordings say of a policy, where the truth is known."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pushes import DISCOUNT, TICKS, cart_bags, pushes, truth

from rl_ros.cli import main
from rl_ros.training import estimate as module
from rl_ros.training.estimate import Estimate, Interval, Settings, calibrate, judge
from rl_ros.training.logged import Logged, returns

QUICK = Settings(members=12, quantile=2.2, updates=500, batch_size=64, hidden_size=24)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def logged(policy: float, episodes: int = 60, seed: int = 0) -> Logged:
    """Random pushes, and the answers of a policy that pushes with a constant action."""
    made, rows = pushes(episodes, seed), episodes * TICKS

    def column(values: np.ndarray) -> np.ndarray:
        return values.reshape(-1, 1).astype(np.float32)

    answer = np.full((rows, 1), policy, np.float32)
    return Logged(
        state=column(made.state[:, :-1]),
        next_state=column(made.state[:, 1:]),
        action=column(made.action),
        policy_action=answer,
        next_policy_action=answer,
        reward=column(made.state[:, 1:])[:, 0],
        terminated=np.zeros(rows, bool),
        last=np.arange(rows) % TICKS == TICKS - 1,
        episode=np.repeat(np.arange(episodes), TICKS),
    )


@pytest.mark.parametrize(("policy", "verdict"), [(0.8, "better"), (0.0, "unclear"), (-0.8, "worse")])
def test_the_interval_covers_the_truth_and_the_verdict_follows_from_it(policy: float, verdict: str) -> None:
    data = logged(policy, seed=1)
    found = judge(data, DISCOUNT, settings=QUICK)
    start = data.state[data.starts, 0]
    assert found.verdict == verdict
    assert found.value.low < truth(start, policy) < found.value.high
    # Random pushes are worth what the mean push is worth: the world is linear.
    assert found.behaviour.low < truth(start, 0.0) < found.behaviour.high
    assert found.value.high - found.value.low < 5.0, "an interval that says nothing covers everything"


def test_the_sentence_says_what_to_do_and_how_sure_it_is() -> None:
    value = Interval(0.0, -1.0, 1.0)
    found = Estimate(20, 400, 0.9, value, value, Interval(-2.0, -3.0, -1.0), action_distance=0.9, action_spread=0.4)
    assert found.recommendation == (
        "worse than the behaviour policy with 95 % confidence: do not deploy (difference -2 (-3 to -1), on 20 episodes "
        "that it has not learned from); its actions are far from the recorded ones, so the estimate extrapolates"
    )
    found = replace(found, difference=Interval(2.0, 1.0, 3.0), action_distance=0.7)
    assert found.recommendation.startswith(
        "better than the behaviour policy with 95 % confidence: deploy for a trial ("
    )
    assert found.recommendation.endswith("that it has not learned from)")
    assert "record more" in replace(found, difference=Interval(0.1, -1.0, 1.2)).recommendation


def test_the_return_counts_what_follows_a_cut_and_nothing_after_an_end() -> None:
    data = logged(0.0, episodes=2)
    ended = np.zeros(2 * TICKS, bool)
    ended[-1] = True
    data = replace(data, reward=np.ones(2 * TICKS, np.float32), terminated=ended)
    found = returns(data, 0.5, tail=np.full(2 * TICKS, 8.0))
    assert found[TICKS - 2 : TICKS].tolist() == [1 + 0.5 * (1 + 0.5 * 8), 1 + 0.5 * 8]
    assert found[-2:].tolist() == [1.5, 1.0]


def test_calibration_measures_how_far_values_are_from_returns() -> None:
    observed = np.arange(100.0)
    assert calibrate(observed, observed).error == 0.0
    found = calibrate(observed + 3.0, observed)
    assert (found.error, found.bias) == (pytest.approx(3.0), pytest.approx(3.0))
    np.testing.assert_allclose(found.predicted - found.observed, 3.0)
    assert len(found.predicted) == module.BINS


def trained(run: Path, bags: Path, *options: str) -> Path:
    given = ["--bags", str(bags), "--out", str(run), "--updates", "30", "--set", "hidden_size=16"]
    assert main(["train", "--algorithm", "iql", *given, *options]) == 0
    return run


def test_the_command_judges_by_held_out_episodes_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Settings", lambda: Settings(members=4, updates=20, hidden_size=8))
    seen = []
    collect = module.collect
    monkeypatch.setattr(
        module, "collect", lambda memory, rows, learner: seen.append(rows) or collect(memory, rows, learner)
    )
    bags = cart_bags(tmp_path / "bags", 40)
    run = trained(tmp_path / "run", bags, "--held-out", "0.2")
    assert main(["evaluate", "--offline", str(run)]) == 0
    said = capsys.readouterr().out.splitlines()
    summary = json.loads(said[-1])
    assert summary["episodes"] == 8
    assert summary["transitions"] == 8 * TICKS == len(seen[0])
    assert summary["recommendation"] in " ".join(said[:-1])
    assert json.loads((run / "offline_evaluation/estimate.json").read_text()) == summary
    page = (run / "offline_evaluation/report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "Calibration of the run" in page

    # Other recordings: all of them are new; of the run's own, none is.
    assert main(["evaluate", "--offline", str(run), "--bags", str(cart_bags(tmp_path / "new", 6, seed=1))]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["episodes"] == 6
    assert main(["evaluate", "--offline", str(run), "--bags", str(bags)]) == 2
    assert "the run was trained on all of these recordings" in capsys.readouterr().err


def test_too_few_episodes_are_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path / "run", cart_bags(tmp_path / "bags", 21))
    assert main(["evaluate", "--offline", str(run)]) == 2
    assert "1 held-out episodes are too few for an interval; train with --held-out 0.2" in capsys.readouterr().err
    (tmp_path / "run/data.json").unlink()
    assert main(["evaluate", "--offline", str(run)]) == 2
    assert "name recordings with --bags" in capsys.readouterr().err


def test_what_was_trained_on_is_known_from_every_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bags = cart_bags(tmp_path / "bags", 20)
    monkeypatch.chdir(tmp_path)
    run = trained(tmp_path / "run", Path("bags"))
    monkeypatch.chdir("/")
    assert main(["evaluate", "--offline", str(run), "--bags", str(bags)]) == 2
    assert "the run was trained on all of these recordings" in capsys.readouterr().err

    # Bundles of before have paths as they were typed.
    description = run / "bundle/bundle.json"
    data = json.loads(description.read_text())
    data["source_episodes"] = [str(Path(each).relative_to(tmp_path)) for each in data["source_episodes"]]
    description.write_text(json.dumps(data))
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--offline", str(run), "--bags", "bags"]) == 2
    assert "the run was trained on all of these recordings" in capsys.readouterr().err


def test_what_was_held_out_is_not_known_once_other_recordings_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bags = cart_bags(tmp_path / "bags", 20)
    run = trained(tmp_path / "run", bags, "--held-out", "0.2")
    sorted(bags.iterdir())[3].rename(bags / "z_later")
    assert main(["evaluate", "--offline", str(run)]) == 2
    assert "holds 20 episodes that are not the 20 of training" in capsys.readouterr().err
