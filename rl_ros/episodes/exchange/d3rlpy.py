"""d3rlpy's MDPDataset: the HDF5 file that `d3rlpy.dataset.ReplayBuffer.load` and its `dump` share, version 2.1.

All vectors are joined into one, with the desired goal last where the policy sees it, so that a data set without images
is a plain array of states. With images, which d3rlpy wants with the channels first, an observation is a tuple of them
and that vector.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rl_ros.contract import IMAGES, Contract
from rl_ros.episodes.exchange.pieces import library, pieces
from rl_ros.episodes.memory import Episode
from rl_ros.errors import UserError

VERSION = "2.1"
"""Of d3rlpy's files, `d3rlpy/dataset/io.py`."""


def write(episodes: Iterable[Episode], contract: Contract, out: Path) -> int:
    """Write a file; returns the number of episodes in it.

    An episode that was truncated keeps its last tick, which d3rlpy uses as the next
    observation only.

    Raises:
        UserError: h5py is not installed, or there is such a file.
    """
    h5py = library("h5py", "h5py")
    if out.exists():
        raise UserError(f"{out}: there is such a file already; give the name of a new one.")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.touch()  # where nothing can be written, h5py would not say which file
    count = 0
    with h5py.File(out, "w") as file:
        for piece in pieces(episodes):
            terminated = bool(piece.terminated[-2])
            rows = len(piece.stamps) - terminated
            observations = _observations(piece, contract)
            if len(observations) == 1:
                file[f"observations_{count}"] = observations[0][:rows]
            else:
                for index, array in enumerate(observations):
                    file[f"observations_{count}_{index}"] = array[:rows]
            file[f"actions_{count}"] = piece.action[:rows]
            file[f"rewards_{count}"] = piece.reward[:rows, None]
            file[f"terminated_{count}"] = terminated
            count += 1
        file["columns"] = ["observations", "actions", "rewards", "terminated"]
        file["num_episodes"] = count
        file["version"] = VERSION
    return count


def _observations(piece: Episode, contract: Contract) -> list[np.ndarray]:
    images = [np.moveaxis(piece.observation[n], -1, 1) for n, key in contract.observation.items() if key.type in IMAGES]
    vectors = [
        piece.observation[n].reshape(len(piece.stamps), -1)
        for n, key in contract.observation.items()
        if key.type not in IMAGES
    ]
    if contract.goal.policy_input:
        vectors.append(piece.desired_goal)
    return [*images, *([np.concatenate(vectors, axis=1).astype(np.float32)] if vectors else [])]
