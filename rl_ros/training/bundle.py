"""What a policy is on disk: a directory, and nothing in it is ever unpickled.

- `policy.onnx`: what the robot runs, with onnxruntime. Its inputs are one observation exactly as the contract
  describes it (raw pixels, metres) and, where the policy sees goals, `desired_goal`; its output is the action in the
  contract's units. Normalisation is inside the graph, so there is none to get wrong outside.
- `weights.safetensors`: every tensor that training resumes from.
- `sample.safetensors`: one observation, and what torch answered to it when the policy was exported. Whoever loads the
  policy gives it the same observation and expects the same answer.
- `bundle.json`: contract, algorithm, configuration, normalisation, versions, metrics, source episodes, and the
  SHA-256 of the other three;
- `encoder/`, where goals are images: the image encoder whose latents the policy was trained on, named in `bundle.json`
  by its SHA-256. With another one the policy refuses to run.

Only saving needs torch; a robot that loads bundles does not have it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

from rl_ros import __version__
from rl_ros.contract import Contract, difference
from rl_ros.errors import UserError
from rl_ros.networks.image_encoder import ImageEncoder, load_encoder
from rl_ros.networks.onnx_file import onnx_of, session_of
from rl_ros.networks.stored import read_directory, write_directory

if TYPE_CHECKING:
    import torch

    from rl_ros.algorithms.base import Algorithm

FORMAT = 1
IMAGE_ENCODER = "encoder"
POLICY, WEIGHTS, DESCRIPTION = "policy.onnx", "weights.safetensors", "bundle.json"
SAMPLE = "sample.safetensors"
ANSWERS = "action"
"""Name of torch's answers among the tensors of the sample, (n, A): several where it found them equally good."""
DESIRED_GOAL = "desired_goal"
"""Name of the goal among the inputs of `policy.onnx`."""
_DESCRIBED: dict[str, type] = {
    "contract": dict, "algorithm": str, "configuration": dict, "normalisation": dict, "versions": dict,
    "metrics": dict, "source_episodes": list, "encoder": str,
}  # fmt: skip
TOLERANCE = 1e-5
"""Largest difference between ONNX and torch that may be exported, as a share of each action's range."""

Statistics = Mapping[str, Mapping[str, Sequence[float]]]
"""For each normalised input its `mean` and `std`."""


class OnnxPolicy:
    """A policy as the robot runs it: one observation in, one action out, on one thread.

    Deterministic: the same observation gives the same bits.
    """

    def __init__(self, model: bytes, contract: Contract, source: str = POLICY) -> None:
        self.contract = contract
        keys = {**contract.observation, DESIRED_GOAL: contract.goal.desired_goal}
        inputs = {name: (key.dtype, key.shape) for name, key in keys.items()}
        self._session = session_of(model, source, inputs, [len(contract.action_low)])
        self._inputs = tuple(entry.name for entry in self._session.get_inputs())

    def act(self, observation: Mapping[str, np.ndarray], desired_goal: np.ndarray) -> np.ndarray:
        """The action for one observation.

        Args:
            observation: by contract key, unbatched, in the contract's shapes and dtypes; more keys do no harm.
            desired_goal: float32 (G,); ignored by a policy that does not see goals.

        Returns:
            float32 (A,) in the contract's units and within its limits. A NaN that goes in may come out: whoever moves
            an arm checks.
        """
        values = {name: desired_goal if name == DESIRED_GOAL else observation[name] for name in self._inputs}
        action: np.ndarray = self._session.run(None, values)[0]
        return action


