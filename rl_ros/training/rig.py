"""Learning from images by imagined goals: Algorithm 1 of Nair et al. 2018 (1807.04742), in the loop of `online`.

A run begins by wandering about. An image encoder is trained on what was seen, and then a policy on its latents, with
goals that the encoder imagines. Every so many episodes the encoder learns on, from old and new images, and whatever is
remembered is encoded anew: a memory never holds latents of two encoders.

An image is encoded once, when it is seen, and by ONNX as on the robot; updates learn from latents alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from rl_ros.algorithms.base import Algorithm
from rl_ros.algorithms.rig import POOL, Prior, drawn_from, imagined, practise, skewed
from rl_ros.contract import Contract
from rl_ros.episodes.decisions import FALL
from rl_ros.episodes.distance import LATENT_REWARD
from rl_ros.episodes.memory import Columns, Episode, ends_of_episodes
from rl_ros.episodes.statistics import RunningStatistics
from rl_ros.errors import UserError
from rl_ros.networks.image_encoder import ImageEncoder, save_encoder
from rl_ros.networks.layers import DESIRED_GOAL
from rl_ros.tasks.env import make
from rl_ros.tasks.grasp import VIEW
from rl_ros.tasks.task import Task, Values, make_task
from rl_ros.tasks.visual import LATENT, Senses, VisualTask, Wanderer, environment_name
from rl_ros.training.checkpoint import Checkpoint
from rl_ros.training.online import EVALUATION_SEED, Experience, OnlineSettings, OnlineTraining
from rl_ros.training.representation import RepresentationConfig, RepresentationTraining, train_encoder
from rl_ros.training.rollouts import Rollouts

ENCODER = "encoder"
"""In a bundle, and in a run: the directory of the encoder."""
VAE = "vae."
"""Before the names of the encoder's tensors in a checkpoint."""
WANDERING_SEED = 1_500_000_000
"""Seeds of wandering begin here, and with each seed of a run 10,000 higher."""
SMALLEST = 100
"""Images that an encoder can be calibrated with."""
HELD_OUT = 10
"""Of the episodes each so-manieth is kept from the encoder's training, to calibrate it with."""


class PractisingSenses(ABC):
    """What makes latents, with goals to practise."""

    prior: Prior | None = None
    """Where goals come from; None: from pictures."""

    @abstractmethod
    def see(self, values: Values, first: Values) -> np.ndarray:
        """See `Senses`."""

    def goal(self, seed: int) -> np.ndarray | None:
        """See `Senses`."""
        return None if self.prior is None else self.prior(np.random.default_rng([seed, 0x1A6]), 1)[0]


class CameraSenses(PractisingSenses):
    """Latents by an image encoder."""

    def __init__(self, encoder: ImageEncoder, image: str = "image") -> None:
        self.encoder, self.image = encoder, image

    def see(self, values: Values, first: Values) -> np.ndarray:
        """See `Senses`."""
        return self.encoder.encode(values[self.image], first[self.image])


