"""QT-Opt in parts: what each part does, and that a run with all of them learns and loses nothing."""

import dataclasses
import importlib.util
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from rl_ros.algorithms.qt_opt import QTOpt
from rl_ros.contract import Contract
from rl_ros.episodes.bags import find_bags
from rl_ros.episodes.ingest import read_episodes
from rl_ros.errors import UserError
from rl_ros.training.bundle import load_bundle
from rl_ros.training.distributed import Collector, Here, OnRay, Replay, Settings, Trainer, Updater, train_in_parts
from rl_ros.training.grasping import collect_grasps
from rl_ros.training.report import read_columns

CONTRACT = Contract.load("grasp")
SMALL = {"hidden_size": 16, "image_features": 4, "batch_size": 8, "samples": 8, "elites": 2, "lag": 5}


def settings_of(tmp_path: Path, **others: object) -> Settings:
    small: dict[str, object] = {"updates": 40, "grasps_a_bag": 4, "start_after": 4, "export_every": 20}
    return Settings(tmp_path / "bags", tmp_path / "run", overrides=SMALL, **(small | others))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bags = tmp_path_factory.mktemp("recorded") / "bags"
    collect_grasps(bags, 6, seed=0, workers=0)
    return bags


def test_targets_of_an_updater_are_those_that_the_trainer_would_find(recorded: Path, tmp_path: Path) -> None:
    settings = Settings(recorded, tmp_path / "run", updates=40, overrides=SMALL)
    replay = Replay(settings, CONTRACT)
    assert replay.look() == 6
    normalisation = replay.normalisation()
    trainer, updater = (kind(settings, CONTRACT, normalisation) for kind in (Trainer, Updater))
    assert isinstance(trainer, Trainer)
    assert isinstance(updater, Updater)
    batches = replay.block(6)
    trainer.learn(batches)  # its targets move away from the initial weights
    labelled = updater.label(trainer.weights(), batches)
    own = [trainer.learner.label(batch).extra["target"] for batch in batches]
    for batch, target in zip(labelled, own, strict=True):
        np.testing.assert_array_equal(batch.extra["target"], target)
    assert np.std(own) > 0


def test_batches_with_targets_are_learned_from_as_those_without(recorded: Path, tmp_path: Path) -> None:
    settings = Settings(recorded, tmp_path / "run", updates=40, overrides=SMALL)
    replay = Replay(settings, CONTRACT)
    replay.look()
    batches = replay.block(8)
    weights = []
    for labels in (False, True):
        learner = Trainer(settings, CONTRACT, replay.normalisation()).learner
        assert isinstance(learner, QTOpt)
        for batch in batches:
            learner.update(learner.label(batch) if labels else batch)
        weights.append(learner.state_dict())
    for name, value in weights[0].items():
        np.testing.assert_array_equal(value.numpy(), weights[1][name].numpy(), err_msg=name)


def test_a_collector_grasps_by_policy_and_explorer_in_their_shares_and_says_who(tmp_path: Path, recorded: Path) -> None:
    learned = train_in_parts(Settings(recorded, tmp_path / "first", updates=2, overrides=SMALL, start_after=1), Here())
    settings = settings_of(tmp_path, scripted_share=0.5, grasps=8, grasps_a_bag=8)
    found = Collector(settings).collect(0, str(learned))
    assert sum(found.grasps.values()) == 8
    assert set(found.grasps) == {"policy", "scripted"}
    episodes, refused = read_episodes([Path(found.bag)], CONTRACT)
    assert not refused
    acted = [int(episode.actor[0]) for episode in episodes if episode.actor is not None]
    assert acted.count(1) == found.grasps["policy"]
    assert acted.count(3) == found.grasps["scripted"]


def test_a_run_begins_with_the_explorer_goes_on_with_its_own_policy_and_ends_with_a_bundle(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, updates=80, grasps=12, updates_a_grasp=2.0, scripted_share=0.0)
    seen: list[tuple[int, int]] = []
    bundle = train_in_parts(settings, Here(), lambda updates, grasps: seen.append((updates, grasps)))
    assert load_bundle(bundle).algorithm == "qt_opt"
    assert seen[-1] == (80, 12)
    episodes, _ = read_episodes(find_bags(settings.bags), CONTRACT)
    assert len(episodes) == 12
    log = read_columns(settings.out / "metrics.csv")
    assert np.nanmax(log["policy_share"]) == 1.0
    assert log["episodes"][-1] >= 8


def test_the_same_seed_gives_the_same_weights(recorded: Path, tmp_path: Path) -> None:
    found = []
    for run in ("one", "two"):
        settings = Settings(recorded, tmp_path / run, updates=10, overrides=SMALL, start_after=1)
        found.append(load_bundle(train_in_parts(settings, Here())).state())
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name], err_msg=name)


def test_fine_tuning_begins_with_the_bundle(recorded: Path, tmp_path: Path) -> None:
    first = train_in_parts(Settings(recorded, tmp_path / "a", updates=5, overrides=SMALL, start_after=1), Here())
    settings = Settings(recorded, tmp_path / "b", updates=5, continue_from=str(first), start_after=1)
    assert load_bundle(train_in_parts(settings, Here())).state()["updates"].item() == 10


def test_another_run_into_the_same_bags_collects_other_grasps(tmp_path: Path) -> None:
    collect_grasps(tmp_path / "bags", 1, seed=0, workers=0)  # whose bag is numbered otherwise
    settings = settings_of(tmp_path, updates=2, grasps=4, start_after=5, updates_a_grasp=0.1)
    first = train_in_parts(settings, Here())
    train_in_parts(dataclasses.replace(settings, start_after=9, continue_from=str(first), overrides={}), Here())
    episodes, _ = read_episodes(find_bags(settings.bags), CONTRACT)
    assert len(episodes) == 9
    assert len({episode.seed for episode in episodes}) == 9


def test_without_a_grasp_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no grasp to learn from"):
        train_in_parts(settings_of(tmp_path), Here())


class DyingCollector(Collector):
    """Dies in the middle of its second bag, once."""

    def collect(self, number: int, bundle: str) -> object:  # type: ignore[override]
        died = self.settings.out / "died"
        if number == 1 and not died.exists():
            died.parent.mkdir(parents=True, exist_ok=True)
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().collect(number, bundle)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is an extra: pip install 'rl_ros[ray]'")
def test_on_ray_a_collector_that_is_killed_is_replaced_and_no_grasp_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl_ros.training.distributed.Collector", DyingCollector)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))  # for Ray's workers
    settings = settings_of(tmp_path, updates=80, grasps=12, updates_a_grasp=2.0)
    engine, seen = OnRay(), [0]
    try:
        bundle = train_in_parts(settings, engine, lambda updates, grasps: seen.append(grasps))
    finally:
        engine.close()
    assert (settings.out / "died").exists()
    assert load_bundle(bundle).algorithm == "qt_opt"
    episodes, _ = read_episodes(find_bags(settings.bags), CONTRACT)
    assert len(episodes) == seen[-1]  # how many there was time for is another matter
    assert len(episodes) >= 8
