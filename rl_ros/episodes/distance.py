"""Rewards that are a function of the distance between what was achieved and what was desired."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rl_ros.errors import UserError

Kind = Literal["euclidean", "penalty", "success"]


@dataclass(frozen=True)
class DistanceReward:
    """What achieving one goal is worth where another was desired; a `rl_ros.episodes.hindsight.Reward`.

    - `euclidean`: the negative distance, in the unit of the goal;
    - `penalty`: -1, and 0 within the tolerance (1707.01495);
    - `success`: 0, and 1 within the tolerance.

    Raises:
        UserError: an unknown kind, or a tolerance that is not positive.
    """

    kind: Kind
    tolerance: float = 0.05
    """Largest distance that counts as reached, in the unit of the goal."""

    KINDS = ("euclidean", "penalty", "success")

    def __post_init__(self) -> None:
        if self.kind not in self.KINDS:
            raise UserError(f"no distance reward is named '{self.kind}'; there are: {', '.join(self.KINDS)}.")
        if not self.tolerance > 0.0:
            raise UserError(f"distance reward: expected a positive tolerance, got {self.tolerance}.")

    def __call__(self, achieved_goal: np.ndarray, desired_goal: np.ndarray) -> np.ndarray:
        """Rewards float32 (...) of goals (..., G) each."""
        difference = np.asarray(achieved_goal, np.float64) - desired_goal
        apart = np.sqrt(np.square(difference).sum(-1))
        if self.kind == "euclidean":
            return (-apart).astype(np.float32)
        return np.where(apart <= self.tolerance, 1.0, 0.0).astype(np.float32) - np.float32(self.kind == "penalty")

    @property
    def bounds(self) -> dict[str, float | None]:
        """`smallest_reward` and `largest_reward`, as settings of an actor-critic; None where there is no bound."""
        match self.kind:
            case "euclidean":
                return {"smallest_reward": None, "largest_reward": 0.0}
            case "penalty":
                return {"smallest_reward": -1.0, "largest_reward": 0.0}
            case _:
                return {"smallest_reward": 0.0, "largest_reward": 1.0}


SAME_THING = 1.5
"""Distance of latents, of about unit variance, below which two pictures of what a hand holds show the same thing."""


def same_thing(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether latents (..., Z) are of the same thing as others, bool (...)."""
    return np.asarray(np.linalg.norm(np.asarray(one, np.float64) - other, axis=-1) < SAME_THING)


LATENT_REWARD = DistanceReward("euclidean")
"""r(z, z_g) = −‖z − z_g‖, of latents: Nair et al. 2018 (1807.04742), section 4.2."""
