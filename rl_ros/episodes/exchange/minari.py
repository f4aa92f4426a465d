"""Minari: one HDF5 file with a group for each episode, and what its spaces are in a JSON file.

The layout of Minari 0.5 (minari.farama.org, "Dataset Standards"): `data/main_data.hdf5` and `data/metadata.json` under
the data set's directory, so that `minari.MinariDataset(OUT / "data")` reads it, and `minari.load_dataset` if OUT lies
under Minari's own directory. Observations are a dictionary of the contract's keys and `desired_goal`; auxiliary values
and stamps are `infos`.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rl_ros.contract import Contract
from rl_ros.episodes.exchange.pieces import empty_directory, library, pieces, whole
from rl_ros.episodes.memory import Episode
from rl_ros.errors import UserError

VERSION = "0.5.4"
"""Of Minari, whose layout this is."""
MAIN_FILE, METADATA_FILE = "main_data.hdf5", "metadata.json"
GOAL = "desired_goal"


def write(episodes: Iterable[Episode], contract: Contract, out: Path) -> int:
    """Write a data set; returns the number of episodes in it.

    Raises:
        UserError: h5py is not installed, or `out` holds something already.
    """
    h5py = library("h5py", "h5py")
    data = empty_directory(out) / "data"
    data.mkdir()
    count = steps = 0
    with h5py.File(data / MAIN_FILE, "w", track_order=True) as file:
        for piece in pieces(episodes):
            group = file.create_group(f"episode_{count}")
            transitions = len(piece.stamps) - 1
            group.attrs.update({"id": count, "total_steps": transitions, "seed": piece.seed, "outcome": piece.outcome})
            columns: dict[str, np.ndarray] = {
                **{f"observations/{name}": array for name, array in piece.observation.items()},
                f"observations/{GOAL}": piece.desired_goal,
                "actions": piece.action[:-1],
                "rewards": piece.reward[:-1],
                "terminations": piece.terminated[:-1],
                "truncations": piece.truncated[:-1],
                **{f"infos/{name}": array for name, array in piece.auxiliary.items()},
                "infos/stamp": piece.stamps,
            }
            for name, array in columns.items():
                group.create_dataset(name, data=array, chunks=True, maxshape=(None, *array.shape[1:]))
            count, steps = count + 1, steps + transitions
    spaces = {name: _box(key.shape, key.dtype) for name, key in contract.observation.items()}
    spaces[GOAL] = _box(contract.goal.desired_goal.shape, contract.goal.desired_goal.dtype)
    action = {"low": contract.action_low.tolist(), "high": contract.action_high.tolist()}
    metadata = {
        "total_episodes": count,
        "total_steps": steps,
        "data_format": "hdf5",
        "observation_space": json.dumps({"type": "Dict", "subspaces": spaces}),
        "action_space": json.dumps({"type": "Box", "dtype": "float32", "shape": [len(action["low"])], **action}),
        "dataset_id": f"rl_ros/{contract.name}-v0",
        "minari_version": VERSION,
        "dataset_size": round((data / MAIN_FILE).stat().st_size / 1e6, 1),
        "rl_ros_contract": contract.to_yaml(),
    }
    (data / METADATA_FILE).write_text(json.dumps(metadata))
    return count


def read(path: Path, contract: Contract) -> Iterator[Episode]:
    """The episodes of a data set, as the contract has them.

    Stamps are made up, a control period apart, where there are none; so is the outcome, `success` being unknown.

    Raises:
        UserError: h5py is not installed, there is no such data set, or something that the contract names is missing
            or of another shape.
    """
    h5py = library("h5py", "h5py")
    data = path / "data" if (path / "data").is_dir() else path
    if not (data / MAIN_FILE).is_file():
        raise UserError(f"{path}: expected a Minari data set, with data/{MAIN_FILE} in it.")
    try:
        with h5py.File(data / MAIN_FILE, "r") as file:
            numbers = sorted(int(name.removeprefix("episode_")) for name in file if name.startswith("episode_"))
            for number in numbers:
                yield _episode(file[f"episode_{number}"], contract, f"{path}: episode_{number}")
    except OSError as error:
        raise UserError(f"{data / MAIN_FILE}: not an HDF5 file, or a damaged one.") from error


def _episode(group: Any, contract: Contract, source: str) -> Episode:
    def column(name: str, rows: int | None, shape: tuple[int, ...]) -> np.ndarray:
        if name not in group:
            raise UserError(f"{source}: holds no {name}, which contract {contract.name} needs.")
        array: np.ndarray = group[name][()]
        if array.shape != (rows or len(array), *shape):
            raise UserError(f"{source}: {name} has shape {list(array.shape)}, expected {[rows or 'ticks', *shape]}.")
        return array

    transitions = len(column("rewards", None, ()))
    if not transitions:
        raise UserError(f"{source}: holds no transition.")
    ticks = transitions + 1
    terminated = column("terminations", transitions, ())
    infos = group.get("infos", {})
    made_up = np.arange(1, ticks + 1, dtype=np.int64) * contract.period_ns
    return whole(
        stamps=infos["stamp"][()] if "stamp" in infos else made_up,
        observation={
            name: column(f"observations/{name}", ticks, key.shape).astype(key.dtype, copy=False)
            for name, key in contract.observation.items()
        },
        auxiliary={
            name: column(f"infos/{name}", ticks, key.shape).astype(key.dtype, copy=False)
            for name, key in contract.auxiliary.items()
        },
        desired_goal=column(f"observations/{GOAL}", ticks, contract.goal.desired_goal.shape),
        action=column("actions", transitions, contract.action_low.shape),
        reward=column("rewards", transitions, ()),
        terminated=terminated,
        truncated=column("truncations", transitions, ()),
        outcome=str(group.attrs.get("outcome", "terminated" if terminated[-1] else "timeout")),
        seed=int(group.attrs.get("seed", 0)),
        source=source,
    )


def _box(shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    low, high = (0, 255) if dtype == "uint8" else (-np.inf, np.inf)
    return {
        "type": "Box",
        "dtype": dtype,
        "shape": list(shape),
        "low": np.full(shape, low).tolist(),
        "high": np.full(shape, high).tolist(),
    }