class TrueSenses(PractisingSenses):
    """True positions in the place of latents: the oracle that a policy on images is measured against.

    Args:
        keys: the positions that move, (3,) m each; x and y count.
    """

    CENTRE, SCALE = np.array([0.53, 0.0]), 0.1
    """m: latents are about of unit size."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = tuple(keys)

    def see(self, values: Values, first: Values) -> np.ndarray:
        """See `Senses`."""
        return np.concatenate([(values[key][:2] - self.CENTRE) / self.SCALE for key in self.keys]).astype(np.float32)


def wander(
    contract: Contract, episodes: int, seed: int, progress: Callable[[int], None] = lambda done: None
) -> list[Episode]:
    """Episodes of wandering about, with the camera's images among their observations.

    Args:
        contract: of a task whose goals are images.
        seed: of the run.
        progress: called with the number of episodes so far.
    """
    found: list[Episode] = []
    first = WANDERING_SEED + 10_000 * seed
    camera = contract.camera.shape[:2]
    with Rollouts(partial(make, environment_name(contract.task), camera=camera), count=1) as rollouts:
        while len(found) < episodes:
            seeds = range(first + len(found), first + min(len(found) + 20, episodes))
            found += rollouts.demonstrate(partial(Wanderer, 1.0), seeds)
            progress(len(found))
    return found


def as_latents(episode: Episode, contract: Contract, senses: Senses, keep_images: bool = True) -> Episode:
    """An episode of images as one of latents, under the task's contract.

    The goal becomes the latent at its end, as nobody was asked for any; rewards are judged by it. A grasp has been
    judged already, and its goal is what it has held up before its end.
    """
    judge = make_task(contract.task)
    values = episode.observation | episode.auxiliary
    ticks = [{key: array[tick] for key, array in values.items()} for tick in range(len(episode.stamps))]
    latents = np.stack([senses.see(tick, ticks[0]) for tick in ticks])
    goal = np.repeat(latents[[max(len(latents) - 1 - _shown(judge), 0)]], len(latents), axis=0)
    known = values | {contract.goal.achieved_goal: latents}
    episode = replace(
        episode,
        observation={key: known[key] for key in contract.observation},
        auxiliary={key: known[key] for key in contract.auxiliary if keep_images or key != contract.goal.image},
        desired_goal=goal,
    )
    if not isinstance(judge, VisualTask):
        return episode
    reward = np.zeros(len(latents), np.float32)
    reward[:-1] = LATENT_REWARD(latents[1:], goal[:-1])
    return replace(episode, reward=reward, terminated=np.zeros_like(episode.terminated))


def columns_of_latents(columns: Columns, contract: Contract, encoder: ImageEncoder) -> Columns:
    """Recorded episodes of images as ones of latents, under the task's contract; see `as_latents`.

    Args:
        columns: read by `contract.without_latent()`.
    """
    judge = make_task(contract.task)
    images, (first, last) = columns.observation[contract.goal.image], ends_of_episodes(columns.lengths)
    latents = np.stack([encoder.encode(image, images[start]) for image, start in zip(images, first, strict=True)])
    goal = latents[np.maximum(last - _shown(judge), first)]
    known = {**columns.observation, **columns.auxiliary, contract.goal.achieved_goal: latents}
    columns = replace(
        columns,
        observation={key: known[key] for key in contract.observation},
        auxiliary={key: known[key] for key in contract.auxiliary if key != contract.goal.image},
        desired_goal=goal,
    )
    if not isinstance(judge, VisualTask):
        return columns
    reward = np.zeros(len(latents), np.float32)
    reward[:-1] = LATENT_REWARD(latents[1:], goal[:-1])
    reward = np.where(columns.has_transition, reward, np.float32(0))
    return replace(columns, reward=reward, terminated=np.zeros_like(columns.terminated))


def _shown(task: Task) -> int:
    """How many ticks before an episode's last one there is to see what it has come to."""
    return 0 if isinstance(task, VisualTask) else FALL


