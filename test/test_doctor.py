"""Each fault is planted in a healthy run, and only it is found."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pushes import CONTRACT, DISCOUNT, TICKS, cart_bags, cart_episodes

from rl_ros.algorithms.base import dataset_statistics, make_algorithm
from rl_ros.cli import main
from rl_ros.episodes.memory import Episode, ReplayMemory
from rl_ros.training import doctor as module
from rl_ros.training.doctor import CHECKS, Evidence, Finding
from rl_ros.training.estimate import Estimate, Interval
from rl_ros.training.logged import collect, own_values


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def evidence_of(episodes: list[Episode]) -> Evidence:
    """A run whose policy and critic are what IQL has made of the cart after a few updates."""
    memory = ReplayMemory(episodes)
    normalisation = dataset_statistics(memory, CONTRACT)
    settings = {"discount": DISCOUNT, "hidden_size": 16}
    learner = make_algorithm("iql", CONTRACT, normalisation, overrides=settings)
    rng = np.random.default_rng(0)
    for _ in range(20):
        learner.update(memory.take(memory.sample(rng, 64)))
    logged = collect(memory, memory.transitions, learner)
    zero = Interval(0.0, -0.5, 0.5)
    return Evidence(
        metrics={"update": np.arange(100.0), "critic_loss": 1 / np.arange(1.0, 101.0), "value": np.linspace(0, 1, 100)},
        contract=CONTRACT,
        discount=DISCOUNT,
        normalisation=normalisation,
        memory=memory,
        logged=logged,
        q=own_values(learner, logged),
        own_value=0.2,
        estimate=Estimate(len(episodes), len(memory), DISCOUNT, zero, zero, zero, 0.1, 0.5),
    )


@pytest.fixture(scope="module")
def healthy() -> Evidence:
    torch.set_num_threads(1)
    return evidence_of(cart_episodes(60))


def found_in(evidence: Evidence) -> list[Finding]:
    return [finding for check in CHECKS for finding in check(evidence)]


def test_nothing_is_found_in_a_healthy_run(healthy: Evidence) -> None:
    assert found_in(healthy) == []


def test_what_cannot_be_looked_at_is_not_judged(healthy: Evidence) -> None:
    assert found_in(replace(healthy, memory=None, logged=None, q=None, estimate=None)) == []


@pytest.mark.parametrize("name", ["divergence", "underestimation"])
def test_values_that_a_conservative_critic_has_too_low_are_blamed_on_its_weight(healthy: Evidence, name: str) -> None:
    low = replace(healthy, own_value=-6.0, metrics={**healthy.metrics, "q": np.full(100, -500.0)})
    found = {finding.check: finding for finding in found_in(replace(low, conservative_weight=5.0))}
    assert "another conservative_weight than 5:" in found[name].remedy
    assert found[name].severity == "warning", "values are asked to be low, and a policy climbs their differences"
    assert "conservative_weight" not in {finding.check: finding.remedy for finding in found_in(low)}[name]


def test_values_that_it_has_too_high_are_not(healthy: Evidence) -> None:
    high = replace(
        healthy, own_value=6.0, metrics={**healthy.metrics, "q": np.full(100, 500.0)}, conservative_weight=5.0
    )
    assert not any("conservative_weight" in finding.remedy for finding in found_in(high))


def metric(name: str, values: np.ndarray) -> Callable[[Evidence], Evidence]:
    return lambda evidence: replace(evidence, metrics={**evidence.metrics, name: values})


def policy_action(answer: np.ndarray) -> Callable[[Evidence], Evidence]:
    def plant(evidence: Evidence) -> Evidence:
        assert evidence.logged is not None
        actions = np.broadcast_to(answer, evidence.logged.action.shape).astype(np.float32)
        return replace(evidence, logged=replace(evidence.logged, policy_action=actions))

    return plant


def recorded(change: Callable[[Episode], Episode], count: int = 60) -> Callable[[Evidence], Evidence]:
    """Other recordings, with a run that was trained on them."""
    return lambda evidence: replace(
        evidence_of([change(episode) for episode in cart_episodes(count)]), metrics=evidence.metrics
    )


def normalised_with(mean: float, std: float) -> Callable[[Evidence], Evidence]:
    statistics = {"position": {"mean": [mean], "std": [std]}}
    return lambda evidence: replace(evidence, normalisation={**evidence.normalisation, **statistics})


def row(index: int) -> np.ndarray:
    return np.arange(TICKS + 1) == index


FAULTS: dict[str, tuple[Callable[[Evidence], Evidence], str, str]] = {
    "loss is NaN": (metric("critic_loss", np.array([1.0, np.nan])), "divergence", "critic_loss is not finite"),
    "value beyond all returns": (
        metric("value", np.linspace(0, 500, 100)),
        "divergence",
        "value is 500, but with these rewards no return is beyond",
    ),
    "critic beyond all returns": (
        lambda e: replace(e, q=np.full(len(e.logged.reward), -1e4, np.float32)),  # type: ignore[union-attr]
        "divergence",
        "Q(s, a) is -1e+04, but",
    ),
    "critic's loss explodes": (
        metric("critic_loss", np.geomspace(0.1, 1e4, 100)),
        "divergence",
        "times as large at the end as it once was",
    ),
    "overestimation": (lambda e: replace(e, own_value=6.0), "overestimation", "the critic values the policy at 6;"),
    "underestimation": (lambda e: replace(e, own_value=-6.0), "underestimation", "fitted Q evaluation at 0 (-0.5 to"),
    "saturated actions": (policy_action(np.array([[1.0]])), "dead policy", "push at a limit in 100% of the"),
    "constant actions": (policy_action(np.array([[0.3]])), "dead policy", "push is 0.30 of half its range, whatever"),
    "reward never seen": (
        recorded(lambda e: replace(e, reward=np.full_like(e.reward, -1.0))),
        "reward",
        "the reward is -1 in all of 1200 transitions",
    ),
    "ends are not marked": (
        recorded(lambda e: replace(e, truncated=np.zeros_like(e.truncated))),
        "terminals",
        "60 of 60 episodes end neither terminated nor truncated",
    ),
    "time limit as termination": (
        recorded(lambda e: replace(e, truncated=np.zeros_like(e.truncated), terminated=row(TICKS - 1))),
        "terminals",
        "60 of 60 episodes of the greatest length, 20 transitions, are terminated: a time limit",
    ),
    "termination in the middle": (
        recorded(lambda e: replace(e, terminated=row(5) if e.seed < 10 else e.terminated)),
        "terminals",
        "10 transitions are marked as terminated, but their episodes go on",
    ),
    "few episodes": (recorded(lambda e: e, count=6), "coverage", "there are 6 episodes and 120 transitions"),
    "action never varied": (
        recorded(lambda e: replace(e, action=np.full_like(e.action, 0.1))),
        "coverage",
        "push varies by 0.0% of half its range",
    ),
    "normalised with another mean": (normalised_with(3.0, 0.3), "normaliser", "position has mean"),
    "normalised with another unit": (normalised_with(0.0, 300.0), "normaliser", "is normalised with 0 and 300"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_nothing_else(healthy: Evidence, name: str) -> None:
    plant, check, text = FAULTS[name]
    found = found_in(plant(healthy))
    assert {finding.check for finding in found} == {check}
    assert text in " ".join(finding.what for finding in found)
    assert all(finding.where and finding.remedy for finding in found)


def test_a_gripper_without_a_middle_is_found_where_critics_are_conservative(healthy: Evidence) -> None:
    assert healthy.logged is not None
    rng = np.random.default_rng(0)
    ends = np.sign(rng.uniform(-1, 1, healthy.logged.action.shape)).astype(np.float32)
    logged = replace(healthy.logged, action=ends, policy_action=rng.permutation(ends))
    (finding,) = found_in(replace(healthy, logged=logged, conservative_weight=1.0))
    assert (finding.check, finding.severity) == ("limits", "fault")
    assert "push is recorded at one of its limits in 100%" in finding.what
    assert "`discrete: true`" in finding.remedy
    assert found_in(replace(healthy, logged=logged)) == [], "whoever clones, or is cloned to, jumps from end to end"
    assert found_in(replace(healthy, conservative_weight=1.0)) == []


def test_rewards_that_an_algorithm_gives_itself_are_not_held_against_it(healthy: Evidence) -> None:
    own = replace(FAULTS["reward never seen"][0](healthy), recorded_rewards=False, q=None, estimate=None)
    assert found_in(metric("value", np.full(100, -90.0))(own)) == []


def test_the_command_says_what_is_wrong_with_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUICK", replace(module.QUICK, members=4, updates=150, hidden_size=16))
    bags, run = cart_bags(tmp_path / "bags", 60), tmp_path / "run"
    settings = ["--set", "hidden_size=16", "--set", "discount=0.9", "--seed", "1"]
    given = ["--algorithm", "iql", "--bags", str(bags), "--out", str(run), "--updates", "150", *settings]
    assert main(["train", *given]) == 0
    capsys.readouterr()
    assert main(["doctor", str(run)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"healthy": True, "findings": []}

    file = run / "metrics.csv"
    columns, *rows = file.read_text().splitlines()
    broken = ",".join(
        "nan" if name == "critic_loss" else cell
        for name, cell in zip(columns.split(","), rows[-1].split(","), strict=True)
    )
    file.write_text("\n".join([columns, *rows, broken]) + "\n")
    assert main(["doctor", str(run)]) == 1
    [finding] = json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]
    assert (finding["check"], finding["severity"], finding["where"]) == ("divergence", "fault", "metrics.csv")


def test_recordings_that_were_moved_are_read_as_in_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUICK", replace(module.QUICK, members=4, updates=20, hidden_size=16))
    bags, run = cart_bags(tmp_path / "bags", 8), tmp_path / "run"
    given = ["--bags", str(bags), "--out", str(run), "--updates", "5", "--split-at", "1.0"]
    assert main(["train", "--algorithm", "bc", *given]) == 0
    moved = bags.rename(tmp_path / "moved")
    assert main(["doctor", str(run), "--bags", str(moved)]) == 1
    findings = json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]
    assert "there are 16 episodes" in " ".join(finding["what"] for finding in findings)


def test_a_directory_that_is_no_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path)]) == 2
    assert "holds no metrics.csv, so it is no run" in capsys.readouterr().err
