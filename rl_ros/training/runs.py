"""What a run directory holds, and how to come from it to the policy and the recordings that it was trained on.

- `metrics.csv` (or `progress.csv` of a run that learned online): a row of figures every so many updates;
- `bundle/`: the policy;
- `data.json`: which recordings were read, and how.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl_ros import schema
from rl_ros.algorithms.base import Algorithm, make_algorithm
from rl_ros.episodes.bags import find_bags
from rl_ros.episodes.cache import cache_beside, load_columns
from rl_ros.episodes.ingest import Cuts
from rl_ros.episodes.memory import ReplayMemory
from rl_ros.episodes.relabel import read_layer
from rl_ros.errors import UserError
from rl_ros.training.bundle import Bundle, load_bundle
from rl_ros.training.offline import split_episodes

DATA = "data.json"
METRICS = ("metrics.csv", "progress.csv")


@dataclass(frozen=True)
class DataSource:
    """Which recordings a run was trained on, and how they were read."""

    bags: str
    task: str = ""
    """The layer of rewards, if it is not the recorded one."""
    split_on: str = ""
    split_at: tuple[float, ...] = ()
    cache: str = ""
    """Directory of the decoded bags; beside them if empty."""
    held_out: float = 0.0
    """Share of the episodes that training left out."""
    actors: tuple[str, ...] = ()
    """Whose actions were learned from; everybody's if empty."""

    def read(self, bundle: Bundle) -> tuple[ReplayMemory, list[Path]]:
        """The episodes under the bundle's contract, and the bag that each is from, absolute.

        Where goals are images, latents are those of the bundle's encoder, whatever the bags' images were encoded by.

        Raises:
            UserError: there are no such bags, or none of them can be used.
        """
        bags, contract = Path(self.bags), bundle.contract
        paths = find_bags(bags)
        cache = Path(self.cache) if self.cache else cache_beside(bags, paths)
        read_by = contract.without_latent() if contract.goal.image else contract
        dataset = load_columns(paths, read_by, cache, Cuts(self.split_on, self.split_at))
        if self.task:
            dataset = read_layer(dataset, self.task).over(dataset)
        if self.actors:
            dataset = dataset.of_actors(self.actors)
        columns = dataset.columns
        if contract.goal.image:
            from rl_ros.training.rig import columns_of_latents  # which brings the simulation with it

            columns = columns_of_latents(columns, contract, bundle.image_encoder())
        memory = ReplayMemory(columns, achieved_goal=contract.goal.achieved_goal or None)
        return memory, [Path(episode.source).resolve() for episode in dataset.episodes]


def write_source(run: Path, source: DataSource) -> None:
    """Note in the run directory which recordings it is trained on; paths are made absolute."""
    run.mkdir(parents=True, exist_ok=True)
    absolute = replace(
        source,
        bags=str(Path(source.bags).resolve()),
        cache=str(Path(source.cache).resolve()) if source.cache else "",
    )
    (run / DATA).write_text(json.dumps(asdict(absolute), indent=1) + "\n")


def read_source(run: Path, bags: Path | None = None) -> DataSource | None:
    """What `write_source` noted; None if the run has no such note.

    Args:
        bags: read these instead, as the run's own were read.

    Raises:
        UserError: the file is damaged.
    """
    file = run / DATA
    if not file.is_file():
        return DataSource(str(bags)) if bags is not None else None
    try:
        data = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file}: damaged; delete it and name the recordings with --bags.") from error
    source: DataSource = schema.convert(DataSource, data, str(file))
    return source if bags is None else replace(source, bags=str(bags))


def metrics_file(run: Path) -> Path:
    """The CSV of a run.

    Raises:
        UserError: there is none.
    """
    for name in METRICS:
        if (run / name).is_file():
            return run / name
    raise UserError(f"{run}: holds no {METRICS[0]}, so it is no run; `rl_ros train` makes one.")


def configured(
    bundle: Bundle, seed: int = 0, overrides: Mapping[str, Any] | None = None, device: str = "cpu"
) -> Algorithm:
    """The algorithm of a bundle with its settings and fresh weights.

    Args:
        seed: of the weights.
        overrides: settings other than the bundle's.
        device: where it is to learn.
    """
    settings = {name: value for name, value in bundle.configuration.items() if name != "seed"}
    settings |= overrides or {}
    return make_algorithm(
        bundle.algorithm, bundle.contract, bundle.normalisation, seed=seed, overrides=settings, device=device
    )


def restore(bundle: Bundle) -> Algorithm:
    """The algorithm of a bundle with its weights, as it was at the end of training.

    The bundle of a run that learned online holds the policy alone; other networks are then not there.
    """
    learner = configured(bundle)
    state = bundle.state()
    if "updates" in state:
        learner.load_state_dict(state)
    else:
        prefix = "networks.policy."
        weights = {name.removeprefix(prefix): torch.from_numpy(array) for name, array in state.items()}
        learner.policy.load_state_dict(weights)
        learner.networks = torch.nn.ModuleDict({"policy": learner.policy})
    return learner


def held_out_rows(run: Path, bags: Path | None) -> tuple[Bundle, ReplayMemory, np.ndarray]:
    """A run's policy, and the transitions of episodes that it has not learned from.

    Args:
        run: its directory.
        bags: other recordings; those among them that the run was trained on are left out. Without, the episodes that
            training held out.

    Returns:
        The bundle, the memory and the rows in it, int64 (transitions,).

    Raises:
        UserError: there are no such episodes, or the recordings are not what they were.
    """
    bundle, source = load_bundle(run / "bundle"), read_source(run, bags)
    if source is None:
        raise UserError(f"{run}: holds no {DATA}, which says what it was trained on; name recordings with --bags.")
    memory, found = source.read(bundle)
    known = bundle.learned_from
    if bags is not None:
        learned = set(known)
        new = np.array([bag not in learned for bag in found])
        rows = memory.transitions[new[memory.episode[memory.transitions]]]
        if not len(rows):
            raise UserError(f"{bags}: the run was trained on all of these recordings; name others with --bags.")
        return bundle, memory, rows
    if found != known:
        raise UserError(
            f"{source.bags}: holds {len(found)} episodes that are not the {len(known)} of training, so which of them "
            "were held out is not known any more; name new recordings with --bags."
        )
    rng = np.random.default_rng(bundle.configuration["seed"])
    rows = split_episodes(memory, rng, source.held_out)[1]
    if not len(rows):
        raise UserError(
            f"{run}: training held no episode out; train with --held-out 0.2, or name new recordings with --bags."
        )
    return bundle, memory, rows
