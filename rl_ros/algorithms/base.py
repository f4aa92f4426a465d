"""What the algorithms share: one configuration, one recipe around their losses, one registry.

An algorithm says what its networks are and what its loss is. Everything else is the recipe, the same for all, so that
a comparison compares ideas: shifted images, the auxiliary loss on image features, AdamW with warm-up and a cosine to
zero, a running mean of the policy's weights, which is what is exported. Algorithms that learn online, without an end
in sight, have a constant learning rate and export the weights as they are.
"""

from __future__ import annotations

import copy
import importlib
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from rl_ros import schema
from rl_ros.algorithms.gpu import CapturedSteps, require_device
from rl_ros.contract import Contract
from rl_ros.episodes.hindsight import Hindsight
from rl_ros.episodes.memory import Batch, ReplayMemory
from rl_ros.errors import UserError
from rl_ros.networks.critics import StackedCritic
from rl_ros.networks.layers import DESIRED_GOAL, Normalisation, Standardise, move_towards, shift_images
from rl_ros.networks.policies import Policy

ALGORITHMS: dict[str, str] = {
    "awac": "rl_ros.algorithms.awac:AdvantageWeightedActorCritic",
    "awr": "rl_ros.algorithms.awr:AdvantageWeightedRegression",
    "bc": "rl_ros.algorithms.bc:BehaviourCloning",
    "bcq": "rl_ros.algorithms.bcq:BatchConstrainedQLearning",
    "bear": "rl_ros.algorithms.bear:BEAR",
    "brac": "rl_ros.algorithms.brac:BRAC",
    "cal_ql": "rl_ros.algorithms.cal_ql:CalibratedQLearning",
    "cql": "rl_ros.algorithms.cql:ConservativeQLearning",
    "crr": "rl_ros.algorithms.crr:CriticRegularisedRegression",
    "ddpg": "rl_ros.algorithms.ddpg:DeterministicPolicyGradient",
    "gcbc": "rl_ros.algorithms.gcsl:GoalConditionedCloning",
    "gciql": "rl_ros.algorithms.gciql:GoalConditionedIQL",
    "gcivl": "rl_ros.algorithms.gcivl:GoalConditionedIVL",
    "gcsl": "rl_ros.algorithms.gcsl:GoalConditionedSupervisedLearning",
    "hiql": "rl_ros.algorithms.hiql:HierarchicalIQL",
    "iql": "rl_ros.algorithms.iql:ImplicitQLearning",
    "latent_plans": "rl_ros.algorithms.latent_plans:LatentPlans",
    "qt_opt": "rl_ros.algorithms.qt_opt:QTOpt",
    "rebrac": "rl_ros.algorithms.rebrac:ReBRAC",
    "rem": "rl_ros.algorithms.rem:RandomEnsembleMixture",
    "rig": "rl_ros.algorithms.rig:ImaginedGoals",
    "rig_sac": "rl_ros.algorithms.rig:SoftImaginedGoals",
    "sac": "rl_ros.algorithms.sac:SoftActorCritic",
    "td3": "rl_ros.algorithms.td3:TwinDelayed",
    "td3_bc": "rl_ros.algorithms.td3_bc:TD3PlusBehaviourCloning",
    "wgcsl": "rl_ros.algorithms.wgcsl:WeightedGCSL",
}
"""Every algorithm, by the name that `rl_ros train` takes: module and class."""
SMALLEST_STD = 1e-3
"""No vector's standard deviation counts for less: what hardly varies in a data set is mostly noise, and divided by less
it would drown all else as soon as it moves. It is what TD3+BC adds to each (2106.06860)."""
WARM_UP_UPDATES = 500
"""Updates over which the learning rate rises to its value where training has no end."""
GENERATOR_BYTES = 5056, 16
"""Of the state of a generator of random numbers on the CPU, and on a GPU: what tells a checkpoint of the other kind."""

