"""QT-Opt in parts: collectors, Bellman updaters, replay and trainer (Kalashnikov et al. 2018, 1806.10293, section 4.4).

Bags are the log. Collectors write them and the replay reads them; a grasp that is in a bag is never lost, whatever dies
afterwards. An updater finds the targets of batches with the weights of that moment, the trainer learns from them.

Each part is a plain class. `Here` has them all in this process, one after the other, and a run follows from its seed;
`OnRay` makes each an actor of Ray, on this machine or on a cluster, and replaces one that dies.
"""

import contextlib
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch

from rl_ros.algorithms.base import dataset_statistics, make_algorithm
from rl_ros.algorithms.qt_opt import QTOpt
from rl_ros.contract import Contract
from rl_ros.episodes.bags import find_bags
from rl_ros.episodes.cache import cache_beside, load_columns
from rl_ros.episodes.ingest import read_episodes
from rl_ros.episodes.memory import Batch, ReplayMemory
from rl_ros.episodes.record import unused
from rl_ros.episodes.recover import recover_bags
from rl_ros.errors import UserError
from rl_ros.networks.layers import Normalisation
from rl_ros.robots.bin import ObjectSet
from rl_ros.tasks.env import BinEnvironment
from rl_ros.training.bundle import load_bundle, save_learner
from rl_ros.training.grasping import Choose, Grasp, exploring, scripted, write_bag
from rl_ros.training.logs import RunLog
from rl_ros.training.runs import configured

BLOCK = 20
"""Batches that travel together, with targets of the same weights."""
SEED = 1_000_000_000
"""Of the first grasp that is collected here: far from the seeds of `rl_ros collect` and of evaluations."""
SEEDS_A_RUN = 1_000_000
"""Grasps that each seed of a run has seeds for."""
NEWEST = "bundle"


@dataclass(frozen=True)
class Settings:
    """How a run is divided, and what it learns from."""

    bags: Path
    """Read at the beginning and whenever more are there; collectors write here."""
    out: Path
    """Receives `metrics.csv` and `bundle`."""
    updates: int
    grasps: int = 0
    """To collect meanwhile, at most; 0 learns from the bags alone."""
    collectors: int = 1
    updaters: int = 1
    grasps_a_bag: int = 50
    start_after: int = 500
    """Grasps that must be there before the first update; scripted ones are collected until then."""
    updates_a_grasp: float = 2.0
    """Updates that follow each collected grasp before the next is due."""
    scripted_share: float = 0.1
    """Of the grasps that are collected once there is a policy: the scripted explorer's."""
    exploration: float = 0.05
    """Errors of the policy in the others; see `ExploringActor`."""
    export_every: int = 1000
    """Updates between two bundles; collectors act by the newest."""
    capacity: int = 500_000
    """Ticks that are remembered where more are collected."""
    objects: ObjectSet = "train"
    continue_from: str = ""
    """A bundle to begin with: on-policy fine-tuning."""
    seed: int = 0
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Collected:
    """A bag, and who grasped in it."""

    bag: str
    grasps: dict[str, int]
    """By who acted."""
    successes: dict[str, int]


class Collector:
    """Grasps with objects of its own and writes bags."""

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(1)
        self.settings, self.environment = settings, BinEnvironment(settings.objects)
        self.contract = self.environment.contract
        self._policy: tuple[str, Callable[[int], Choose]] | None = None
        settings.bags.mkdir(parents=True, exist_ok=True)
        recover_bags(settings.bags)  # of one that was killed, with all that it had written

    def collect(self, number: int, bundle: str) -> Collected:
        """One bag of grasps, by the policy of a bundle and the explorer in their shares; without one by the explorer.

        Args:
            number: of the bag, among those of the run's seed.
            bundle: directory, or empty.
        """
        settings = self.settings
        first = SEED + settings.seed * SEEDS_A_RUN + number * settings.grasps_a_bag
        actors: list[str] = []

        def choose(seed: int) -> tuple[str, Choose]:
            is_scripted = not bundle or np.random.default_rng([seed, 0xD15]).random() < settings.scripted_share
            actors.append("scripted" if is_scripted else "policy")
            return actors[-1], scripted(self.environment, 1.0, seed) if is_scripted else self._by_policy(bundle, seed)

        seeds = range(first, first + settings.grasps_a_bag)
        # A collector that died may have left one of that number.
        name = unused(settings.bags / f"grasps_{settings.seed:03d}_{number:06d}").name
        found = write_bag(self.environment, settings.bags, name, seeds, number * settings.grasps_a_bag, choose)
        return Collected(str(settings.bags / name), *_counted(actors, found))

    def _by_policy(self, bundle: str, seed: int) -> Choose:
        if self._policy is None or self._policy[0] != bundle:
            self._policy = bundle, exploring(bundle, self.contract, self.settings.exploration)
        return self._policy[1](seed)


