"""A guide to what is to be moved: the hand is led there while a policy that is to move it knows nothing yet.

Where the goal is a thing's position, hindsight teaches nothing until the hand has touched the thing, which random
actions seldom do. Bringing the hand to it is a task of its own that hindsight solves within two thousand ticks, from
the same episodes. Luo et al. 2022, "Relay Hindsight Experience Replay" (2208.00843), sections 3.2 and 3.3: learn that
first, and explore from there. Here the two learners share episodes and nothing else, and the guide leads in a share of
the ticks, wherever the hand is far from the thing; near it, it leaves the policy alone. No script, no demonstration.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rl_ros.algorithms.base import make_algorithm
from rl_ros.contract import Contract, Goal, Key
from rl_ros.episodes.distance import DistanceReward
from rl_ros.episodes.hindsight import Hindsight, relabelled_share
from rl_ros.episodes.memory import Episode, ReplayMemory
from rl_ros.episodes.statistics import RunningStatistics
from rl_ros.errors import UserError
from rl_ros.networks.layers import DESIRED_GOAL
from rl_ros.training.checkpoint import Checkpoint

HAND = "hand"
SETTINGS: dict[str, Any] = {"hidden_size": 64, "hidden_layers": 2, "batch_size": 256}
CAPACITY = 30_000
"""Ticks that are remembered."""
BEGIN_AFTER = 1_000
"""Ticks before the first update, and before it leads."""
UPDATES_A_TICK, LAST_UPDATE = 0.5, 5_000
TOLERANCE = 0.05
"""m from the thing that counts as there."""


@dataclass(frozen=True)
class Place:
    """Where observations hold a position: three entries of a key, m."""

    key: str
    first: int = 0

    def of(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The position, (..., 3)."""
        return values[self.key][..., self.first : self.first + 3]


class Guide:
    """Learns to bring the hand to the thing, from episodes that were collected for something else.

    Args:
        contract: of the episodes.
        hand: where the hand is.
        thing: where what is to be moved is.
        seed: of the weights.
        far: m from the thing, beyond which it leads. A hand that may reach the thing in two ticks finds it by chance
            from 10 cm away and learns to go around it; a slow one has to be led until it touches.
        share: of the ticks in which it leads, where the hand is far. A policy that knows nothing yet may drive a slow
            hand away as fast as half of the ticks bring it back.

    Raises:
        UserError: observations hold no such place.
    """

    def __init__(
        self, contract: Contract, hand: Place, thing: Place, seed: int, far: float = 0.1, share: float = 0.5
    ) -> None:
        for place in (hand, thing):
            key = contract.observation.get(place.key)
            if key is None or len(key.shape) != 1 or key.shape[0] < place.first + 3:
                raise UserError(f"guide: observations hold no position of three entries in {place}.")
        self.hand, self.thing, self.far, self.share = hand, thing, far, share
        position = Key(f"/{HAND}", "sensor_msgs/msg/JointState", "position", (3,), names=("x", "y", "z"), unit="m")
        own = dataclasses.replace(
            contract,
            goal=Goal(dataclasses.replace(position, topic=f"/{DESIRED_GOAL}"), True, HAND),
            auxiliary={HAND: position},
        )
        sizes = {name: math.prod(key.shape) for name, key in own.observation.items()} | {DESIRED_GOAL: 3}
        unknown = {name: {"mean": [0.0] * size, "std": [1.0] * size} for name, size in sizes.items()}
        self.learner = make_algorithm("ddpg", own, unknown, seed=seed, overrides=SETTINGS)
        self.reward = DistanceReward("penalty", tolerance=TOLERANCE)
        self.learner.hindsight = Hindsight({"future": relabelled_share(4)}, self.reward)
        self.memory = ReplayMemory([], capacity=CAPACITY, achieved_goal=HAND)
        self.ticks = 0
        self._statistics = RunningStatistics()

    def lead(self, observation: Mapping[str, np.ndarray], action: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The actions to take: the guide's in a share of the rows where the hand is far from the thing, else `action`.

        Args:
            observation: by key, (n, ...).
            action: the policy's, float32 (n, A).
            rng: says which rows.
        """
        leads = rng.random(len(action)) < self.share
        if self.ticks < BEGIN_AFTER:
            return action
        thing = self.thing.of(observation)
        leads &= np.linalg.norm(self.hand.of(observation) - thing, axis=-1) > self.far
        led = self.learner.act(observation, np.ascontiguousarray(thing), exploring=True)
        return np.where(leads[:, None], led, action)

    def learn(self, episodes: Sequence[Episode], rng: np.random.Generator) -> None:
        """Remember the episodes, and learn for a while."""
        if self.learner.updates >= LAST_UPDATE:
            return
        for episode in episodes:
            mine = self._as_mine(episode)
            self.memory.append(mine)
            for name, values in (mine.observation | {DESIRED_GOAL: mine.desired_goal}).items():
                self._statistics.add(name, values)
            self._statistics.add(DESIRED_GOAL, mine.auxiliary[HAND])
            self.ticks += int(mine.has_transition.sum())
        if self.ticks < BEGIN_AFTER:
            return
        self.learner.normalise(self._statistics.normalisation())
        updates = round(UPDATES_A_TICK * sum(int(episode.has_transition.sum()) for episode in episodes))
        rows = self.memory.sample(rng, (updates, self.learner.config.batch_size))
        for batch in self.learner.batches(self.memory, rows, rng):
            self.learner.update(batch)

    def state(self) -> Checkpoint:
        """What `restore` goes on from."""
        values = {"ticks": self.ticks, "statistics": self._statistics.state()}
        return Checkpoint(self.learner.state_dict(), self.memory.state(), values)

    def restore(self, state: Checkpoint) -> None:
        """Go on from what `state` gave, bit for bit."""
        self.learner.load_state_dict(state.tensors)
        self.memory.restore(state.arrays)
        self.ticks = state.values["ticks"]
        self._statistics.restore(state.values["statistics"])
        if self.ticks:
            self.learner.normalise(self._statistics.normalisation())

    def _as_mine(self, episode: Episode) -> Episode:
        """The episode as one whose goal was to bring the hand to the thing, wherever that is."""
        values = episode.observation
        hand, thing = (np.ascontiguousarray(place.of(values)) for place in (self.hand, self.thing))
        reward = np.zeros_like(episode.reward)
        reward[:-1] = self.reward(hand[1:], thing[:-1])
        return replace(episode, auxiliary={HAND: hand}, desired_goal=thing, reward=reward)