ABOVE_ZERO = ("learning_rate", "batch_size", "average_rate", "hidden_size", "image_features", "action_std")
FROM_ZERO = ("weight_decay", "warm_up", "hidden_layers", "vector_limit", "image_shift", "auxiliary_weight")
AT_MOST_ONE = ("warm_up", "average_rate")
"""Bounds of the settings of every algorithm."""


@dataclass(frozen=True)
class Config:
    """Settings that every algorithm has."""

    learning_rate: float = 3e-3
    """Of AdamW, after the warm-up."""
    weight_decay: float = 1e-2
    """Share of each weight that AdamW takes away at each update, times the learning rate."""
    batch_size: int = 64
    """Transitions an update."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Whether the learning rate warms up and then falls to 0 along a cosine, or never changes."""
    warm_up: float = 0.03
    """Share of training over which the learning rate rises to its value; it then falls to 0 along a cosine."""
    average_rate: float = 0.005
    """Share of the way that the exported policy moves to the trained one at each update; 1 exports the trained one."""
    hidden_size: int = 256
    """Width of the hidden layers."""
    hidden_layers: int = 2
    """How many of them, in every network."""
    critic_layer_norm: bool = True
    """Whether each hidden layer of the critics is followed by a LayerNorm."""
    policy_layer_norm: bool = False
    """The same for the policy."""
    vector_limit: float = 0.0
    """Standardised observations and goals are clipped to ± this; 0 leaves them as they are."""
    image_features: int = 128
    """Numbers that an image becomes."""
    image_shift: int = 1
    """Pixels by which training moves images, at most."""
    auxiliary_weight: float = 30.0
    """Of the loss that asks image features for the contract's auxiliary values; 0 turns it off. Grasping depends on it
    more than on any other setting: where the object is must be known to a few millimetres."""
    action_std: float = 0.2
    """Standard deviation of the policy's continuous actions, where half of their range is 1."""
    compile: bool = False
    """Compile the loss with torch's inductor. Takes up to a minute at the beginning, needs a C++ compiler, and pays
    where small operations outweigh matrix products (IQL). The arithmetic is the same to rounding, but not to the bit.
    """

    def __post_init__(self) -> None:
        for name in (*ABOVE_ZERO, *FROM_ZERO):
            value, most = getattr(self, name), 1.0 if name in AT_MOST_ONE else sys.float_info.max
            if not 0 <= value <= most or (name in ABOVE_ZERO and value == 0):
                low = "above 0" if name in ABOVE_ZERO else "of at least 0"
                high = " and at most 1" if name in AT_MOST_ONE else ""
                raise ValueError(f"{name}: expected a finite number {low}{high}, got {value}.")


@dataclass(frozen=True)
class Transitions:
    """A batch as tensors, actions scaled to -1..1; otherwise as in `rl_ros.episodes.memory.Batch`."""

    observation: dict[str, Tensor]
    next_observation: dict[str, Tensor]
    auxiliary: dict[str, Tensor]
    desired_goal: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    steps: Tensor
    """float32 (batch,): ticks that `reward` adds up and `next_observation` lies ahead; 1 unless returns are of n
    steps."""
    demonstration: Tensor
    """float32 (batch,): 1 where a demonstrator acted."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """What the algorithm's own `batches` added, each (batch, *shape)."""


