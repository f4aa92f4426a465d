"""Offline training: from a replay memory to a policy bundle, in one loop for every algorithm."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl_ros.algorithms.base import dataset_statistics, find_algorithm, make_algorithm
from rl_ros.algorithms.rig import drawn_from, imagined, practise
from rl_ros.contract import Contract
from rl_ros.episodes.allocation import keep_freed_memory
from rl_ros.episodes.memory import ReplayMemory
from rl_ros.errors import UserError
from rl_ros.networks.image_encoder import ImageEncoder
from rl_ros.training.bundle import save_learner
from rl_ros.training.logs import RunLog

LOG_EVERY = 100
"""Updates between two rows of `metrics.csv`."""
HELD_OUT = 0.03
"""Share of the episodes that are kept for the validation loss, unless another is given."""
VALIDATION_SIZE = 256
"""Transitions of them that it looks at."""


def train(
    memory: ReplayMemory,
    contract: Contract,
    algorithm: str,
    out: Path,
    *,
    seed: int = 0,
    seconds: float | None = None,
    updates: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: Callable[[int, dict[str, float]], None] | None = None,
    source_episodes: Sequence[str] = (),
    held_out: float = HELD_OUT,
    human: np.ndarray | None = None,
    human_share: float = 0.0,
    encoder: ImageEncoder | None = None,
    device: str = "cpu",
) -> Path:
    """Train a policy on recorded episodes and write `out/metrics.csv`, events for TensorBoard and `out/bundle/`.

    The weights of the last update are the ones exported; a few episodes are held out for a validation loss, which is
    logged and never chooses anything. Uses as many threads as torch is set to; one is best on a shared machine.

    Args:
        memory: the episodes.
        contract: what they mean; it goes into the bundle.
        algorithm: a name in `rl_ros.algorithms.base.ALGORITHMS`.
        out: made if it is not there.
        seed: of weights, batches and image shifts. With `updates`, the same seed gives the same bits.
        seconds: train for so long, wall time; the learning rate follows the clock.
        updates: train for so many updates instead.
        overrides: settings of the algorithm other than its defaults.
        progress: called with the update and its metrics whenever they are logged.
        source_episodes: the bags that the memory was read from, for the bundle.
        held_out: share of the episodes that are not learned from: for the validation loss, and for
            `rl_ros evaluate --offline`.
        human: where a person acted, bool (rows of the memory,); those ticks count as demonstrations (Rajeswaran et al.
            2017, 1709.10087; interventions: Kelly et al. 2019, 1810.02890).
        human_share: of each batch from those, symmetric sampling at 0.5 (Ball et al. 2023, 2302.02948); 0 as they come.
        encoder: the image encoder that latents are of; it goes into the bundle, and algorithms that do not choose their
            goals themselves practise what it imagines.
        device: where to learn, as torch names it.

    Returns:
        The bundle's directory.

    Raises:
        UserError: an unknown algorithm, setting or device, not exactly one of `seconds` and `updates`, a share of a
            person's ticks where there are none, or all episodes held out.
    """
    if (seconds is None) == (updates is None) or (seconds or updates or 0) <= 0:
        raise UserError("training takes either a positive number of seconds or of updates; give one of them.")
    keep_freed_memory()
    achieved = encoder is not None or find_algorithm(algorithm).relabels
    normalisation = dataset_statistics(memory, contract, achieved=achieved)
    learner = make_algorithm(algorithm, contract, normalisation, seed=seed, overrides=overrides, device=device)
    if encoder is not None:
        practise(learner, drawn_from(imagined(encoder)))
    generator = np.random.default_rng(seed)
    training_rows, validation_rows = split_episodes(memory, generator, held_out)
    if not len(training_rows):
        raise UserError(f"with {held_out:g} of the episodes held out no episode is left to train on; hold out fewer.")
    human_rows = training_rows[human[training_rows]] if human is not None else training_rows[:0]
    shown = round(human_share * learner.config.batch_size)
    if shown and not len(human_rows):
        raise UserError("no tick to learn from was acted by a person, so there is no share of them to take.")
    validation = None
    if len(validation_rows):
        rows = generator.choice(validation_rows, (1, VALIDATION_SIZE))
        validation = next(iter(learner.batches(memory, rows, generator)))
    out.mkdir(parents=True, exist_ok=True)
    batch_size = learner.config.batch_size
    metrics: dict[str, float] = {}
    latest: dict[str, torch.Tensor] = {}
    update, fraction, start = 0, 0.0, time.monotonic()
    with RunLog(out / "metrics.csv") as log:
        while fraction < 1.0:
            # Indices for many updates are drawn at once: one call of the generator for all of them.
            rows = training_rows[generator.integers(0, len(training_rows), (LOG_EVERY, batch_size))]
            if shown:
                rows[:, :shown] = human_rows[generator.integers(0, len(human_rows), (LOG_EVERY, shown))]
            for index, batch in enumerate(learner.batches(memory, rows, generator)):
                if human is not None:
                    batch.demonstration = human[rows[index]]
                learner.schedule(fraction)
                latest |= learner.update(batch)  # some parts are updated less often than others
                update += 1
                elapsed = time.monotonic() - start
                fraction = elapsed / seconds if seconds is not None else update / (updates or 1)
                if fraction >= 1.0:
                    break
            metrics = {name: float(value) for name, value in latest.items()}
            if validation is not None:
                metrics |= {f"validation_{name}": float(value) for name, value in learner.validate(validation).items()}
            log.write({"update": update, "seconds": elapsed, **metrics})
            if progress is not None:
                progress(update, metrics)
    return save_learner(
        out / "bundle",
        learner,
        {
            "episodes": int(memory.episode[-1]) + 1,
            "transitions": len(memory),
            "updates": update,
            "seconds": round(elapsed, 2),
            **metrics,
        },
        source_episodes,
        encoder,
    )


def split_episodes(
    memory: ReplayMemory, generator: np.random.Generator, share: float = HELD_OUT
) -> tuple[np.ndarray, np.ndarray]:
    """Rows that begin a transition, to train on and to validate on; whole episodes go to one side.

    Fewer than 20 episodes, or a share of 0, are all trained on.
    """
    episodes = np.unique(memory.episode[memory.transitions])
    count = max(1, round(share * len(episodes))) if len(episodes) >= 20 and share > 0 else 0
    held_out = np.isin(memory.episode[memory.transitions], generator.choice(episodes, count, replace=False))
    return memory.transitions[~held_out], memory.transitions[held_out]
