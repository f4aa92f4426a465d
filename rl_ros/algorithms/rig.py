"""Reinforcement learning with imagined goals: practise what you can imagine, be asked for what you see.

Nair et al. 2018, "Visual Reinforcement Learning with Imagined Goals" (1807.04742). An image encoder makes latents of
images; observations and goals are latents, and the reward is r = −‖z − z_g‖ (section 4.2). In Algorithm 1 goals to
practise come from the prior, and half of the goals that a batch is relabelled with do, too; the other half are what was
achieved later in the same episode (section 4.3). What is left is learning off-policy, here TD3 as in the paper, or SAC.

Skew-Fit (Pong et al. 2020, 1903.03698) draws the goals from what was seen instead, each with the weight p(x)^α, α < 0:
what was seen seldom is practised often.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from rl_ros.algorithms.actor_critic import refuse_hindsight
from rl_ros.algorithms.base import Algorithm, Config
from rl_ros.algorithms.sac import SoftActorCritic, SoftActorCriticConfig
from rl_ros.algorithms.td3 import TwinDelayed, TwinDelayedConfig
from rl_ros.episodes.distance import LATENT_REWARD, DistanceReward
from rl_ros.episodes.hindsight import Hindsight
from rl_ros.errors import UserError

Prior = Callable[[np.random.Generator, int], np.ndarray]
"""Draws goals (n, Z), float32."""
POOL = 2048
"""Goals imagined at once, for episodes and batches to draw from."""


@dataclass(frozen=True)
class ImaginedGoalsConfig(TwinDelayedConfig):
    """Settings of RIG with TD3."""

    batch_size: int = 256
    hidden_layers: int = 2
    discount: float = 0.98
    target_rate: float = 0.01
    smallest_reward: float | None = None
    """Not known: a distance of latents has no bound."""
    action_penalty: float = 0.1
    random_share: float = 0.2
    prior_share: float = 0.5
    """Share of each batch that is relabelled with imagined goals; the others get one of later in their episode."""
    reached: float = 0.0
    """Distance of latents within which a goal counts as reached, and is worth 0, while anything else is worth -1 (with
    `smallest_reward` -1, as hindsight has it on true positions); 0 for the paper's reward, the negative distance. The
    `near` of an encoder says what its distances are like."""


@dataclass(frozen=True)
class SoftImaginedGoalsConfig(SoftActorCriticConfig):
    """Settings of RIG with SAC."""

    batch_size: int = 256
    hidden_layers: int = 2
    discount: float = 0.98
    smallest_reward: float | None = None
    prior_share: float = 0.5
    """Share of each batch that is relabelled with imagined goals; the others get one of later in their episode."""
    reached: float = 0.0
    """Distance of latents within which a goal counts as reached; see `ImaginedGoalsConfig.reached`."""


class ImaginedGoals(TwinDelayed):
    """RIG: TD3 on latents."""

    name: ClassVar[str] = "rig"
    config_type: ClassVar[type[Config]] = ImaginedGoalsConfig
    config: ImaginedGoalsConfig


class SoftImaginedGoals(SoftActorCritic):
    """RIG with SAC on latents."""

    name: ClassVar[str] = "rig_sac"
    config_type: ClassVar[type[Config]] = SoftImaginedGoalsConfig
    config: SoftImaginedGoalsConfig


def practise(learner: Algorithm, prior: Prior) -> None:
    """Have a learner relabel its batches as Algorithm 1 of the paper, lines 17 and 18, with goals from this prior.

    Every transition gets another goal than its own: own goals are latents of the encoder that there was then. The
    learner need not be one of these: any that takes goals of hindsight practises with half of them imagined.

    Raises:
        UserError: `prior_share` is no share, or `reached` negative, or the learner needs the returns of whole episodes.
    """
    share, reached = (
        float(getattr(learner.config, name, usual)) for name, usual in (("prior_share", 0.5), ("reached", 0))
    )
    reward = DistanceReward("penalty", reached) if reached else LATENT_REWARD
    learner.hindsight = Hindsight({"prior": share, "future": 1.0 - share}, reward, prior=prior)
    if learner.uses_returns:
        refuse_hindsight(learner)


def standard_normal(size: int) -> Prior:
    """p(z) = N(0, 1), of latents (n, size): the prior of section 4.1."""
    return lambda rng, count: rng.normal(size=(count, size)).astype(np.float32)


class Seeing(Protocol):
    """Of `rl_ros.networks.image_encoder.ImageEncoder`, what imagining needs."""

    latent: int
    conditional: bool

    def imagined(self, latent: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """The latent of the image that a latent stands for."""


def seen_through(encoder: Seeing, latents: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
    """What latents (n, Z) become by imagining them as images and looking at those, (n, Z).

    Not all that the prior allows looks like anything. An image drawn of it does so more, and its latent is one that an
    image has: a goal that can be reached.
    """
    return np.stack([encoder.imagined(latent, context) for latent in latents])


def imagined(encoder: Seeing, seed: int = 0, through: bool = True) -> np.ndarray:
    """Goals (`POOL`, Z) that an encoder imagines: latents of its prior, `seen_through` it if it can and they are to."""
    latents = standard_normal(encoder.latent)(np.random.default_rng([seed, 0x90A1]), POOL)
    return seen_through(encoder, latents) if through and not encoder.conditional else latents


def drawn_from(goals: np.ndarray) -> Prior:
    """Goals drawn from a pool of them, (m, Z), uniformly."""
    return lambda rng, count: goals.take(rng.integers(0, len(goals), count), axis=0)


def skewed(log_likelihood: np.ndarray, power: float) -> np.ndarray:
    """Skew-Fit's weights w ∝ p(x)^α, (n,), which add up to 1: 1903.03698, equation 6.

    Args:
        log_likelihood: log p(x), (n,), up to a constant.
        power: α, from −1, which makes all that was ever seen equally frequent, to 0, which leaves it as it was.

    Raises:
        UserError: α is not from −1 to 0.
    """
    if not -1.0 <= power <= 0.0:
        raise UserError(f"skew: expected a power from -1 to 0, got {power}.")
    exponent = power * (log_likelihood - log_likelihood.mean())
    weights = np.exp(exponent - exponent.max())
    return weights / weights.sum()