def encoder_of_recordings(
    columns: Columns,
    contract: Contract,
    out: Path,
    *,
    updates: int,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[ImageEncoder, dict[str, float]]:
    """Train an encoder on the images of recorded episodes; see `train_encoder`. Each tenth episode is held out.

    Of a grasp that succeeded the image of what it has held up counts, and of that the part where it is seen.

    Raises:
        UserError: there are too few images to learn from and to calibrate with.
    """
    images, config = columns.observation[contract.goal.image], RepresentationConfig()
    episode = np.repeat(np.arange(len(columns.lengths)), columns.lengths)
    if not isinstance(make_task(contract.task), VisualTask):
        ends = np.cumsum(columns.lengths) - 1
        shown = ends[columns.reward[ends - 1] > 0.5] - FALL
        images, episode, config = images[shown], episode[shown], RepresentationConfig(view=VIEW, exposure=0.0)
    held_out = episode % HELD_OUT == 0
    if min(held_out.sum(), (~held_out).sum()) < SMALLEST:
        raise UserError(
            f"{len(columns.lengths)} episodes with {len(images)} images are too few for an image encoder: it needs "
            f"{SMALLEST} to learn from at least, and as many in each tenth episode to calibrate with."
        )
    _, encoder, figures = train_encoder(
        np.ascontiguousarray(images[~held_out]),
        np.ascontiguousarray(images[held_out]),
        contract.latent.shape[0],
        out,
        updates=updates,
        config=config,
        seed=seed,
        progress=progress,
    )
    return encoder, figures


def final_distances(episodes: Sequence[Episode], task: str) -> np.ndarray:
    """m from where each episode ended to where its picture showed it, float64 (n,)."""
    judge = make_task(task)
    assert isinstance(judge, VisualTask)
    ends = [{key: episode.value(key)[-1] for key in judge.measured} for episode in episodes]
    return np.array([judge.apart(end, episode.seed) for end, episode in zip(ends, episodes, strict=True)])


class LatentTraining(OnlineTraining):
    """The loop where observations and goals are latents, whatever makes them. Here nothing changes what does.

    Args:
        senses: of the environments.
        prior: of goals to practise, for episodes and batches.
        others: see `OnlineTraining`.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        experience: Experience,
        settings: OnlineSettings,
        seed: int,
        out: Path,
        senses: PractisingSenses,
        prior: Prior,
        *,
        resume: bool = False,
    ) -> None:
        self.algorithm, self.senses, self.prior = algorithm, senses, prior
        self.practise(prior)
        super().__init__(algorithm, experience, settings, seed, out, resume=resume)

    def practise(self, prior: Prior) -> None:
        """Draw goals of episodes and of batches from this prior from now on."""
        self.prior = self.senses.prior = prior
        practise(self.algorithm, prior)

    def remember(self, episodes: Sequence[Episode]) -> None:
        """Take in episodes of images that were collected before; their ticks count as experience."""
        for episode in episodes:
            latents = as_latents(episode, self.algorithm.contract, self.senses)
            self.memory.append(latents)
            self._take_statistics(latents)
            self.env_steps += int(episode.has_transition.sum())
        self.episodes += len(episodes)
        self._next_evaluation += self.env_steps
        self.algorithm.normalise(self._statistics.normalisation())

    def evaluate(self, episodes: int) -> float:
        """See `OnlineTraining.evaluate`; the goals are pictures, and the final distances in metres are noted."""
        seeds = range(EVALUATION_SEED, EVALUATION_SEED + episodes)
        self.senses.prior = None
        found = self.experience.collect(self.algorithm.act, seeds)
        self.senses.prior = self.prior
        apart = final_distances(found, self.algorithm.contract.task)
        self.evaluation = {"median_distance": float(np.median(apart)), "mean_distance": float(np.mean(apart))}
        return float(np.mean([episode.success for episode in found]))


@dataclass(frozen=True)
class RigSettings:
    """What learning with imagined goals has beside the settings of the loop."""

    refresh_every: int = 400
    """Episodes from one time that the encoder learns on to the next; 0 leaves it as it was at first."""
    refresh_updates: int = 400
    refresh_rate: float = 0.25
    """Share of the encoder's learning rate with which it learns on."""
    new_share: float = 0.5
    """Of the images that it then learns from which are of episodes since the last time."""
    goals: Literal["prior", "seen"] = "prior"
    """What is practised: goals that the encoder imagines, as in Algorithm 1, or where episodes have led to so far."""
    skew: float = 0.0
    """α of Skew-Fit: goals, and images to learn on from, are drawn from what was seen with weights p(x)^α; with 0 goals
    are as `goals` says."""
    seen_through: bool = True
    """Whether goals of the prior are decoded and encoded again before they are goals."""


class RigTraining(LatentTraining):
    """Algorithm 1: the encoder learns on while the policy learns on its latents.

    Args:
        representation: the encoder's training, to go on with.
        encoder: what it has come to so far.
        rig: more settings.
        others: see `OnlineTraining`. `out/encoder` is the encoder of this moment.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        experience: Experience,
        settings: OnlineSettings,
        seed: int,
        out: Path,
        senses: CameraSenses,
        representation: RepresentationTraining,
        rig: RigSettings | None = None,
        *,
        resume: bool = False,
    ) -> None:
        self.representation, self.rig, self.camera = representation, rig or RigSettings(), senses
        self._refreshed_at = 0
        self._pool = imagined(senses.encoder, seed, self.rig.seen_through)
        super().__init__(algorithm, experience, settings, seed, out, senses, drawn_from(self._pool), resume=resume)

    def remember(self, episodes: Sequence[Episode]) -> None:
        """See `LatentTraining.remember`; the encoder has learned from these."""
        super().remember(episodes)
        self._refreshed_at = self.episodes
        if self.rig.goals == "seen":
            self._imagine_anew()

    def prepare(self) -> None:
        """Let the encoder learn on if it is time to, and encode anew what is remembered."""
        if not self.rig.refresh_every or self.episodes - self._refreshed_at < self.rig.refresh_every:
            return
        rows, learned = self._rows()
        images, first = self.memory.auxiliary[self.camera.image], self.memory.first_row
        weights = self._weights(learned)
        contexts = np.searchsorted(learned, first[learned]) if self.camera.encoder.conditional else None
        self.representation.fit(
            images[learned], self.rig.refresh_updates, contexts=contexts, weights=weights, rate=self.rig.refresh_rate
        )
        held_out = self._rng.permutation(np.setdiff1d(rows, learned))
        made = self.representation.freeze(self.out / ENCODER, images[held_out], images[first[held_out]])
        old, self.camera.encoder = self.camera.encoder, made
        self.encode_anew(old)
        self._refreshed_at = self.episodes
        self._imagine_anew()

    def encode_anew(self, old: ImageEncoder) -> None:
        """Make every latent that is remembered one of the encoder that there is now: observations, goals, rewards.

        A goal is the image that the old encoder made of it, encoded by the new one.
        """
        memory, encoder = self.memory, self.camera.encoder
        rows, _ = self._rows()
        images, first = memory.auxiliary[self.camera.image], memory.first_row
        latents = np.stack([encoder.encode(images[row], images[first[row]]) for row in rows])
        memory.replace(LATENT, rows, latents)
        starts, place = np.unique(first[rows], return_inverse=True)
        goals = [encoder.encode(old.decode(memory.desired_goal[row], images[row]), images[row]) for row in starts]
        memory.desired_goal[rows] = np.stack(goals)[place]
        begins = memory.transitions
        memory.reward[begins] = LATENT_REWARD(memory.achieved_goal[begins + 1], memory.desired_goal[begins])
        self._statistics = RunningStatistics()
        for name in self.algorithm.trained_policy.encoder.vectors:
            if name in memory.observation:
                self._statistics.add(name, memory.observation[name][rows])
        for goal in (memory.desired_goal[rows], latents):
            self._statistics.add(DESIRED_GOAL, goal)

    def image_encoder(self) -> ImageEncoder:
        """See `OnlineTraining.image_encoder`."""
        return self.camera.encoder

    def more_values(self) -> dict[str, Any]:
        """See `OnlineTraining.more_values`."""
        return {"rig": asdict(self.rig), "refreshed_at": self._refreshed_at, "vae_rng": self.representation.rng_state}

    def more_tensors(self) -> dict[str, torch.Tensor]:
        """See `OnlineTraining.more_tensors`."""
        tensors = {f"{VAE}{name}": tensor for name, tensor in self.representation.state_dict().items()}
        return tensors | {"goals": torch.from_numpy(self._pool)}

    def restore_more(self, checkpoint: Checkpoint) -> None:
        """See `OnlineTraining.restore_more`."""
        if checkpoint.values["rig"] != asdict(self.rig):
            raise UserError(f"{self.out}: this run has settings {checkpoint.values['rig']}; begin another one.")
        tensors = {n.removeprefix(VAE): t for n, t in checkpoint.tensors.items() if n.startswith(VAE)}
        self.representation.load_state_dict(tensors, checkpoint.values["vae_rng"])
        self._refreshed_at = checkpoint.values["refreshed_at"]
        self._pool = np.asarray(checkpoint.tensors["goals"])
        calibration = self.camera.encoder.calibration
        model, config = self.representation.model, asdict(self.representation.config)
        self.camera.encoder = save_encoder(self.out / ENCODER, model, calibration, config)
        self.practise(drawn_from(self._pool))

    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the memory that hold something, and those of them that the encoder learns from."""
        rows = np.flatnonzero(self.memory.episode >= 0)
        return rows, rows[self.memory.episode[rows] % HELD_OUT != 0]

    def _skewed(self, rows: np.ndarray) -> np.ndarray:
        """How often the image of each row is to be drawn: what is rare, more often."""
        images, first = self.memory.auxiliary[self.camera.image], self.memory.first_row
        context = images[first[rows]] if self.camera.encoder.conditional else None
        return skewed(self.representation.log_likelihood(images[rows], context), self.rig.skew)

    def _weights(self, learned: np.ndarray) -> np.ndarray:
        """How often each image is to be learned from."""
        if self.rig.skew:
            return self._skewed(learned)
        new = self.memory.episode[learned] >= self._refreshed_at
        share = self.rig.new_share if 0 < new.sum() < len(new) else 0.5
        return np.where(new, share / max(new.sum(), 1), (1.0 - share) / max((~new).sum(), 1))

    def _imagine_anew(self) -> None:
        """Draw the goals to practise until the encoder learns on again."""
        if self.rig.skew:
            rows, _ = self._rows()
            chosen = self._rng.choice(rows, min(len(rows), 10 * POOL), replace=False)
            self._pool = self.memory.achieved_goal[self._rng.choice(chosen, POOL, p=self._skewed(chosen))]
        elif self.rig.goals == "seen":
            rows, _ = self._rows()
            self._pool = self.memory.achieved_goal[np.unique(self.memory.last_row[rows])]
        else:
            self._pool = imagined(self.camera.encoder, self.episodes, self.rig.seen_through)
        self.practise(drawn_from(self._pool))
