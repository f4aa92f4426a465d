"""Learning from bags as they land: what the trainer node computes, without ROS.

A directory is watched. Each bag in it is decoded once and its episodes are put into a replay memory; each episode
that no policy has learned from yet earns a number of updates; every few episodes a policy bundle is written. All of
it is cut into small steps, so that whoever runs them decides how much of a processor they may have.
"""

import contextlib
import math
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl_ros.algorithms.base import Algorithm, dataset_statistics, make_algorithm
from rl_ros.algorithms.rig import drawn_from, imagined, practise
from rl_ros.contract import Contract
from rl_ros.episodes.allocation import keep_freed_memory
from rl_ros.episodes.bags import find_bags, storage_files
from rl_ros.episodes.cache import DIRECTORY, load_columns
from rl_ros.episodes.hindsight import Hindsight, relabelled_share
from rl_ros.episodes.ingest import read_episodes
from rl_ros.episodes.memory import Columns, Episode, ReplayMemory
from rl_ros.episodes.record import UNFINISHED
from rl_ros.errors import UserError
from rl_ros.networks.image_encoder import ImageEncoder, load_encoder
from rl_ros.networks.layers import DESIRED_GOAL, Normalisation
from rl_ros.tasks.goals import GoalTask
from rl_ros.tasks.task import make_task
from rl_ros.training.bundle import Bundle, load_bundle, save_learner
from rl_ros.training.logs import RunLog
from rl_ros.training.offline import LOG_EVERY
from rl_ros.training.rig import CameraSenses, as_latents, columns_of_latents
from rl_ros.training.runs import configured

LOOK_SECONDS = 0.5
"""How often the directory is looked at."""
LOOKS_AT_FIRST = 2
"""Looks after which the bags that were there at the beginning are known not to change any more."""
NUMBERED = "bundle_"
NEWEST = "bundle"
"""Name, in the run's directory, that always stands for the newest bundle."""


@dataclass(frozen=True)
class Settings:
    """How to learn from a directory of bags."""

    algorithm: str
    bags: Path
    run: Path
    """Receives `bundle_000001`, `bundle_000002`, ..., the link `bundle` to the newest, and `metrics.csv`."""
    continue_from: Path | None = None
    """A bundle whose weights and optimiser to begin with."""
    updates_per_episode: int = 100
    export_every: int = 10
    """Episodes' worth of updates between two bundles."""
    start_after: int = 5
    """Episodes to wait for before the first update; what the inputs are normalised with comes from them."""
    capacity: int = 200_000
    """Ticks that are remembered; the oldest episodes make room."""
    keep: int = 10
    """Bundles that stay on disk."""
    old_share: float = 0.5
    """Of each batch that comes from the bags of the bundle that is continued, once there are new ones; half and half as
    in Ball et al. 2023, "Efficient Online Reinforcement Learning with Offline Data" (2302.02948)."""
    hindsight: float = 4.0
    """Goals of hindsight for each goal that was given, where the algorithm neither chooses them itself nor needs the
    returns of whole episodes."""
    encoder: Path | None = None
    """An image encoder, where goals are images: it makes latents of the bags' images, whatever they were encoded by."""
    seed: int = 0
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the algorithm other than its defaults, or than those of the bundle that is continued."""
    device: str = "cpu"
    """Where to learn, as torch names it: `cpu`, `cuda`, `cuda:1`."""


@dataclass(frozen=True)
class Learned:
    """The episodes of a bag are in the memory."""

    bag: Path
    episodes: int


@dataclass(frozen=True)
class Refused:
    """Something could not be used; learning goes on without it."""

    sentence: str


@dataclass(frozen=True)
class Exported:
    """There is a new bundle."""

    bundle: Path


Event = Learned | Refused | Exported


class NewBags:
    """The bags of a directory, each given out once, when it has stopped changing.

    A bag is an entry of the directory, or lies in one that is no bag itself. What was given out is not looked at again,
    so that a look costs no more with a thousand bags than with ten.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._given: set[Path] = set()
        self._growing: dict[Path, object] = {}
        """Sizes and times of change of the bags that were first seen at the last look."""

    def complete(self) -> list[Path]:
        """Bags that are as they were at the last look, in the order of their names."""
        new = {path: _signature(path) for path in self._candidates() if path not in self._given}
        complete = [path for path, signature in new.items() if self._growing.get(path) == signature]
        self._growing = {path: signature for path, signature in new.items() if path not in complete}
        self._given |= set(complete)
        return complete

    def _candidates(self) -> list[Path]:
        if not self.directory.is_dir():
            return []
        found: list[Path] = []
        for path in sorted(self.directory.iterdir()):
            if path in self._given or path.name.startswith("."):
                continue
            if path.is_dir() and not path.name.endswith(UNFINISHED):
                with contextlib.suppress(UserError, OSError):  # it holds no bag yet, or is gone
                    found += find_bags(path)
            elif path.suffix == ".mcap":
                found.append(path)
        return found


