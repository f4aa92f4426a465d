"""Twin delayed deep deterministic policy gradient: DDPG that does not believe its own luck.

Fujimoto, van Hoof and Meger 2018, "Addressing Function Approximation Error in Actor-Critic Methods" (1802.09477). The
policy finds whatever a critic overrates. Three remedies: the smaller of two critics' answers is believed, the target
policy acts with noise so that narrow peaks count for little, and the policy learns less often than the critics.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rl_ros.algorithms.base import Config
from rl_ros.algorithms.ddpg import DeterministicPolicyGradient, DeterministicPolicyGradientConfig


@dataclass(frozen=True)
class TwinDelayedConfig(DeterministicPolicyGradientConfig):
    """Settings of TD3, beside those of DDPG."""

    policy_delay: int = 2
    """As in DDPG; the target networks move at every update all the same, in the paper only with the policy."""
    target_noise: float = 0.2
    """Standard deviation of the target policy's noise, where half of an action's range is 1."""
    target_noise_limit: float = 0.5
    """Largest such noise."""


class TwinDelayed(DeterministicPolicyGradient):
    """Two critics and a policy that follows them slowly."""

    name: ClassVar[str] = "td3"
    config_type: ClassVar[type[Config]] = TwinDelayedConfig
    config: TwinDelayedConfig
    critics: ClassVar[int] = 2

    def next_value(self, next_state: Tensor) -> Tensor:
        """The smaller Q'ᵢ(s', ã), (batch,), where ã is the target policy's action with noise."""
        action = torch.tanh(self.networks["target_actor"](next_state))
        noise = self.config.target_noise * torch.randn(action.shape, generator=self._generator)
        value: Tensor = self.networks["target_critic"](
            next_state, smoothed(action, noise, self.config.target_noise_limit)
        )
        return value.amin(0)


def smoothed(action: Tensor, noise: Tensor, limit: float) -> Tensor:
    """Equation 14: ã = clip( π'(s') + clip(ε, −c, c), −1, 1 ), (batch, A) each; `noise` is ε, `limit` c."""
    return (action + noise.clamp(-limit, limit)).clamp(-1.0, 1.0)