@dataclass(frozen=True)
class Bundle:
    """A policy bundle, verified. Made by `load_bundle`."""

    directory: Path
    contract: Contract
    algorithm: str
    configuration: dict[str, Any]
    normalisation: dict[str, dict[str, list[float]]]
    versions: dict[str, str]
    metrics: dict[str, float]
    source_episodes: tuple[str, ...]
    model: bytes
    """`policy.onnx`."""
    weights: bytes
    """`weights.safetensors`."""
    sample: bytes | None
    """`sample.safetensors`; None in a bundle that was made before there were any."""
    encoder: str = ""
    """SHA-256 of the image encoder whose latents the policy needs; empty where it needs none."""

    def require(self, contract: Contract) -> None:
        """Refuse to run, or to train on, under another contract than the bundle's.

        Raises:
            UserError: they differ; the sentence names the field.
        """
        if found := difference(self.contract, contract):
            raise UserError(f"{self.directory}: this policy was trained under another contract: {found}.")

    @property
    def learned_from(self) -> list[Path]:
        """The bags of `source_episodes`, absolute.

        Bundles of before have them as they were typed: what is relative is taken to be of the working directory.
        """
        return [Path(source).resolve() for source in self.source_episodes]

    def image_encoder(self) -> ImageEncoder:
        """The image encoder that the policy was trained with, from the bundle.

        Raises:
            UserError: the bundle holds none, or another than it names.
        """
        if not self.encoder:
            raise UserError(f"{self.directory}: this policy sees no latents, so it has no image encoder.")
        found = load_encoder(self.directory / IMAGE_ENCODER)
        if found.sha256 != self.encoder:
            raise UserError(
                f"{found.directory}: another image encoder ({found.sha256[:16]}) than the policy was trained with "
                f"({self.encoder[:16]}); copy the bundle again."
            )
        return found

    def policy(self) -> OnnxPolicy:
        """The policy, ready to run; it has answered the sample of the bundle, and so is warm.

        Raises:
            UserError: it cannot be run, or does not answer the sample as it did when it was exported.
        """
        policy = OnnxPolicy(self.model, self.contract, str(self.directory / POLICY))
        if self.sample is not None:
            self._compare(policy, self.sample)
        return policy

    def _compare(self, policy: OnnxPolicy, sample: bytes) -> None:
        where = self.directory / SAMPLE
        try:
            values = safetensors.numpy.load(sample)
            answers = values.pop(ANSWERS)
            action = policy.act(values, values.pop(DESIRED_GOAL))
            error = _difference(action, answers, self.contract)
        except Exception as problem:  # noqa: BLE001  (onnxruntime's have no common base)
            raise UserError(f"{where}: the policy cannot answer its own sample: {problem}.") from problem
        if not error <= TOLERANCE:
            raise UserError(
                f"{where}: the policy does not answer as it did when it was exported: another action by {error:.1e} of "
                f"its range, allowed are {TOLERANCE:.0e}; export the bundle again, or compare versions of onnxruntime."
            )

    def state(self) -> dict[str, np.ndarray]:
        """The tensors that training resumes from, by name.

        Raises:
            UserError: the weights are damaged.
        """
        try:
            tensors: dict[str, np.ndarray] = safetensors.numpy.load(self.weights)
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise UserError(f"{self.directory / WEIGHTS}: damaged: {str(error)[:200]}; train it again.") from error
        return tensors


def load_bundle(directory: str | Path) -> Bundle:
    """Read a bundle and verify that each of its files is the one that was saved.

    Raises:
        UserError: the directory or a file in it is missing or damaged, or of a format this version does not read.
    """
    directory = Path(directory)
    data, files = read_directory(directory, DESCRIPTION, (POLICY, WEIGHTS), FORMAT, "policy bundle", (SAMPLE,))
    for name, kind in _DESCRIBED.items():
        if name in data and not isinstance(data[name], kind):
            raise UserError(f"{directory / DESCRIPTION}: damaged ({name} is no {kind.__name__}); train it again.")
    try:
        return Bundle(
            directory=directory,
            contract=Contract.from_dict(data["contract"], f"{directory / DESCRIPTION}: contract"),
            algorithm=data["algorithm"],
            configuration=data["configuration"],
            normalisation=data["normalisation"],
            versions=data["versions"],
            metrics=data["metrics"],
            source_episodes=tuple(str(source) for source in data["source_episodes"]),
            model=files[POLICY],
            weights=files[WEIGHTS],
            sample=files.get(SAMPLE),
            encoder=data.get("encoder", ""),
        )
    except KeyError as error:
        raise UserError(f"{directory / DESCRIPTION}: damaged ({error} is missing); train the bundle again.") from error


def save_bundle(
    directory: str | Path,
    *,
    contract: Contract,
    algorithm_name: str,
    configuration: Mapping[str, Any],
    policy_module: torch.nn.Module,
    state_tensors: Mapping[str, torch.Tensor],
    normalisation: Statistics,
    metrics: Mapping[str, float],
    source_episodes: Sequence[str],
    encoder: ImageEncoder | None = None,
) -> Path:
    """Export a policy and what made it; an older bundle of that name is replaced, and none is ever half there.

    Args:
        directory: where the bundle will be.
        policy_module: called as `policy_module(observation, desired_goal)` with batches as the contract describes
            them (raw pixels, metres), it gives actions (batch, A) in the contract's units.
        state_tensors: all that training resumes from, by name.
        configuration, normalisation, metrics: plain data, kept in `bundle.json`.
        source_episodes: the bags that the policy was trained on.
        encoder: the image encoder that its latents are of; the bundle gets a copy.

    Raises:
        UserError: ONNX and torch disagree by more than `TOLERANCE`, or the policy's actions are not finite.
    """
    directory = Path(directory)
    model = _export(policy_module, contract)
    sample = _check(model, policy_module, contract, normalisation)
    tensors = {name: np.ascontiguousarray(tensor.detach().cpu().numpy()) for name, tensor in state_tensors.items()}
    files = {POLICY: model, WEIGHTS: safetensors.numpy.save(tensors), SAMPLE: safetensors.numpy.save(sample)}
    description = {
        "format": FORMAT,
        "algorithm": algorithm_name,
        "contract": contract.to_dict(),
        "configuration": dict(configuration),
        "normalisation": {name: dict(entry) for name, entry in normalisation.items()},
        "metrics": dict(metrics),
        "source_episodes": list(source_episodes),
        "versions": {"rl_ros": __version__} | {name: metadata.version(name) for name in ("torch", "onnxruntime")},
        **({"encoder": encoder.sha256} if encoder is not None else {}),
    }
    copied = {IMAGE_ENCODER: encoder.directory} if encoder is not None else {}
    write_directory(directory, DESCRIPTION, description, files, copied)
    return directory


