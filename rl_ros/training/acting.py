"""What can stand behind the policy node: a policy bundle or a task's scripted expert."""

from pathlib import Path
from typing import Protocol

import numpy as np

from rl_ros.contract import Contract, difference
from rl_ros.episodes.assemble import Tick
from rl_ros.errors import UserError
from rl_ros.tasks.task import Expert
from rl_ros.training.bundle import load_bundle


class Actor(Protocol):
    """Answers a tick with an action."""

    privileged: bool
    """Whether it needs auxiliary values."""

    def reset(self, seed: int) -> None:
        """Begin an episode."""

    def act(self, tick: Tick) -> np.ndarray:
        """The action, float32 (A,), in the units of the contract."""


class ExpertActor:
    """A scripted expert."""

    privileged = True

    def __init__(self, expert: Expert) -> None:
        self.expert = expert

    def reset(self, seed: int) -> None:
        """Draw the episode's errors."""
        self.expert.reset(seed)

    def act(self, tick: Tick) -> np.ndarray:
        """The expert's answer."""
        return self.expert.act(tick.values, tick.values["desired_goal"])


class BundleActor:
    """A learned policy.

    Raises:
        UserError: the bundle is missing, damaged, or was trained under another contract.
    """

    privileged = False

    def __init__(self, directory: str, contract: Contract) -> None:
        bundle = load_bundle(Path(directory))
        if found := difference(bundle.contract, contract):
            raise UserError(f"{directory}: this policy was trained under another contract: {found}.")
        self.policy = bundle.policy()
        self._keys = tuple(contract.observation)

    def reset(self, seed: int) -> None:
        """Nothing to do: a learned policy answers each observation by itself."""

    def act(self, tick: Tick) -> np.ndarray:
        """The policy's answer."""
        observation = {key: tick.values[key] for key in self._keys}
        return self.policy.act(observation, tick.values["desired_goal"])