def _signature(path: Path) -> object:
    try:
        files = [(file.name, file.stat()) for file in storage_files(path)]
    except (UserError, OSError) as error:  # reading it will say so, too
        return str(error)
    return [(name, about.st_size, about.st_mtime_ns) for name, about in files]


class BagTrainer:
    """Learns from the bags of a directory, step by step.

    Args:
        settings: what to learn, from where, and where to.
        contract: what the bags mean; it goes into the bundles.

    Raises:
        UserError: an unknown algorithm or setting, or a bundle to continue from that does not fit.
    """

    def __init__(self, settings: Settings, contract: Contract) -> None:
        keep_freed_memory()
        self.settings, self.contract = settings, contract
        self.episodes = 0
        """Episodes taken in."""
        self.owed = 0
        """Updates that the episodes taken in have earned and that are still to be made."""
        self.updates = 0
        """Updates made here, beside those of the bundle that was continued."""
        self.metrics: dict[str, float] = {}
        self.sources: list[str] = []
        self._new = NewBags(settings.bags)
        self._queue: list[Path] = []
        self._looked, self._looks = -math.inf, 0
        self._began = time.monotonic()
        self._rng = np.random.default_rng(settings.seed)
        self._encoder: ImageEncoder | None = None
        self._read_by = contract
        if contract.goal.image:
            if settings.encoder is None:
                raise UserError(f"the goals of {contract.name} are images: learning from its bags needs an encoder.")
            self._encoder, self._read_by = load_encoder(settings.encoder), contract.without_latent()
        self._memory = self._make_memory([])
        self._imagined = imagined(self._encoder) if self._encoder else None
        self._hindsight = None if self._encoder else hindsight_of(contract, settings.hindsight)
        self._learner: Algorithm | None = None
        self._known: set[Path] = set()
        """Bags that the bundle continued from has learned from."""
        self._old_episodes = 0
        """How many of the memory's first episodes are from them."""
        self._pools: list[np.ndarray] = []
        """Transitions of old and of new bags."""
        self._exported_at = 0
        self._latest: Mapping[str, torch.Tensor] = {}
        if settings.continue_from is not None:
            self._learner = self._continued(load_bundle(settings.continue_from))
        else:
            # What is wrong with the settings is said at once.
            self._sees_achieved = self._make_learner(_unit_statistics(contract)).sees_achieved
        self._rows = RunLog(settings.run / "metrics.csv", append=True)

    @property
    def memory(self) -> ReplayMemory:
        """What is remembered."""
        return self._memory

    @property
    def behind(self) -> bool:
        """Whether it owes more updates than are made from one bundle to the next."""
        return self._ready and self.owed > self.settings.export_every * self.settings.updates_per_episode

    @property
    def _ready(self) -> bool:
        return self.episodes >= self.settings.start_after and len(self._memory) > 0

    def step(self) -> list[Event] | None:
        """Do the next small piece of work: take in bags, make one update, or write a bundle.

        Returns:
            What is to be told of it; None if there was nothing to do.
        """
        if (events := self._look()) is not None:
            return events
        if self._queue:
            return self._take_in(self._queue.pop(0))
        if self.updates - self._exported_at >= self.settings.export_every * self.settings.updates_per_episode:
            return self.export()
        if self.owed and self._ready:
            self._update()
            return []
        return None

    def sample(self, size: int) -> np.ndarray:
        """Rows of transitions for one batch, int64 (size,): from old and new bags in their shares."""
        old, new = self._pools
        if not (len(old) and len(new)):
            return self._memory.sample(self._rng, size)
        count = round(self.settings.old_share * size)
        chosen = [pool.take(self._rng.integers(0, len(pool), n)) for pool, n in ((old, count), (new, size - count))]
        return np.concatenate(chosen)

    def close(self) -> list[Event]:
        """End: write a bundle of what the newest one does not hold."""
        events = self.export()
        self._rows.close()
        return events

    def export(self) -> list[Event]:
        """Write a bundle of what is learned so far, unless the newest one is of just that."""
        if self._learner is None or self.updates == self._exported_at:
            return []
        self._exported_at = self.updates
        run, number = self.settings.run, max(_numbers(self.settings.run), default=0) + 1
        self._log()
        try:
            bundle = save_learner(
                run / f"{NUMBERED}{number:06d}", self._learner, self.figures(), self.sources, self._encoder
            )
        except UserError as error:
            return [Refused(str(error))]
        _point(run / NEWEST, bundle)
        for old in [each for each in _numbers(run) if each][: -self.settings.keep]:
            shutil.rmtree(run / f"{NUMBERED}{old:06d}")
        return [Exported(bundle)]

    def figures(self) -> dict[str, float]:
        """How far it is, and the algorithm's metrics of the last time they were logged."""
        return {
            "episodes": self.episodes,
            "transitions": len(self._memory),
            "updates": self._learner.updates if self._learner else 0,
            "owed_updates": self.owed,
            **self.metrics,
        }

    def _look(self) -> list[Event] | None:
        """Look for new bags if it is time to; those that are there at the beginning come through the cache."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return None
        self._looked = now
        found = self._new.complete()
        self._looks += 1
        if self._looks == LOOKS_AT_FIRST:
            old = sorted(path for path in self._known if path.exists())
            new = [path for path in found if path.resolve() not in self._known]
            return self._take_in_all(old, new) if old or new else None
        # A bag that lands later is decoded by itself: a cache is written as a whole.
        self._queue += found
        return None

    def _take_in_all(self, old: list[Path], new: list[Path]) -> list[Event]:
        try:
            dataset = load_columns([*old, *new], self._read_by, self.settings.bags / DIRECTORY)
            columns, encoder = dataset.columns, self._encoder
            if encoder is not None:
                columns = columns_of_latents(columns, self.contract, encoder)
            self._memory = self._make_memory(columns)
        except UserError as error:
            return [Refused(str(error))]
        episodes = Counter(Path(record.source) for record in dataset.episodes)
        self._old_episodes = sum(episodes[path] for path in old)
        self._split()
        return [self._count(path, count) for path, count in episodes.items()] + [Refused(s) for s in dataset.refused]

    def _take_in(self, bag: Path) -> list[Event]:
        try:
            episodes, refused = read_episodes([bag], self._read_by)
            for episode in episodes:
                if self._encoder is not None:
                    episode = as_latents(episode, self.contract, CameraSenses(self._encoder), keep_images=False)
                self._memory.append(episode)
            self._split()
        except (UserError, OSError) as error:
            return [Refused(f"{bag}: {error}")]
        events: list[Event] = [self._count(bag, len(episodes))] if episodes else []
        return events + [Refused(sentence) for sentence in refused]

    def _count(self, bag: Path, episodes: int) -> Event:
        """Note the episodes of a bag; those that the continued bundle has learned from earn no updates."""
        self.episodes += episodes
        if bag.resolve() not in self._known:
            self.sources.append(str(bag.resolve()))
            self.owed += episodes * self.settings.updates_per_episode
        return Learned(bag, episodes)

    def _update(self) -> None:
        if self._learner is None:
            statistics = dataset_statistics(self._memory, self.contract, achieved=self._sees_achieved)
            self._learner = self._make_learner(statistics)
        learner = self._learner
        learner.warm_up(self.updates)
        rows = self.sample(learner.config.batch_size)
        for batch in learner.batches(self._memory, rows[None], self._rng):
            self._latest = {**self._latest, **learner.update(batch)}  # some parts are updated less often than others
        self.updates += 1
        self.owed -= 1
        if self.updates % LOG_EVERY == 0:
            self._log()

    def _split(self) -> None:
        rows = self._memory.transitions
        is_old = self._memory.episode[rows] < self._old_episodes
        self._pools = [rows[is_old], rows[~is_old]]

    def _make_memory(self, episodes: Columns | Sequence[Episode]) -> ReplayMemory:
        achieved_goal = self.contract.goal.achieved_goal or None
        return ReplayMemory(episodes, capacity=self.settings.capacity, achieved_goal=achieved_goal)

    def _make_learner(self, normalisation: Normalisation) -> Algorithm:
        settings = self.settings
        learner = make_algorithm(
            settings.algorithm,
            self.contract,
            normalisation,
            seed=settings.seed,
            overrides=settings.overrides,
            device=settings.device,
        )
        self._relabel(learner)
        return learner

    def _relabel(self, learner: Algorithm) -> None:
        """Say which goals it is to learn from."""
        if self._imagined is not None:
            practise(learner, drawn_from(self._imagined))
        elif not learner.uses_returns:
            learner.hindsight = self._hindsight

    def _continued(self, bundle: Bundle) -> Algorithm:
        settings = self.settings
        if bundle.algorithm != settings.algorithm:
            raise UserError(
                f"{bundle.directory}: was trained by {bundle.algorithm}, so {settings.algorithm} cannot continue it."
            )
        bundle.require(self.contract)
        if self._encoder is not None and self._encoder.sha256 != bundle.encoder:
            raise UserError(
                f"{bundle.directory}: was trained with another image encoder than {self._encoder.directory}."
            )
        learner = configured(bundle, settings.seed, settings.overrides, settings.device)
        learner.load_state_dict(bundle.state())
        self._relabel(learner)
        self.sources = [str(bag) for bag in bundle.learned_from]
        self._known = set(bundle.learned_from)
        return learner

    def _log(self) -> None:
        """Note the newest metrics, and add a row to `metrics.csv`."""
        self.metrics = {name: float(value) for name, value in self._latest.items()}
        figures = self.figures()
        self._rows.write({"update": int(figures.pop("updates")), "seconds": time.monotonic() - self._began, **figures})


def hindsight_of(contract: Contract, k: float) -> Hindsight | None:
    """Goals from later in the episode, k for each of its own: the best of Andrychowicz et al. 2017 (1707.01495).

    None where the policy is given no goals, nobody knows what they are worth, or k is 0.
    """
    task, goal = make_task(contract.task), contract.goal
    if not (k and goal.policy_input and goal.achieved_goal and isinstance(task, GoalTask)):
        return None
    return Hindsight({"future": relabelled_share(k)}, task.compute_reward)


def _unit_statistics(contract: Contract) -> dict[str, dict[str, list[float]]]:
    """A normalisation that changes nothing."""
    keys = contract.observation | contract.auxiliary | {DESIRED_GOAL: contract.goal.desired_goal}
    sizes = {name: math.prod(key.shape) for name, key in keys.items()}
    return {name: {"mean": [0.0] * size, "std": [1.0] * size} for name, size in sizes.items()}


def _numbers(run: Path) -> list[int]:
    """Of the bundles of a run, the oldest first."""
    return sorted(int(path.name[len(NUMBERED) :]) for path in run.glob(f"{NUMBERED}[0-9]*"))


def _point(link: Path, target: Path) -> None:
    """Let `link` stand for its neighbour `target`, at no moment for nothing.

    The bundle of an offline run that has the name of the link becomes number 0.
    """
    if link.is_dir() and not link.is_symlink():
        link.rename(link.with_name(f"{NUMBERED}{0:06d}"))
    beside = link.with_name(f".{link.name}-new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target.name)
    beside.replace(link)