class Replay:
    """What the bags hold, for batches."""

    def __init__(self, settings: Settings, contract: Contract) -> None:
        self.settings, self.contract = settings, contract
        self.memory = ReplayMemory([], capacity=settings.capacity)
        self.episodes = 0
        self._read: set[Path] = set()
        self._rng = np.random.default_rng([settings.seed, 0x4E9])
        self._learner: QTOpt | None = None

    def look(self) -> int:
        """Read the bags that are new; how many episodes there are."""
        there: list[Path] = []
        with contextlib.suppress(UserError):  # there is none yet
            there = find_bags(self.settings.bags)
        new = [path for path in there if path not in self._read]
        if not self._read and new:
            # Those that are there at the beginning come through the cache.
            columns = load_columns(new, self.contract, cache_beside(self.settings.bags, new)).columns
            # What never grows stays on disk.
            self.memory = ReplayMemory(columns, capacity=self.settings.capacity if self.settings.grasps else None)
            self.episodes = len(columns.lengths)
        else:
            episodes, _ = read_episodes(new, self.contract)
            for episode in episodes:
                self.memory.append(episode)
            self.episodes += len(episodes)
        self._read |= set(new)
        return self.episodes

    def normalisation(self) -> Normalisation:
        """Of what there is now."""
        return dataset_statistics(self.memory, self.contract)

    def block(self, count: int) -> list[Batch]:
        """So many batches."""
        if self._learner is None:
            self._learner = _learner(self.settings, self.contract, self.normalisation())
        rows = self.memory.sample(self._rng, (count, self._learner.config.batch_size))
        return list(self._learner.batches(self.memory, rows, self._rng))


class Updater:
    """Finds the targets of batches, which is most of the work: a search for the best next action."""

    def __init__(self, settings: Settings, contract: Contract, normalisation: Normalisation) -> None:
        torch.set_num_threads(1)
        self.learner = _learner(settings, contract, normalisation)

    def label(self, weights: Mapping[str, np.ndarray], batches: Sequence[Batch]) -> list[Batch]:
        """The batches with their targets by these weights; nothing is kept, so that another updater can do it again."""
        self.learner.use_target_weights(weights)
        return [self.learner.label(batch) for batch in batches]


class Trainer:
    """Learns from batches that have targets."""

    def __init__(self, settings: Settings, contract: Contract, normalisation: Normalisation) -> None:
        torch.set_num_threads(1)
        self.settings, self.contract = settings, contract
        self.learner = _learner(settings, contract, normalisation)
        self._began = self.learner.updates

    def learn(self, batches: Sequence[Batch]) -> dict[str, float]:
        """One update for each; the metrics of the last one."""
        metrics: dict[str, torch.Tensor] = {}
        for batch in batches:
            self.learner.schedule((self.learner.updates - self._began) / self.settings.updates)
            metrics = self.learner.update(batch)
        return {name: float(value) for name, value in metrics.items()}

    def weights(self) -> dict[str, np.ndarray]:
        """For updaters."""
        return self.learner.target_weights()

    def export(self, name: str) -> str:
        """Write a bundle in the run's directory, in the place of one of that name; returns its path."""
        learner = self.learner
        return str(save_learner(self.settings.out / name, learner, {"updates": learner.updates}))


class Engine(Protocol):
    """Where parts run. What is asked of one is answered in its turn; an answer can be handed on before it is there."""

    def start(self, kind: type, *arguments: Any) -> Any:
        """A part, made where it will run."""

    def ask(self, part: Any, method: str, *arguments: Any) -> Any:
        """The answer, as soon as it is there; `arguments` may be answers of others."""

    def ready(self, answers: Sequence[Any]) -> int:
        """Which of them is there first."""

    def take(self, answer: Any) -> Any:
        """Its value."""

    def close(self) -> None:
        """End all parts."""


class Here:
    """Everything in this process, in the order in which it is asked."""

    def start(self, kind: type, *arguments: Any) -> Any:
        """See `Engine.start`."""
        return kind(*arguments)

    def ask(self, part: Any, method: str, *arguments: Any) -> Any:
        """See `Engine.ask`."""
        return getattr(part, method)(*arguments)

    def ready(self, answers: Sequence[Any]) -> int:
        """See `Engine.ready`."""
        return 0

    def take(self, answer: Any) -> Any:
        """See `Engine.take`."""
        return answer

    def close(self) -> None:
        """See `Engine.close`."""


