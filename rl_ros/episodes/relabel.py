"""Rewards and successes recomputed offline: a layer of columns over a cache, the recordings left as they are.

<cache of a contract>/layers/NAME/index.json, reward.npy, terminated.npy and truncated.npy
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rl_ros.episodes.cache import INDEX, Dataset
from rl_ros.errors import UserError

ROWS_AT_ONCE = 1024
"""Rows whose observations are in memory at once."""

Judge = Callable[[dict[str, np.ndarray], np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Reward (n,) and success (n,) of being at n ticks: from observation and auxiliary values by key, each (n, *shape), and
the desired goals (n, G)."""


@dataclass(frozen=True)
class Layer:
    """The judgement of one task over a dataset, a row a tick as in `Columns`."""

    reward: np.ndarray
    """float32 (rows,), of arriving at the next tick."""
    terminated: np.ndarray
    """bool (rows,)."""
    truncated: np.ndarray
    """bool (rows,)."""

    @property
    def successes(self) -> int:
        """Transitions that arrive at success."""
        return int(self.terminated.sum())

    def over(self, dataset: Dataset) -> Dataset:
        """The dataset with this judgement in place of the recorded one."""
        columns = replace(dataset.columns, reward=self.reward, terminated=self.terminated, truncated=self.truncated)
        return replace(dataset, columns=columns)


def judge_again(dataset: Dataset, judge: Judge) -> Layer:
    """What `judge` says of every transition: success terminates, and an episode that ends without is truncated.

    Where the judge sees success before the end of an episode, what follows stays there as transitions of their own.
    """
    columns = dataset.columns
    rows = np.flatnonzero(columns.has_transition)
    reward, terminated = np.zeros(len(columns.reward), np.float32), np.zeros(len(columns.reward), bool)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        here = rows[start : start + ROWS_AT_ONCE]
        values = {name: column[here + 1] for name, column in {**columns.observation, **columns.auxiliary}.items()}
        reward[here], terminated[here] = judge(values, columns.desired_goal[here])
    truncated = np.array(columns.truncated)
    # What ended in the recorded success ends now without one, if the judge sees none.
    truncated |= columns.terminated
    truncated &= ~terminated
    return Layer(reward, terminated, truncated)


def write_layer(dataset: Dataset, name: str, layer: Layer) -> Path:
    """Keep a layer beside the cache, in place of one of the same name; returns its directory."""
    directory = _directory(dataset, name)
    building = directory.with_name(f"{name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    checksums = {}
    for column in ("reward", "terminated", "truncated"):
        file = building / f"{column}.npy"
        np.save(file, getattr(layer, column), allow_pickle=False)
        checksums[column] = zlib.crc32(file.read_bytes())
    (building / INDEX).write_text(json.dumps({"base": _base(dataset), "columns": checksums}))
    shutil.rmtree(directory, ignore_errors=True)
    os.rename(building, directory)
    return directory


def read_layer(dataset: Dataset, name: str) -> Layer:
    """A layer that was written over exactly this dataset.

    Raises:
        UserError: there is none of that name, it is of other bags, or it is damaged.
    """
    directory = _directory(dataset, name)
    again = f"run `rl_ros relabel BAGS --task {name}`"
    try:
        index = json.loads((directory / INDEX).read_text())
        if index["base"] != _base(dataset):
            raise UserError(f"the layer {name} was made over other bags; {again}.")
        columns = {}
        for column, checksum in index["columns"].items():
            file = directory / f"{column}.npy"
            if zlib.crc32(file.read_bytes()) != checksum:
                raise UserError(f"{file}: damaged; {again}.")
            columns[column] = np.load(file, allow_pickle=False)
        return Layer(**columns)
    except FileNotFoundError as error:
        raise UserError(f"there is no layer {name} over these bags; {again}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{directory}: damaged; {again}.") from error


def _directory(dataset: Dataset, name: str) -> Path:
    return dataset.directory.parent / "layers" / name


def _base(dataset: Dataset) -> int:
    return zlib.crc32((dataset.directory / INDEX).read_bytes())
