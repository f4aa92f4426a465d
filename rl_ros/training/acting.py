"""What can stand behind the policy node: a policy bundle or a task's scripted expert."""

import time
from pathlib import Path
from typing import Protocol

import numpy as np

from rl_ros.contract import Contract
from rl_ros.episodes.assemble import Tick
from rl_ros.errors import UserError
from rl_ros.networks.image_encoder import frame_of
from rl_ros.tasks.task import Expert, Routine
from rl_ros.training.bundle import load_bundle

WARM_UP = 3
"""Actions before a learned policy goes to work."""


class Actor(Protocol):
    """Answers a tick with an action."""

    name: str
    """One of `contract.ACTORS`, for the record."""
    privileged: bool
    """Whether it needs auxiliary values."""
    frame: str
    """The `frame_id` that latents must have; empty where it sees none, or any will do."""

    def reset(self, seed: int) -> None:
        """Begin an episode."""

    def succeed(self, other: "Actor", seed: int) -> None:
        """Go on with the episode of that seed, in whose middle another actor of the same kind leaves off."""

    def act(self, tick: Tick) -> np.ndarray:
        """The action, float32 (A,), in the units of the contract."""


class ExpertActor:
    """A scripted expert."""

    name = "scripted"
    privileged = True
    frame = ""

    def __init__(self, expert: Expert) -> None:
        self.expert = expert

    def reset(self, seed: int) -> None:
        """Draw the episode's errors."""
        self.expert.reset(seed)

    def succeed(self, other: Actor, seed: int) -> None:
        """See `Actor.succeed`; the task's script begins anew."""
        self.expert.reset(seed)

    def act(self, tick: Tick) -> np.ndarray:
        """The expert's answer."""
        return self.expert.act(tick.values, tick.values["desired_goal"])


class BundleActor:
    """A learned policy, verified and warm: its files, its contract and its answer to its own sample are as they should.

    Args:
        directory: of the bundle.
        contract: the live one.
        deadline: s that an action may take at most; 0 does not look at the time.

    Raises:
        UserError: the bundle is missing or damaged, was trained under another contract, answers otherwise than when it
            was exported, or is too slow.
    """

    name = "policy"
    privileged = False

    def __init__(self, directory: str, contract: Contract, deadline: float = 0.0) -> None:
        self.bundle = load_bundle(Path(directory))
        self.bundle.require(contract)
        self.policy = self.bundle.policy()
        self.frame = frame_of(self.bundle.encoder) if self.bundle.encoder else ""
        self._keys = tuple(contract.observation)
        seconds = self._warm_up(contract)
        if 0 < deadline < seconds:
            raise UserError(
                f"{directory}: an action takes {seconds:.3f} s, longer than the control period of {deadline:g} s; "
                "train a smaller network, or lower control_rate in the contract."
            )

    def _warm_up(self, contract: Contract) -> float:
        """Act on zeros a few times; the shortest time in s. The first answers are the slowest ones."""
        keys = contract.observation | {"desired_goal": contract.goal.desired_goal}
        nothing = Tick(0, {name: np.zeros(key.shape, key.dtype) for name, key in keys.items()})
        fastest = np.inf
        for _ in range(WARM_UP):
            began = time.perf_counter()
            self.act(nothing)
            fastest = min(fastest, time.perf_counter() - began)
        return fastest

    def reset(self, seed: int) -> None:
        """Nothing to do: a learned policy answers each observation by itself."""

    def succeed(self, other: Actor, seed: int) -> None:
        """See `reset`."""

    def act(self, tick: Tick) -> np.ndarray:
        """The policy's answer."""
        observation = {key: tick.values[key] for key in self._keys}
        return self.policy.act(observation, tick.values["desired_goal"])


class CheckedActor:
    """Acts as another does until the task's routine takes over, such as to check what was grasped."""

    def __init__(self, actor: Actor, routine: Routine) -> None:
        self.actor, self.routine, self.privileged = actor, routine, actor.privileged
        self.name, self.frame = actor.name, actor.frame

    def reset(self, seed: int) -> None:
        """Begin both."""
        self.actor.reset(seed)
        self.routine.begin()

    def succeed(self, other: Actor, seed: int) -> None:
        """See `Actor.succeed`; a check that is going on goes on."""
        assert isinstance(other, CheckedActor)
        self.actor.succeed(other.actor, seed)
        self.routine = other.routine

    def act(self, tick: Tick) -> np.ndarray:
        """The routine's answer, which asks the actor for its own as long as that counts."""
        return self.routine.act(tick.values, lambda: self.actor.act(tick))


class ExploringActor:
    """Acts as another does, with errors: what always does the same finds nothing better.

    A share of the actions is uniformly random; the others get Gaussian noise, whose standard deviation is the same
    share of half of their range (Plappert et al. 2018, 1802.09464, appendix on hyperparameters). A discrete entry
    changes only where the action is random.
    """

    def __init__(self, actor: Actor, contract: Contract, share: float) -> None:
        self.actor, self.share, self.privileged = actor, share, actor.privileged
        self.name, self.frame = actor.name, actor.frame
        self._low, self._high, self._discrete = contract.action_low, contract.action_high, contract.action_discrete
        self._rng = np.random.default_rng(0)

    def reset(self, seed: int) -> None:
        """Errors follow from the episode's seed."""
        self.actor.reset(seed)
        self._rng = np.random.default_rng([seed, 0xE8A1])

    def succeed(self, other: Actor, seed: int) -> None:
        """See `Actor.succeed`; errors that were made are not made again."""
        assert isinstance(other, ExploringActor)
        self.actor.succeed(other.actor, seed)
        self._rng = other._rng

    def act(self, tick: Tick) -> np.ndarray:
        """The action with its error, within the contract's limits."""
        action = self.actor.act(tick)
        random, chosen = self._rng.uniform(self._low, self._high), self._rng.random() < self.share
        noise = self.share * (self._high - self._low) / 2 * self._rng.normal(size=action.shape)
        if chosen:
            limits = np.where(random > (self._low + self._high) / 2, self._high, self._low)
            return np.where(self._discrete, limits, random).astype(np.float32)
        return np.where(self._discrete, action, np.clip(action + noise, self._low, self._high)).astype(np.float32)