class OnRay:
    """Each part an actor of Ray, which starts one that has died anew and asks it again.

    Args:
        address: of a cluster, such as `auto`; empty starts one on this machine.

    Raises:
        UserError: Ray is not installed.
    """

    def __init__(self, address: str = "") -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise UserError(f"--ray needs Ray ({error}); pip install 'rl_ros[ray]'.") from error
        self._ray = ray
        ray.init(address=address or None, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)

    def start(self, kind: type, *arguments: Any) -> Any:
        """See `Engine.start`."""
        # An actor that is asked again must not find half of what it has done: labels are functions of their
        # arguments, bags get new names. The trainer is not: its run ends with it.
        again = 0 if kind is Trainer else -1
        actor = self._ray.remote(kind).options(max_restarts=again, max_task_retries=again, num_cpus=0)
        return actor.remote(*arguments)

    def ask(self, part: Any, method: str, *arguments: Any) -> Any:
        """See `Engine.ask`."""
        return getattr(part, method).remote(*arguments)

    def ready(self, answers: Sequence[Any]) -> int:
        """See `Engine.ready`."""
        first, _ = self._ray.wait(list(answers), num_returns=1)
        return list(answers).index(first[0])

    def take(self, answer: Any) -> Any:
        """See `Engine.take`."""
        try:
            return self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from error
            raise
        except self._ray.exceptions.RayActorError as error:
            raise UserError(f"a part of the run has died and cannot be replaced: {error}") from error

    def close(self) -> None:
        """See `Engine.close`."""
        self._ray.shutdown()


@dataclass
class Mixture:
    """Who has grasped, and how well, since the last row of the log."""

    grasps: dict[str, int] = field(default_factory=dict)
    successes: dict[str, int] = field(default_factory=dict)

    def add(self, found: Collected) -> None:
        """The grasps of a bag."""
        for own, new in ((self.grasps, found.grasps), (self.successes, found.successes)):
            for actor, count in new.items():
                own[actor] = own.get(actor, 0) + count

    def row(self) -> dict[str, float]:
        """The policy's share and the success of each; nothing where nobody has grasped. Forgets them."""
        grasps, successes, self.grasps, self.successes = self.grasps, self.successes, {}, {}
        if not grasps:
            return {}
        row = {"policy_share": grasps.get("policy", 0) / sum(grasps.values())}
        return row | {f"{actor}_success": successes[actor] / count for actor, count in grasps.items() if count}


class Job(NamedTuple):
    """Something that a part has been asked."""

    answer: Any
    part: Any
    batches: int
    """That are learned from with the answer; 0 for a bag of grasps."""


