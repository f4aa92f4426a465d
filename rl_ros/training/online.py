"""Learning online: act, remember, learn, look how good it has become; in one loop for every algorithm.

A run follows from its seed alone, whatever it is interrupted by: all random numbers come from generators that a
checkpoint holds, and every episode from its own seed.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from rl_ros.algorithms.base import Algorithm, plain_config
from rl_ros.episodes.distance import DistanceReward
from rl_ros.episodes.memory import Batch, Episode, ReplayMemory, join
from rl_ros.episodes.statistics import RunningStatistics
from rl_ros.errors import UserError
from rl_ros.interruptions import interruptions
from rl_ros.networks.image_encoder import ImageEncoder
from rl_ros.networks.layers import DESIRED_GOAL
from rl_ros.training.bundle import save_learner
from rl_ros.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from rl_ros.training.guide import Guide
from rl_ros.training.logs import RunLog

PROGRESS, CHECKPOINTS, GUIDE = "progress.csv", "checkpoints", "guide"
EVALUATION_SEED = 1_000_000_000
"""Seeds of evaluation begin here; those of experience stay below."""
SEEDS_A_RUN = 10_000_000
"""Episodes that each seed of a run has seeds for."""
STILL = 0.005
"""What moves by less, in the unit of the goal, counts as not moved: objects settle by that much."""

Act = Callable[[Mapping[str, np.ndarray], np.ndarray], np.ndarray]
"""Actions float32 (n, A) in the contract's units, for n observations by key and n goals (n, G)."""


class Experience(Protocol):
    """Where episodes come from, such as `rl_ros.training.rollouts.Rollouts`."""

    def collect(self, act: Act, seeds: Sequence[int]) -> list[Episode]:
        """One episode for each seed, in their order; nothing but the seed and the actions decides what is in it."""


@dataclass(frozen=True)
class OnlineSettings:
    """How experience becomes updates."""

    steps: int
    """Ticks of experience to stop after, those of all environments together."""
    episodes_at_once: int = 8
    """Episodes collected between two rounds of updates."""
    updates_per_step: float = 0.5
    """Updates for each tick of experience."""
    random_steps: int = 2000
    """Ticks at the beginning with uniformly random actions and no updates."""
    capacity: int = 1_000_000
    """Ticks that the replay memory holds."""
    kept_still: float = 0.1
    """Share of the episodes kept in memory among those that leave what is to be brought to the goal where it was. They
    are most at first, and in hindsight say only that where it is, it is (energy-based prioritisation, Zhao and Tresp
    2018, 1810.01363, in its simplest form). Their ticks count as experience all the same."""
    demonstration_share: float = 0.125
    """Share of each batch that demonstrations have, where there are some."""
    evaluate_every: int = 10_000
    """Ticks between evaluations."""
    evaluation_episodes: int = 100


