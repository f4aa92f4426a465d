"""Interrupted training: everything that a run goes on from, on disk, whole or not at all.

A checkpoint is a directory of its own, written beside its place and renamed into it, and only then are older ones
removed. So there is always a whole one, whenever the power goes. Nothing in it is ever unpickled:

- `tensors.safetensors`: weights, the optimiser's moments, the generator;
- `NAME.npy`: large arrays, such as those of the replay memory;
- `values.json`: counters, settings, the state of the random numbers.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from rl_ros.errors import UserError

TENSORS, VALUES = "tensors.safetensors", "values.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from."""

    tensors: Mapping[str, torch.Tensor | np.ndarray]
    """Small and many, such as weights."""
    arrays: Mapping[str, np.ndarray]
    """Large and few."""
    values: dict[str, Any]
    """Plain data."""

    def beside(self, name: str, part: "Checkpoint") -> "Checkpoint":
        """This one with another one in it, which `part` gives back."""
        return Checkpoint(
            {**self.tensors, **{f"{name}/{key}": tensor for key, tensor in part.tensors.items()}},
            {**self.arrays, **{f"{name}/{key}": array for key, array in part.arrays.items()}},
            {**self.values, name: part.values},
        )

    def part(self, name: str) -> "Checkpoint":
        """What `beside` put in under that name."""
        return Checkpoint(
            {key.removeprefix(f"{name}/"): t for key, t in self.tensors.items() if key.startswith(f"{name}/")},
            {key.removeprefix(f"{name}/"): a for key, a in self.arrays.items() if key.startswith(f"{name}/")},
            self.values[name],
        )


def save_checkpoint(directory: Path, number: int, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint as `directory/NUMBER` and remove the older ones there; returns its path.

    Args:
        number: larger than those before, such as the ticks of experience so far.
    """
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=directory))
    try:
        tensors = {name: np.asarray(tensor, order="C") for name, tensor in checkpoint.tensors.items()}
        safetensors.numpy.save_file(tensors, unfinished / TENSORS)
        names = {}
        for index, (name, array) in enumerate(checkpoint.arrays.items()):
            names[name] = f"{index}.npy"
            np.save(unfinished / names[name], array, allow_pickle=False)
        (unfinished / VALUES).write_text(json.dumps({"arrays": names, "values": checkpoint.values}))
        for file in unfinished.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        place = directory / str(number)
        if place.exists():
            shutil.rmtree(place)
        os.replace(unfinished, place)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for older in directory.iterdir():
        if older != place:
            shutil.rmtree(older)
    return place


def load_checkpoint(directory: Path) -> Checkpoint:
    """The newest checkpoint in a directory.

    Raises:
        UserError: there is none, or it is damaged.
    """
    found = [path for path in directory.glob("*") if path.name.isdigit()] if directory.is_dir() else []
    if not found:
        raise UserError(f"{directory}: there is no checkpoint to go on from; begin the run anew.")
    place = max(found, key=lambda path: int(path.name))
    try:
        described = json.loads((place / VALUES).read_text())
        return Checkpoint(
            safetensors.numpy.load_file(place / TENSORS),
            {n: np.load(place / file, allow_pickle=False) for n, file in described["arrays"].items()},
            described["values"],
        )
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise UserError(f"{place}: this checkpoint is damaged ({error}); begin the run anew.") from error