class PartsOfARun:
    """Keeps every part busy: each collector with one bag, as long as grasps are due, each updater with one block.

    Args:
        settings: of the run.
        engine: where the parts are.
        progress: called with updates and collected grasps so far.
    """

    def __init__(self, settings: Settings, engine: Engine, progress: Callable[[int, int], None]) -> None:
        self.settings, self.engine, self.progress = settings, engine, progress
        self.contract = Contract.load("grasp")
        count = settings.collectors if settings.grasps else 0
        self.idle = [engine.start(Collector, settings) for _ in range(count)]
        self.replay = engine.start(Replay, settings, self.contract)
        self.episodes: int = engine.take(engine.ask(self.replay, "look"))
        """In the replay."""
        self.newest = settings.continue_from
        """Bundle that collectors act by."""
        self.number = next_number(settings.bags, settings.seed)
        """Of the next bag, by which its episodes are seeded: none of an earlier run's comes again."""
        self.bags = self.asked = self.learned = self.collected = 0
        self.jobs: list[Job] = []
        self.mixture = Mixture()

    def bootstrap(self) -> None:
        """Collect until there are enough grasps to begin with.

        Raises:
            UserError: there is none, and nobody collects.
        """
        while self.episodes < self.settings.start_after:
            self.collect(math.inf)
            if not self.jobs:
                break
            self.hear(self.next_job())
        if not self.episodes:
            raise UserError(
                f"{self.settings.bags}: no grasp to learn from; record some with `rl_ros collect grasp --grasps`."
            )

    def learn(self) -> Path:
        """Learn and collect until all updates are made; returns the bundle."""
        settings, engine = self.settings, self.engine
        normalisation = engine.take(engine.ask(self.replay, "normalisation"))
        trainer = engine.start(Trainer, settings, self.contract, normalisation)
        for _ in range(settings.updaters):
            self.label(engine.start(Updater, settings, self.contract, normalisation), trainer)
        began, first = time.monotonic(), self.bags
        with RunLog(settings.out / "metrics.csv") as log:
            while self.learned < settings.updates:
                self.collect(first + self.learned / (settings.updates_a_grasp * settings.grasps_a_bag))
                job = self.next_job()
                if not job.batches:
                    self.hear(job)
                    continue
                metrics = engine.take(job.answer)
                before, self.learned = self.learned, self.learned + job.batches
                if self.learned // settings.export_every > before // settings.export_every:
                    self.newest = engine.take(engine.ask(trainer, "export", f"{NEWEST}_{self.learned:07d}"))
                row = {"update": self.learned, "seconds": time.monotonic() - began, "episodes": self.episodes}
                log.write({**row, **metrics, **self.mixture.row()})
                self.progress(self.learned, self.collected)
                self.label(job.part, trainer)
        while self.jobs:
            self.hear(self.next_job())
        return Path(engine.take(engine.ask(trainer, "export", NEWEST)))

    def collect(self, due: float) -> None:
        """Ask collectors that have nothing to do for the bags that are due, counted from the first."""
        size = self.settings.grasps_a_bag
        while self.idle and self.bags + 1 <= due and self.bags * size < self.settings.grasps:
            collector = self.idle.pop()
            self.jobs.append(Job(self.engine.ask(collector, "collect", self.number, self.newest), collector, 0))
            self.number, self.bags = self.number + 1, self.bags + 1

    def hear(self, job: Job) -> None:
        """A bag is there: the replay reads it."""
        found = self.engine.take(job.answer)
        self.mixture.add(found)
        self.collected += sum(found.grasps.values())
        self.episodes = self.engine.take(self.engine.ask(self.replay, "look"))
        self.idle.append(job.part)
        self.progress(self.learned, self.collected)

    def label(self, updater: Any, trainer: Any) -> None:
        """Have an updater find the targets of the next block, and the trainer learn from it."""
        count = min(BLOCK, self.settings.updates - self.asked)
        if count > 0:
            ask = self.engine.ask
            labelled = ask(updater, "label", ask(trainer, "weights"), ask(self.replay, "block", count))
            self.jobs.append(Job(ask(trainer, "learn", labelled), updater, count))
            self.asked += count

    def next_job(self) -> Job:
        """The first one that is done."""
        return self.jobs.pop(self.engine.ready([job.answer for job in self.jobs]))


def next_number(bags: Path, seed: int) -> int:
    """The number after those of the bags that runs of this seed have written into a directory, whole or not."""
    written = re.compile(rf"grasps_{seed:03d}_(\d{{6,}})")
    names = (written.match(path.name) for path in bags.glob("grasps_*"))
    return max((int(name[1]) + 1 for name in names if name), default=0)


def train_in_parts(
    settings: Settings,
    engine: Engine,
    progress: Callable[[int, int], None] = lambda updates, grasps: None,
) -> Path:
    """Learn, and collect meanwhile; writes `out/metrics.csv` and `out/bundle`, and a bundle now and then.

    Args:
        progress: called with updates and collected grasps so far.

    Returns:
        The bundle.

    Raises:
        UserError: there is nothing to learn from, or a part cannot go on.
    """
    run = PartsOfARun(settings, engine, progress)
    run.bootstrap()
    return run.learn()


def _learner(settings: Settings, contract: Contract, normalisation: Normalisation) -> QTOpt:
    if settings.continue_from:
        bundle = load_bundle(settings.continue_from)
        bundle.require(contract)
        learner = configured(bundle, settings.seed, settings.overrides)
        if not isinstance(learner, QTOpt):
            raise UserError(f"{settings.continue_from}: was trained by {bundle.algorithm}, not by qt_opt.")
        learner.load_state_dict(bundle.state())
        return learner
    made = make_algorithm("qt_opt", contract, normalisation, seed=settings.seed, overrides=settings.overrides)
    return cast(QTOpt, made)


def _counted(actors: Sequence[str], grasps: Sequence[Grasp]) -> tuple[dict[str, int], dict[str, int]]:
    """Grasps and successes by who acted."""
    names = sorted(set(actors))
    success = np.array([grasp.success for grasp in grasps])
    own = {name: np.array([actor == name for actor in actors]) for name in names}
    return {n: int(own[n].sum()) for n in names}, {n: int((own[n] & success).sum()) for n in names}