class OnlineTraining:
    """One run, which can end after any round and go on from there.

    Args:
        algorithm: with its `hindsight` set, if goals are to be relabelled.
        experience: to learn from, and to evaluate with.
        seed: of episodes, batches and goals; weights have the algorithm's own.
        out: holds `progress.csv` and `checkpoints/`.
        demonstrations: episodes of somebody who knows how; they stay in memory and have a share of each batch.
        reward: what achieved goals are worth, if not what the environment says.
        guide: leads the hand to what is to be moved, while exploring.
        resume: go on from the newest checkpoint in `out`, instead of beginning anew.

    Raises:
        UserError: there is no checkpoint to resume from, or it is of other settings.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        experience: Experience,
        settings: OnlineSettings,
        seed: int,
        out: Path,
        *,
        demonstrations: Sequence[Episode] = (),
        reward: DistanceReward | None = None,
        guide: Guide | None = None,
        resume: bool = False,
    ) -> None:
        self.algorithm, self.experience, self.settings, self.out = algorithm, experience, settings, out
        self.reward, self.guide = reward, guide
        demonstrations = [self._judged(episode) for episode in demonstrations]
        achieved_goal = algorithm.contract.goal.achieved_goal or None
        camera = algorithm.contract.goal.image
        self.memory = ReplayMemory(
            [], capacity=settings.capacity, achieved_goal=achieved_goal, kept=[camera] if camera else []
        )
        self.demonstrations = ReplayMemory(demonstrations, achieved_goal=achieved_goal) if demonstrations else None
        self.env_steps, self.episodes, self.seconds = 0, 0, 0.0
        self.success = math.nan
        """Of the last evaluation."""
        self.evaluation: dict[str, float] = {}
        """More figures of it, for the log."""
        self._seed, self._rng = seed, np.random.default_rng(seed)
        self._statistics = RunningStatistics()
        self._owed, self._next_evaluation = 0.0, settings.evaluate_every
        out.mkdir(parents=True, exist_ok=True)
        if resume:
            self._restore(load_checkpoint(out / CHECKPOINTS))
        else:
            for episode in demonstrations:
                self._take_statistics(episode)
        self._log = RunLog(out / PROGRESS, append=resume)

    def run(self, checkpoint_every: float | None = 600.0) -> bool:
        """Learn until `settings.steps`; True when they are done, False after SIGINT or SIGTERM.

        Args:
            checkpoint_every: seconds between checkpoints, which are also made on either signal; None makes none.
        """
        saved = time.monotonic()
        with interruptions() as interrupted:
            while self.env_steps < self.settings.steps and not interrupted():
                self.round()
                if checkpoint_every is not None and (interrupted() or time.monotonic() - saved >= checkpoint_every):
                    self.save()
                    saved = time.monotonic()
        return self.env_steps >= self.settings.steps

    def round(self) -> None:
        """Collect some episodes, learn from what is remembered, and evaluate if it is time to."""
        began = time.monotonic()
        settings = self.settings
        learning = self.env_steps >= settings.random_steps
        first = self._seed * SEEDS_A_RUN + self.episodes
        seeds = range(first, first + settings.episodes_at_once)
        act = self._explore if learning else self._random
        collected = self.experience.collect(self._led(act) if self.guide else act, seeds)
        episodes = [self._judged(episode) for episode in collected]
        ticks = sum(int(episode.has_transition.sum()) for episode in episodes)
        for episode in episodes:
            if not len(self.memory) or not self._is_still(episode) or self._rng.random() < settings.kept_still:
                self.memory.append(episode)
            self._take_statistics(episode)
        if self.guide:
            self.guide.learn(episodes, self._rng)
        self.env_steps += ticks
        self.episodes += len(episodes)
        self.prepare()
        self.algorithm.normalise(self._statistics.normalisation())
        metrics: dict[str, float] = {}
        if learning:
            self._owed += settings.updates_per_step * ticks
            metrics = self._learn(int(self._owed))
            self._owed -= int(self._owed)
        if self.env_steps >= min(self._next_evaluation, settings.steps):
            self._next_evaluation += settings.evaluate_every
            self.success = self.evaluate(settings.evaluation_episodes)
            metrics["exploring_success"] = float(np.mean([episode.success for episode in episodes]))
            self.seconds += time.monotonic() - began
            counts = {"env_steps": self.env_steps, "updates": self.algorithm.updates, "seconds": self.seconds}
            self._log.write({**counts, "success": self.success, **self.evaluation, **metrics})
        else:
            self.seconds += time.monotonic() - began

    def prepare(self) -> None:
        """What there is to do between collecting and learning; here nothing."""

    def evaluate(self, episodes: int) -> float:
        """Share of episodes, of seeds of their own, that the policy without exploration ends in success."""
        seeds = range(EVALUATION_SEED, EVALUATION_SEED + episodes)
        return float(np.mean([episode.success for episode in self.experience.collect(self.algorithm.act, seeds)]))

    def save(self) -> Path:
        """Write a checkpoint in `out/checkpoints`; returns its path."""
        counters = {name: getattr(self, name) for name in self._COUNTERS}
        values = {
            "settings": self._identity(),
            "counters": counters,
            "statistics": self._statistics.state(),
            "rng": self._rng.bit_generator.state,
            "progress": (self.out / PROGRESS).read_text() if (self.out / PROGRESS).exists() else "",
        }
        values |= self.more_values()
        tensors = self.algorithm.state_dict() | self.more_tensors()
        mine = Checkpoint(tensors, self.memory.state(), values)
        whole = mine.beside(GUIDE, self.guide.state()) if self.guide else mine
        return save_checkpoint(self.out / CHECKPOINTS, self.env_steps, whole)

    def more_values(self) -> dict[str, Any]:
        """Plain data of a subclass, for a checkpoint."""
        return {}

    def more_tensors(self) -> dict[str, torch.Tensor]:
        """Tensors of a subclass, for a checkpoint, by names of their own."""
        return {}

    def restore_more(self, checkpoint: Checkpoint) -> None:
        """Take up what `more_values` and `more_tensors` gave."""

    def export(self, directory: Path, source_episodes: Sequence[str] = ()) -> Path:
        """Write the policy as a bundle; returns its path.

        Its weights are those of the policy alone: a run goes on from its checkpoints, and a bundle stays small.
        """
        algorithm = self.algorithm
        return save_learner(
            directory,
            algorithm,
            {
                "episodes": self.episodes,
                "transitions": self.env_steps,
                "updates": algorithm.updates,
                "seconds": round(self.seconds, 2),
                "success": self.success,
                **self.evaluation,
            },
            source_episodes,
            self.image_encoder(),
            policy_alone=True,
        )

    def image_encoder(self) -> ImageEncoder | None:
        """What makes the latents that the policy sees, if it sees any."""
        return None

    _COUNTERS = ("env_steps", "episodes", "seconds", "success", "_owed", "_next_evaluation")

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on; how long it lasts need not be."""
        settings = {name: value for name, value in asdict(self.settings).items() if name != "steps"}
        algorithm = self.algorithm
        return {
            "task": algorithm.contract.name,
            "algorithm": algorithm.name,
            "seed": self._seed,
            "reward": self.reward.kind if self.reward else "environment",
            "demonstrations": len(self.demonstrations) if self.demonstrations else 0,
            "guided": self.guide is not None,
            **settings,
            **plain_config(algorithm.config),
        }

    def _restore(self, checkpoint: Checkpoint) -> None:
        values, mine = checkpoint.values, self._identity()
        for name, value in values["settings"].items():
            if mine.get(name) != value:
                raise UserError(f"{self.out}: this run has {name} {value}, not {mine.get(name)}; begin another one.")
        self.algorithm.load_state_dict(checkpoint.tensors)
        self.memory.restore(checkpoint.arrays)
        for name in self._COUNTERS:
            setattr(self, name, values["counters"][name])
        self._statistics.restore(values["statistics"])
        if self.guide:
            self.guide.restore(checkpoint.part(GUIDE))
        self.algorithm.normalise(self._statistics.normalisation())
        self._rng.bit_generator.state = values["rng"]
        (self.out / PROGRESS).write_text(values["progress"])
        self.restore_more(checkpoint)

    def _is_still(self, episode: Episode) -> bool:
        if self.memory.achieved_goal_key is None:
            return False
        achieved = episode.value(self.memory.achieved_goal_key)
        return bool(np.abs(achieved - achieved[0]).max() < STILL)

    def _judged(self, episode: Episode) -> Episode:
        if self.reward is None:
            return episode
        achieved = episode.value(self.algorithm.contract.goal.achieved_goal)
        reward = np.zeros_like(episode.reward)
        reward[:-1] = self.reward(achieved[1:], episode.desired_goal[:-1])
        return replace(episode, reward=reward)

    def _take_statistics(self, episode: Episode) -> None:
        for name in self.algorithm.trained_policy.encoder.vectors:
            if name == DESIRED_GOAL:
                self._statistics.add(name, episode.desired_goal)
                if self.memory.achieved_goal_key is not None:  # goals of hindsight are among them
                    achieved = episode.value(self.memory.achieved_goal_key)
                    self._statistics.add(name, achieved)
            else:
                self._statistics.add(name, episode.observation[name])

    def _learn(self, updates: int) -> dict[str, float]:
        latest: dict[str, torch.Tensor] = {}
        for batch in self._batches(updates):
            self.algorithm.warm_up(self.algorithm.updates)
            latest |= self.algorithm.update(batch)
        return {name: float(value) for name, value in latest.items()}

    def _batches(self, updates: int) -> Iterator[Batch]:
        """So many batches; all their rows are drawn at once."""
        size, rng = self.algorithm.config.batch_size, self._rng
        if self.demonstrations is None:
            yield from self.algorithm.batches(self.memory, self.memory.sample(rng, (updates, size)), rng)
            return
        shown = round(self.settings.demonstration_share * size)
        own = self.algorithm.batches(self.memory, self.memory.sample(rng, (updates, size - shown)), rng)
        others = self.algorithm.batches(self.demonstrations, self.demonstrations.sample(rng, (updates, shown)), rng)
        for pair in zip(own, others, strict=True):
            batch = join(pair)
            batch.demonstration = np.repeat([False, True], [len(part.reward) for part in pair])
            yield batch

    def _random(self, observation: Mapping[str, np.ndarray], desired_goal: np.ndarray) -> np.ndarray:
        layout = self.algorithm.trained_policy.layout
        action = self._rng.uniform(-1.0, 1.0, (len(desired_goal), len(layout.low))).astype(np.float32)
        return layout.unscale(torch.from_numpy(action).to(layout.low.device)).cpu().numpy()

    def _led(self, act: Act) -> Act:
        def led(observation: Mapping[str, np.ndarray], desired_goal: np.ndarray) -> np.ndarray:
            assert self.guide is not None
            return self.guide.lead(observation, act(observation, desired_goal), self._rng)

        return led

    def _explore(self, observation: Mapping[str, np.ndarray], desired_goal: np.ndarray) -> np.ndarray:
        return self.algorithm.act(observation, desired_goal, exploring=True)
