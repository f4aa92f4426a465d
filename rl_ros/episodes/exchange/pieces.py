"""What every exchange format needs: episodes without gaps, and libraries that are imported only when asked for."""

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rl_ros.episodes.cache import Dataset
from rl_ros.episodes.memory import Episode
from rl_ros.errors import UserError

CUT = "cut"
"""Outcome of a piece that ends at a gap, not at the end of its episode."""


def library(module: str, package: str) -> Any:
    """A module that only the exchange of data sets needs.

    Raises:
        UserError: its package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"this format needs the package {package}: pip install {package}.") from error


def empty_directory(path: Path) -> Path:
    """The directory, made if it is not there.

    Raises:
        UserError: it holds something already.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: there is something already; give a directory that is new or empty.")
    path.mkdir(parents=True, exist_ok=True)
    return path


def pieces(episodes: Iterable[Episode]) -> Iterator[Episode]:
    """Episodes cut where a transition is missing: n + 1 ticks hold n transitions, in every format.

    A piece that ends at a gap is truncated there, with the outcome `cut`.
    """
    for episode in episodes:
        # A 1 where a run of transitions begins, and a -1 after its end.
        edges = np.diff(np.concatenate([[0], episode.has_transition.astype(np.int8), [0]]))
        starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        for start, stop in zip(starts, stops, strict=True):
            rows = slice(start, stop + 1)
            ended = bool(episode.terminated[stop - 1] or episode.truncated[stop - 1])
            truncated = episode.truncated[rows].copy()
            truncated[-2] |= not ended
            yield replace(
                episode,
                stamps=episode.stamps[rows],
                observation={name: array[rows] for name, array in episode.observation.items()},
                auxiliary={name: array[rows] for name, array in episode.auxiliary.items()},
                desired_goal=episode.desired_goal[rows],
                action=episode.action[rows],
                reward=episode.reward[rows],
                terminated=episode.terminated[rows],
                truncated=truncated,
                has_transition=np.arange(stop + 1 - start) < stop - start,
                outcome=episode.outcome if ended else CUT,
            )


def episodes_of(dataset: Dataset) -> Iterator[Episode]:
    """The episodes of ingested bags, one after the other: views of the memory-mapped columns."""
    columns, stops = dataset.columns, np.cumsum(dataset.columns.lengths)
    for record, length, stop in zip(dataset.episodes, columns.lengths, stops, strict=True):
        rows = slice(stop - length, stop)
        yield Episode(
            stamps=dataset.stamps[rows],
            observation={name: array[rows] for name, array in columns.observation.items()},
            auxiliary={name: array[rows] for name, array in columns.auxiliary.items()},
            desired_goal=columns.desired_goal[rows],
            action=columns.action[rows],
            reward=columns.reward[rows],
            terminated=columns.terminated[rows],
            truncated=columns.truncated[rows],
            has_transition=columns.has_transition[rows],
            outcome=record.outcome,
            seed=record.seed,
            source=record.source,
            problems=record.problems,
        )


def whole(
    *,
    stamps: np.ndarray,
    observation: dict[str, np.ndarray],
    auxiliary: dict[str, np.ndarray],
    desired_goal: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    outcome: str,
    seed: int,
    source: str,
) -> Episode:
    """An episode of n + 1 ticks from n actions, rewards and ends."""

    def padded(array: np.ndarray, dtype: type) -> np.ndarray:
        return np.concatenate([array, np.zeros((1, *array.shape[1:]), array.dtype)]).astype(dtype)

    truncated = np.asarray(truncated, bool).copy()
    truncated[-1] |= not terminated[-1]
    return Episode(
        stamps=stamps,
        observation=observation,
        auxiliary=auxiliary,
        desired_goal=np.asarray(desired_goal, np.float32),
        action=padded(action, np.float32),
        reward=padded(reward, np.float32),
        terminated=padded(np.asarray(terminated), np.bool_),
        truncated=padded(truncated, np.bool_),
        has_transition=np.arange(len(stamps)) < len(stamps) - 1,
        outcome=outcome,
        seed=seed,
        source=source,
    )