def save_learner(
    directory: str | Path,
    learner: Algorithm,
    metrics: Mapping[str, float] | None = None,
    source_episodes: Sequence[str] = (),
    encoder: ImageEncoder | None = None,
    policy_alone: bool = False,
) -> Path:
    """`save_bundle` of what an algorithm has learned.

    Args:
        directory, metrics, source_episodes, encoder: as there.
        learner: whose policy is exported.
        policy_alone: whether the weights are the policy's only, so that the bundle stays small, and training goes on
            from a checkpoint instead.

    Raises:
        UserError: as `save_bundle`.
    """
    from rl_ros.algorithms.base import plain_config

    on_cpu = learner.policy if learner.device.type == "cpu" else copy.deepcopy(learner.policy).cpu()
    policy = {f"networks.policy.{name}": tensor for name, tensor in on_cpu.state_dict().items()}
    return save_bundle(
        directory,
        contract=learner.contract,
        algorithm_name=learner.name,
        configuration={"seed": learner.seed, **plain_config(learner.config)},
        policy_module=on_cpu,
        state_tensors=policy if policy_alone else learner.state_dict(),
        normalisation={
            name: {key: list(values) for key, values in entry.items()} for name, entry in learner.normalisation.items()
        },
        metrics=metrics or {},
        source_episodes=source_episodes,
        encoder=encoder,
    )


def _export(policy_module: torch.nn.Module, contract: Contract) -> bytes:
    """The policy as an ONNX graph over one unbatched observation."""
    import torch

    class SingleObservation(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy = policy_module

        def forward(self, *values: torch.Tensor) -> torch.Tensor:
            *observation, goal = [value[None] for value in values]
            action: torch.Tensor = self.policy(dict(zip(contract.observation, observation, strict=True)), goal)
            return action[0]

    example = {
        name: torch.zeros(key.shape, dtype=getattr(torch, key.dtype)) for name, key in contract.observation.items()
    }
    example[DESIRED_GOAL] = torch.zeros(contract.goal.desired_goal.shape)
    return onnx_of(SingleObservation(), example, "action")


def _check(
    model: bytes, policy_module: torch.nn.Module, contract: Contract, normalisation: Statistics
) -> dict[str, np.ndarray]:
    """Refuse a graph that does not compute what the policy computes, on random observations like those of training.

    Returns:
        The first of them, with what torch answered: the bundle's sample.
    """
    import torch

    sample: dict[str, np.ndarray] = {}

    generator = np.random.default_rng(0)
    policy = OnnxPolicy(model, contract)
    keys = contract.observation | {DESIRED_GOAL: contract.goal.desired_goal}
    for _ in range(16):
        values = {}
        for name, key in keys.items():
            if key.dtype == "uint8":
                values[name] = generator.integers(0, 256, key.shape, np.uint8)
            else:
                entry = normalisation.get(name, {"mean": [0.0], "std": [1.0]})
                noise = generator.normal(size=key.shape).reshape(-1) * np.asarray(entry["std"])
                values[name] = (np.asarray(entry["mean"]) + noise).reshape(key.shape).astype(key.dtype)
        batch = {name: torch.from_numpy(value[None]) for name, value in values.items()}
        goal = batch.pop(DESIRED_GOAL)
        with torch.no_grad():
            # A policy that chooses among candidates may find several equally good, to the last digits of a value.
            expected = getattr(policy_module, "equally_good", policy_module)(batch, goal).numpy()
        action = policy.act(values, values[DESIRED_GOAL])
        if not np.isfinite(expected).all():
            raise UserError("the trained policy gives actions that are not finite; train with a smaller learning_rate.")
        error = _difference(action, expected, contract)
        if not error <= TOLERANCE:
            raise UserError(
                f"the exported policy differs from the trained one by {error:.1e} of the action's range, more than "
                f"{TOLERANCE:.0e}; no bundle was written."
            )
        if not sample:
            sample = values | {ANSWERS: np.ascontiguousarray(expected, np.float32)}
    return sample


def _difference(action: np.ndarray, answers: np.ndarray, contract: Contract) -> float:
    """How far an action (A,) is from the nearest of the answers (n, A), as a share of each action's range."""
    share = np.abs(action - answers) / (contract.action_high - contract.action_low)
    return float(np.min(np.max(share, axis=1)))
