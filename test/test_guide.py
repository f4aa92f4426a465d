"""The guide: the hand is led to what is to be moved, and an interrupted run with a guide is the run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rl_ros.algorithms.base import make_algorithm
from rl_ros.contract import Contract
from rl_ros.episodes.hindsight import Hindsight
from rl_ros.episodes.memory import Episode
from rl_ros.errors import UserError
from rl_ros.tasks.push import Push
from rl_ros.training.guide import TOLERANCE, Guide, Place
from rl_ros.training.online import Act, OnlineSettings, OnlineTraining

LENGTH, STEP = 30, 0.06
NAMES = ("tool_position", "object_position")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def contract() -> Contract:
    """Where the hand and the thing are, and an action that moves the hand."""

    def vector(name: str, **more: Any) -> dict[str, Any]:
        names = [f"{name}_{axis}" for axis in "xyz"]
        message = {"topic": f"/{name}", "type": "sensor_msgs/msg/JointState", "field": "position"}
        return message | {"names": names, "shape": [3], "unit": "m"} | more

    return Contract.from_dict(
        {
            "format": 1, "name": "table", "task": "push", "control_rate": 10.0, "episode_length": LENGTH,
            "frame": "base", "reference": NAMES[0], "observation": {name: vector(name) for name in NAMES},
            "action": {"move": vector("move", low=[-1.0] * 3, high=[1.0] * 3)},
            "goal": {"desired_goal": vector("goal"), "achieved_goal": NAMES[1]},
        },
        "table",
    )  # fmt: skip


class Table:
    """A hand that moves by up to 6 cm a tick, and a thing that comes along while the hand is within 5 cm of it."""

    def __init__(self) -> None:
        self.contract = contract()

    def collect(self, act: Act, seeds: Sequence[int]) -> list[Episode]:
        draws = [np.random.default_rng(seed) for seed in seeds]
        around = np.stack([rng.normal(size=3) for rng in draws])
        hand = np.zeros((len(seeds), 3), np.float32)
        thing = (0.3 * around / np.linalg.norm(around, axis=1, keepdims=True)).astype(np.float32)
        goal = np.stack([rng.uniform(-0.3, 0.3, 3) for rng in draws]).astype(np.float32)
        hands, things, actions = [hand], [thing], []
        for _ in range(LENGTH):
            actions.append(act(dict(zip(NAMES, (hand, thing), strict=True)), goal).astype(np.float32))
            moved = np.float32(STEP) * actions[-1]
            touching = np.linalg.norm(hand - thing, axis=1, keepdims=True) < TOLERANCE
            hand, thing = hand + moved, thing + moved * touching
            hands.append(hand)
            things.append(thing)
        rewards = [Push().compute_reward(thing, goal) for thing in things[1:]]
        number = np.arange(LENGTH + 1)
        return [
            Episode(
                stamps=number,
                observation={
                    name: np.stack([place[i] for place in places])
                    for name, places in zip(NAMES, (hands, things), strict=True)
                },
                auxiliary={},
                desired_goal=np.tile(goal[i], (LENGTH + 1, 1)),
                action=np.stack([*(action[i] for action in actions), np.zeros(3, np.float32)]),
                reward=np.array([*(reward[i] for reward in rewards), 0.0], np.float32),
                terminated=np.zeros(LENGTH + 1, bool),
                truncated=number == LENGTH - 1,
                has_transition=number < LENGTH,
                outcome="success" if rewards[-1][i] == 0.0 else "timeout",
                seed=int(seed),
                source="",
            )
            for i, seed in enumerate(seeds)
        ]


def training(out: Path, guide: bool = True, resume: bool = False, **loop: Any) -> OnlineTraining:
    table = Table()
    unknown = {name: {"mean": [0.0] * 3, "std": [1.0] * 3} for name in (*NAMES, "desired_goal")}
    algorithm = make_algorithm("ddpg", table.contract, unknown, overrides={"hidden_size": 16, "batch_size": 32})
    algorithm.hindsight = Hindsight({"future": 0.8}, Push().compute_reward)
    settings = OnlineSettings(**{"steps": 4_000, "updates_per_step": 0.02, "evaluate_every": 10**9} | loop)
    leading = Guide(table.contract, *map(Place, NAMES), seed=0) if guide else None
    return OnlineTraining(algorithm, table, settings, 0, out, guide=leading, resume=resume)


def test_a_guided_hand_gets_to_the_thing_and_an_unguided_one_does_not(tmp_path: Path) -> None:
    run = training(tmp_path)
    for _ in range(12):
        run.round()
    guide, rng = run.guide, np.random.default_rng(0)
    assert guide is not None

    def unguided(values: Mapping[str, np.ndarray], goal: np.ndarray) -> np.ndarray:
        return rng.uniform(-1.0, 1.0, (len(goal), 3)).astype(np.float32)

    def guided(values: Mapping[str, np.ndarray], goal: np.ndarray) -> np.ndarray:
        return guide.lead(values, unguided(values, goal), rng)

    for act, least, most in ((guided, 0.4, 1.0), (unguided, 0.0, 0.15)):
        things = [episode.observation["object_position"] for episode in Table().collect(act, range(10_000, 10_080))]
        moved = np.mean([(thing != thing[0]).any() for thing in things])
        assert least <= moved <= most, act.__name__


def test_near_the_thing_the_policy_is_left_alone(tmp_path: Path) -> None:
    run = training(tmp_path)
    for _ in range(6):
        run.round()
    assert run.guide is not None
    places = np.zeros((1000, 3), np.float32)
    places[:500, 0], places[500:, 0] = run.guide.far - 0.01, run.guide.far + 0.1
    policy = np.full((1000, 3), 0.123, np.float32)
    values = {"tool_position": np.zeros((1000, 3), np.float32), "object_position": places}
    led = (run.guide.lead(values, policy, np.random.default_rng(0)) != policy).any(1)
    assert not led[:500].any()
    assert 0.4 < led[500:].mean() < 0.6


def test_a_guided_run_in_pieces_is_the_run_bit_for_bit(tmp_path: Path) -> None:
    loop = {"steps": 1_600, "random_steps": 400}
    whole = training(tmp_path / "whole", **loop)
    whole.run(checkpoint_every=None)
    for first in (False, True):
        piece = training(tmp_path / "pieces", resume=first, **loop)
        for _ in range(3):
            piece.round()
        piece.save()
    last = training(tmp_path / "pieces", resume=True, **loop)
    last.run(checkpoint_every=None)
    assert whole.guide is not None and last.guide is not None
    assert whole.guide.learner.updates > 0
    for one, other in ((whole.algorithm, last.algorithm), (whole.guide.learner, last.guide.learner)):
        expected, found = one.state_dict(), other.state_dict()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    with pytest.raises(UserError, match="this run has guided True, not False"):
        training(tmp_path / "pieces", guide=False, resume=True, **loop)


def test_a_place_that_observations_do_not_hold_is_refused() -> None:
    with pytest.raises(UserError, match="no position of three entries"):
        Guide(contract(), Place("tool_position", 1), Place("object_position"), seed=0)