class Algorithm(ABC):
    """Learns a policy from batches of transitions.

    An algorithm defines `build`, its networks by name, and `loss`, one scalar that an update descends. Parts of the
    loss that share no weights can be added; a part that is left out of some updates (a delayed policy: ask
    `self.updates`) leaves its networks as they are, moments of the optimiser included. A loss that looks through a
    network which it must not train uses `rl_ros.networks.layers.frozen`.

    Args:
        contract: what the data mean.
        normalisation: of `dataset_statistics`.
        config: an instance of `config_type`.
        seed: of the initial weights and the image shifts. The weights are the same on every device.
        device: where to learn. On a GPU updates are recorded and launched as CUDA graphs, so that a loss may neither
            look at numbers there nor make tensors from Python's.
    """

    name: ClassVar[str]
    config_type: ClassVar[type[Config]]
    policy_type: ClassVar[type[Policy]] = Policy
    uses_returns: ClassVar[bool] = False
    """Whether it learns from the returns of whole episodes, which nobody knows for goals of hindsight."""
    relabels: ClassVar[bool] = False
    """Whether its own `batches` ask for goals that were achieved, whatever `hindsight` is."""

    def __init__(
        self, contract: Contract, normalisation: Normalisation, config: Config, seed: int, device: str = "cpu"
    ) -> None:
        self.contract, self.normalisation, self.config, self.seed = contract, normalisation, config, seed
        self.device = torch.device(device)
        self.auxiliary_scale = nn.ModuleDict()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.networks = nn.ModuleDict(self.build()).to(self.device)
        self.auxiliary_scale.to(self.device)
        self.trained_policy = cast(Policy, self.networks["policy"])
        self.policy: Policy = self.trained_policy
        """The policy to export: the running mean of `networks["policy"]`, or that itself."""
        if config.average_rate < 1.0:
            self.policy = copy.deepcopy(self.trained_policy).requires_grad_(False)
        self.hindsight: Hindsight | None = None
        """How `batches` replaces goals; None leaves them as they were."""
        self.updates = 0
        self.judging = False
        """Whether a batch is only looked at: all parts of the loss are then asked for, those of other updates too."""
        self._parameters = {n: p for n, p in self.networks.named_parameters() if p.requires_grad}
        on_gpu = self.device.type == "cuda"
        self._optimiser = torch.optim.AdamW(
            self._groups(), weight_decay=config.weight_decay, fused=True, capturable=on_gpu
        )
        self._generator = torch.Generator(self.device).manual_seed(seed)
        if config.compile:
            self._total_loss = torch.compile(self._total_loss)  # type: ignore[method-assign]
        self._captured = CapturedSteps(self._step, self._generator) if on_gpu else None
        self.schedule(0.0)

    def build(self) -> dict[str, nn.Module]:
        """The networks, by name: `policy`, and `auxiliary` where there is something for it to learn."""
        config = self.config
        policy = self.policy_type(
            self.contract,
            self.normalisation,
            config.hidden_size,
            config.image_features,
            config.hidden_layers,
            config.policy_layer_norm,
            config.vector_limit,
        )
        networks: dict[str, nn.Module] = {"policy": policy}
        if policy.encoder.image_size and self.contract.auxiliary and self.config.auxiliary_weight > 0:
            self.auxiliary_scale = nn.ModuleDict(
                {name: Standardise(self.normalisation[name]) for name in self.contract.auxiliary}
            )
            size = sum(math.prod(key.shape) for key in self.contract.auxiliary.values())
            networks["auxiliary"] = nn.Linear(policy.encoder.image_size, size)
        return networks

    def critic(self, count: int, inputs: int) -> StackedCritic:
        """Critics, or value functions, of the configured size."""
        config = self.config
        return StackedCritic(count, inputs, config.hidden_size, config.hidden_layers, config.critic_layer_norm)

    def learning_rates(self) -> dict[str, float]:
        """The learning rate of each network by its name in `networks`."""
        return {name: self.config.learning_rate for name in self.networks}

    def batches(self, memory: ReplayMemory, rows: np.ndarray, rng: np.random.Generator) -> Iterator[Batch]:
        """What updates learn from: the transitions that begin at `rows`, relabelled where there is hindsight.

        An algorithm that needs more of the recordings (a goal for each network, a window of ticks) overrides this,
        and may give batches of a type of its own to its own `update`.

        Args:
            rows: int64 (updates, batch); all random numbers are drawn for the whole block at once.
            rng: of goals.
        """
        if self.hindsight is None:
            yield from map(memory.take, rows)
            return
        goal_rows = self.hindsight.goal_rows(rng, memory, rows)
        for begin, goals in zip(rows, goal_rows, strict=True):
            yield self.hindsight.relabel(memory, begin, goals, rng)

    @property
    def sees_achieved(self) -> bool:
        """Whether goals that were achieved are among those that it learns from."""
        return self.relabels or self.hindsight is not None

    @abstractmethod
    def loss(self, batch: Transitions, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar that an update descends, and the metrics to report; `features` are those of the observation."""

    def after_update(self) -> None:  # noqa: B027 (most have nothing to do here)
        """What follows each update, such as moving target networks."""

    def phase(self) -> Hashable:
        """Which way through `loss` the update at hand takes, where that depends on `updates`."""
        return None

    @torch.no_grad()
    def explore(self, observation: Mapping[str, Tensor], desired_goal: Tensor) -> Tensor:
        """The action to collect experience with, as `Policy.forward`; by default the policy's own."""
        return self.trained_policy(observation, desired_goal)

    @torch.no_grad()
    def act(
        self, observation: Mapping[str, np.ndarray], desired_goal: np.ndarray, *, exploring: bool = False
    ) -> np.ndarray:
        """Actions float32 (n, A) in the contract's units: of the policy to export, or to collect experience with.

        Args:
            observation: by contract key, (n, *shape), raw.
            desired_goal: float32 (n, G), raw.
        """
        seen, goal = self._tensors(observation, shift=0), self._tensor(desired_goal)
        with self._placed():
            action = self.explore(seen, goal) if exploring else self.policy(seen, goal)
        return action.cpu().numpy()

    def normalise(self, normalisation: Normalisation) -> None:
        """Use other statistics from now on, as learning online finds them."""
        self.normalisation = {**self.normalisation, **normalisation}
        for encoder in {self.trained_policy.encoder, self.policy.encoder}:
            for name, standardise in encoder.vectors.items():
                cast(Standardise, standardise).set(self.normalisation[name])

    def schedule(self, fraction: float) -> None:
        """Set the learning rate for a point in training, from 0 (begin) to 1 (end)."""
        if self.config.schedule == "constant":
            return
        warm = min(1.0, (fraction + 1e-4) / self.config.warm_up) if self.config.warm_up > 0 else 1.0
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(fraction, 1.0)))
        for group in self._optimiser.param_groups:
            rate = group["initial_lr"] * warm * cosine
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def warm_up(self, updates: int) -> None:
        """Set the learning rate of training without an end to decay towards, after so many updates of it.

        It rises over `WARM_UP_UPDATES`, and stays there.
        """
        self.schedule(self.config.warm_up * min(1.0, updates / WARM_UP_UPDATES))

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Learn from one batch.

        Metrics are scalar tensors, to be read (`float`) only as often as they are logged, and before the next update.
        """
        transitions = self._transitions(batch, shift=self.config.image_shift)
        metrics = self._captured(self.phase(), transitions) if self._captured else self._step(transitions)
        self.updates += 1
        if self.policy is not self.trained_policy:
            # The mean of all so far until there are enough for a running mean: no trace of the initial weights.
            move_towards(self.policy, self.trained_policy, max(self.config.average_rate, 1.0 / self.updates))
        self.after_update()
        return metrics

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """The metrics of a batch without learning from it."""
        transitions = self._transitions(batch, shift=0)
        self.judging = True
        try:
            with self._placed():
                return self._total_loss(transitions)[1]
        finally:
            self.judging = False

    def state_dict(self) -> dict[str, Tensor]:
        """What training continues from, by a unique name, on the CPU: networks, optimiser, counters, generator."""
        state = {f"networks.{name}": tensor for name, tensor in self.networks.state_dict().items()}
        if self.policy is not self.trained_policy:
            state |= {f"average.{name}": tensor for name, tensor in self.policy.state_dict().items()}
        for name, parameter in self._parameters.items():
            for entry, value in self._optimiser.state.get(parameter, {}).items():
                state[f"optimiser.{entry}.{name}"] = value
        state["updates"] = torch.tensor(self.updates)
        state["generator"] = self._generator.get_state()
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor | np.ndarray]) -> None:
        """Continue where `state_dict` (or the arrays of `Bundle.state`) left off.

        To the bit on the same kind of device; random numbers of another kind begin anew.

        Raises:
            UserError: the state is of another algorithm, contract or size.
        """
        tensors = {name: torch.as_tensor(value).clone() for name, value in state.items()}
        optimiser: dict[Tensor, dict[str, Tensor]] = {}
        try:
            self.networks.load_state_dict(_below("networks.", tensors))
            if self.policy is not self.trained_policy:
                self.policy.load_state_dict(_below("average.", tensors))
            for entry in ("step", "exp_avg", "exp_avg_sq"):
                for name, value in _below(f"optimiser.{entry}.", tensors).items():
                    optimiser.setdefault(self._parameters[name], {})[entry] = value.to(self.device)
            self.updates = int(tensors["updates"])
            size = len(tensors["generator"])
            if size in GENERATOR_BYTES and size != len(self._generator.get_state()):
                self._generator.manual_seed(self.seed + self.updates)
            else:
                self._generator.set_state(tensors["generator"])
        except (KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"these weights do not fit a {self.name} of this contract and size: {reason}") from error
        self._optimiser.state.clear()
        self._optimiser.state.update(optimiser)
        if self._captured is not None:
            self._captured.forget()

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters by learning rate."""
        by_rate: dict[float, list[Tensor]] = {}
        rates = self.learning_rates()
        for name, parameter in self._parameters.items():
            by_rate.setdefault(rates[name.split(".")[0]], []).append(parameter)
        # A recorded update reads its learning rate on the GPU, where it can be changed.
        on_gpu = self.device.type == "cuda" and self.config.schedule != "constant"
        return [
            {"params": weights, "lr": torch.tensor(rate, device=self.device) if on_gpu else rate, "initial_lr": rate}
            for rate, weights in by_rate.items()
        ]

    def _transitions(self, batch: Batch, shift: int) -> Transitions:
        layout = self.trained_policy.layout
        return Transitions(
            observation=self._tensors(batch.observation, shift),
            next_observation=self._tensors(batch.next_observation, shift),
            auxiliary=self._tensors(batch.auxiliary, 0),
            desired_goal=self._tensor(batch.desired_goal),
            action=layout.scale(self._tensor(batch.action)),
            reward=self._tensor(batch.reward),
            terminated=self._tensor(batch.terminated).float(),
            steps=self._or_all(batch.steps, 1.0, batch.reward),
            demonstration=self._or_all(batch.demonstration, 0.0, batch.reward),
            extra=self._tensors(batch.extra, 0),
        )

    def _placed(self) -> AbstractContextManager[Any]:
        """Makes new tensors where learning is; on the CPU they are there anyway."""
        return nullcontext() if self.device.type == "cpu" else self.device

    def _tensor(self, array: np.ndarray) -> Tensor:
        # Of memory that is not pinned the CPU has made its copy on return, without waiting for the GPU.
        return torch.from_numpy(array).to(self.device, non_blocking=True)

    def _or_all(self, column: np.ndarray | None, value: float, like: np.ndarray) -> Tensor:
        if column is None:
            return torch.full(like.shape, value, device=self.device)
        return self._tensor(column).float()

    def _tensors(self, arrays: Mapping[str, np.ndarray], shift: int) -> dict[str, Tensor]:
        tensors = {name: self._tensor(array) for name, array in arrays.items()}
        for name in self.trained_policy.encoder.images:
            if name in tensors:
                tensors[name] = shift_images(tensors[name], shift, self._generator)
        return tensors

    def _step(self, batch: Transitions) -> dict[str, Tensor]:
        """Descend the loss once."""
        with self._placed():
            total, metrics = self._total_loss(batch)
            self._optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(total)
            self._optimiser.step()
        return metrics

    def _total_loss(self, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        encoder = self.trained_policy.encoder
        features = encoder(batch.observation, batch.desired_goal)
        total, metrics = self.loss(batch, features)
        if "auxiliary" in self.networks:
            target = torch.cat([scale(batch.auxiliary[name]) for name, scale in self.auxiliary_scale.items()], dim=1)
            error = auxiliary_loss(self.networks["auxiliary"](features[:, : encoder.image_size]), target)
            total = total + self.config.auxiliary_weight * error
            metrics["auxiliary_loss"] = error.detach()
        return total, metrics


def auxiliary_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of standardised auxiliary values, (batch, n) each; a scalar."""
    return nn.functional.mse_loss(prediction, target)


def dataset_statistics(
    memory: ReplayMemory, contract: Contract, *, achieved: bool = False
) -> dict[str, dict[str, list[float]]]:
    """Mean and standard deviation of every vector of a data set: observations, auxiliary values and the goal.

    An entry that never varies gets the standard deviation 1, any other at least `SMALLEST_STD`.

    Args:
        achieved: goals are learned from in hindsight: those that were achieved count as well as those that were asked
            for, which may be few and far from them.

    Raises:
        UserError: `achieved`, and the memory does not know what a tick achieved.
    """
    images = {name for name, key in contract.observation.items() if len(key.shape) == 3 and key.dtype == "uint8"}
    columns = {name: memory.observation[name] for name in contract.observation if name not in images}
    columns |= {name: memory.auxiliary[name] for name in contract.auxiliary if name in memory.auxiliary}
    used = memory.episode >= 0  # of a memory with a capacity rows may be free
    rows = {name: column[used] for name, column in columns.items()}
    goals = [memory.desired_goal, memory.achieved_goal] if achieved else [memory.desired_goal]
    rows[DESIRED_GOAL] = np.concatenate([column[used] for column in goals])
    statistics = {}
    for name, column in rows.items():
        values = column.reshape(len(column), -1).astype(np.float64)
        std = values.std(axis=0)
        std = np.where(std < 1e-6, 1.0, np.maximum(std, SMALLEST_STD))
        statistics[name] = {"mean": values.mean(axis=0).tolist(), "std": std.tolist()}
    return statistics


def find_algorithm(name: str) -> type[Algorithm]:
    """The class of an algorithm.

    Raises:
        UserError: there is no such algorithm.
    """
    if name not in ALGORITHMS:
        raise UserError(f"no algorithm is named '{name}'; there are: {', '.join(sorted(ALGORITHMS))}.")
    module, _, attribute = ALGORITHMS[name].partition(":")
    algorithm: type[Algorithm] = getattr(importlib.import_module(module), attribute)
    return algorithm


def make_algorithm(
    name: str,
    contract: Contract,
    normalisation: Normalisation,
    *,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> Algorithm:
    """An algorithm with fresh weights.

    Args:
        normalisation: of `dataset_statistics`, or of the bundle that training continues from.
        overrides: settings other than the defaults of its configuration.
        device: where to learn, as torch names it: `cpu`, `cuda`, `cuda:1`.

    Raises:
        UserError: there is no such algorithm, setting or device, or a setting is of the wrong type or out of bounds.
    """
    algorithm = find_algorithm(name)
    config = schema.convert(algorithm.config_type, dict(overrides or {}), f"{name} settings")
    require_device(device)
    return algorithm(contract, normalisation, config, seed, device)


def plain_config(config: Config) -> dict[str, Any]:
    """A configuration as plain data, for a bundle."""
    return asdict(config)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
