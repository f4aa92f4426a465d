"""Learning from play: a latent plan for each stretch of a recording, and a policy that carries plans out.

Lynch et al. 2019, "Learning Latent Plans from Play" (1903.01973), Play-LMP: a conditional variational auto-encoder
over windows τ of play. Between a state and a goal people take many ways, and a policy that clones all of them takes
their mean, which may be none. So a posterior q(z|τ) says which way a window took, a prior p(z|s, g) learns which ways
there are, and the policy π(a|s, g, z) clones the window given its way.

Differences from the paper. There, the goal is the end of the window, plans are made once a second, and networks are
recurrent. Here, plans are made anew at every tick: so each tick of a window has a goal of its own, achieved at any
later time of the episode, and the prior learns at each of them what plan was being carried out; goals far ahead and
the last steps to a goal are both learned that way. Observations are full states, so the networks are feed-forward,
and actions are Gaussian. A bundle is deterministic: at every tick it acts on the mean of the prior.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from rl_ros.algorithms.base import Algorithm, Config, Transitions
from rl_ros.algorithms.bc import cloning_loss
from rl_ros.algorithms.goal_conditioned import require_goal
from rl_ros.contract import Contract
from rl_ros.episodes.hindsight import draw_goal_rows
from rl_ros.episodes.memory import Batch, ReplayMemory
from rl_ros.networks.layers import DESIRED_GOAL, gaussian_divergence, multilayer
from rl_ros.networks.policies import ActionDistribution, Policy

PLAN = 16
"""Numbers that a plan z has."""
LOG_STD = (-5.0, 2.0)
"""Range of the logarithm of a plan's standard deviation."""


@dataclass(frozen=True)
class LatentPlansConfig(Config):
    """Settings of latent plans."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    vector_limit: float = 5.0
    batch_size: int = 32
    """Windows an update."""
    window: int = 16
    """κ: ticks of a window; the paper's are one to two seconds."""
    divergence_weight: float = 0.01
    """β: how much the divergence between posterior and prior counts."""


class PlanningPolicy(Policy):
    """The prior over plans, and the policy given its mean."""

    def __init__(self, contract: Contract, *arguments: Any, **options: Any) -> None:
        super().__init__(contract, *arguments, **options)
        self.prior = self.hidden_network(self.encoder.size, 2 * PLAN)
        self.actor = self.hidden_network(self.encoder.size + PLAN, len(contract.action_low))

    def plan_distribution(self, features: Tensor, plan: Tensor) -> ActionDistribution:
        """π(a|s, g, z): what to do under a plan (batch, `PLAN`)."""
        return super().distribution(torch.cat([features, plan], dim=1))

    def distribution(self, features: Tensor) -> ActionDistribution:
        """What to do under the plan that is the mean of the prior."""
        return self.plan_distribution(features, gaussian(self.prior(features))[0])


class LatentPlans(Algorithm):
    """A posterior and a prior over plans, and a policy that carries them out; `batch_size` counts windows."""

    name: ClassVar[str] = "latent_plans"
    config_type: ClassVar[type[Config]] = LatentPlansConfig
    policy_type: ClassVar[type[Policy]] = PlanningPolicy
    relabels: ClassVar[bool] = True
    config: LatentPlansConfig

    def build(self) -> dict[str, nn.Module]:
        """The policy with its prior, and the `posterior`, which looks at the states and actions of a window.

        Raises:
            UserError: the contract keeps the goal from the policy.
        """
        require_goal(self.contract, self.name)
        networks, config = super().build(), self.config
        state = cast(Policy, networks["policy"]).encoder.size - self._goal_size()
        inputs = config.window * (state + len(self.contract.action_low))
        networks["posterior"] = multilayer([inputs, *[config.hidden_size] * config.hidden_layers, 2 * PLAN])
        return networks

    def batches(self, memory: ReplayMemory, rows: np.ndarray, rng: np.random.Generator) -> Iterator[Batch]:
        """Windows about the transitions at `rows`, tick after tick: batches of `window` times as many transitions.

        Each has a goal that was achieved later in its episode; see `Algorithm.batches`.
        """
        for begin in rows:
            ticks = windows(memory.transitions, begin, self.config.window)
            goals = draw_goal_rows({"future": 1.0}, rng, memory, ticks.ravel(), discount=1.0)
            batch = memory.take(ticks.ravel())
            batch.desired_goal = memory.achieved_goal.take(goals, axis=0)
            yield batch

    def loss(self, batch: Transitions, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`."""
        config, policy = self.config, cast(PlanningPolicy, self.trained_policy)
        state = features[:, : -self._goal_size()]
        window = torch.cat([state, batch.action], dim=1).view(
            -1, config.window * (state.shape[1] + batch.action.shape[1])
        )
        mean, log_std = (
            entry.repeat_interleave(config.window, dim=0) for entry in gaussian(self.networks["posterior"](window))
        )
        # One draw for all ticks of a window: they carry out the same plan.
        noise = torch.randn((len(window), PLAN), generator=self._generator).repeat_interleave(config.window, dim=0)
        plan = mean + log_std.exp() * noise
        log_probability = policy.layout.log_probability(
            policy.plan_distribution(features, plan), batch.action, config.action_std
        )
        divergence = gaussian_divergence(mean, log_std, *gaussian(policy.prior(features))).mean()
        loss = plan_loss(log_probability, divergence, config.divergence_weight)
        metrics = {"loss": loss, "cloning_loss": cloning_loss(log_probability), "divergence": divergence}
        return loss, {name: value.detach() for name, value in metrics.items()}

    def _goal_size(self) -> int:
        return len(self.normalisation[DESIRED_GOAL]["mean"])


def windows(transitions: np.ndarray, rows: np.ndarray, length: int) -> np.ndarray:
    """Rows of successive transitions around each row, int64 (batch, length).

    A window begins at its row, or earlier if it would otherwise leave the episode or run into a gap. Where a stretch
    of transitions is shorter than a window, its last transition is repeated.

    Args:
        transitions: rows that begin a transition, ascending.
        rows: some of them, (batch,).
    """
    breaks = np.flatnonzero(np.diff(transitions) != 1)
    firsts = transitions[np.concatenate([[0], breaks + 1])]
    lasts = transitions[np.concatenate([breaks, [len(transitions) - 1]])]
    stretch = np.searchsorted(lasts, rows)
    first, last = firsts[stretch], lasts[stretch]
    begin = np.maximum(np.minimum(rows, last - length + 1), first)
    ticks: np.ndarray = np.minimum(begin[:, None] + np.arange(length), last[:, None])
    return ticks


def gaussian(output: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and logarithm of the standard deviation, (batch, n) each, from a network's (batch, 2 n)."""
    mean, log_std = output.chunk(2, dim=1)
    low, high = LOG_STD
    return mean, low + (high - low) * torch.sigmoid(log_std)


def plan_loss(log_probability: Tensor, divergence: Tensor, divergence_weight: float) -> Tensor:
    """L = −1/κ Σ_t log π(a_t | s_t, g, z) + β KL( q(z|τ) ‖ p(z|s, g) ), in the mean over windows: Play-LMP.

    Args:
        log_probability: of every tick of every window, (batch · κ,).
        divergence: the mean over windows, a scalar.
        divergence_weight: β.
    """
    return cloning_loss(log_probability) + divergence_weight * divergence
