"""Behaviour cloning: do what was done.

Pomerleau 1988 (ALVINN); as a baseline for offline learning, every paper since. All the data count the same, the
failures too: what behaviour cloning makes of a data set is what learning from rewards has to beat.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rl_ros.algorithms.base import Algorithm, Config, Transitions


@dataclass(frozen=True)
class BehaviourCloningConfig(Config):
    """Nothing beyond what every algorithm has."""


class BehaviourCloning(Algorithm):
    """Maximise the likelihood of the recorded actions."""

    name: ClassVar[str] = "bc"
    config_type: ClassVar[type[Config]] = BehaviourCloningConfig

    def loss(self, batch: Transitions, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`."""
        policy = self.trained_policy
        log_probability = policy.layout.log_probability(
            policy.distribution(features), batch.action, self.config.action_std
        )
        loss = cloning_loss(log_probability)
        return loss, {"policy_loss": loss.detach()}


def cloning_loss(log_probability: Tensor) -> Tensor:
    """L(π) = −E[ log π(a|s) ], a scalar, from log π(a|s) (batch,)."""
    return -log_probability.mean()
