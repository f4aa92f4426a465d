"""How good a policy is, from recordings alone: fitted Q evaluation with intervals, and a recommendation.

Le, Voloshin and Yue 2019, "Batch Policy Learning under Constraints" (1903.08738), algorithm 3: critics learn by

    Q(s, a)  ←  r + γ Q̄(s', π(s'))

what following the policy is worth, from transitions of whatever acted then. Beside them V(s) ← r + γ V̄(s') learns what
going on as recorded is worth. Both begin at the returns that were seen, and both are read off where episodes start.

The interval is a bootstrap over episodes (Hao et al. 2021, 2102.03607): each member of the ensemble weighs the episodes
by a resample of its own, in learning and in averaging. It is widened by what can be checked: how far V misses the
returns that the recorded behaviour did get.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from rl_ros.algorithms.base import Algorithm
from rl_ros.episodes.memory import ReplayMemory
from rl_ros.errors import UserError
from rl_ros.networks.critics import StackedCritic
from rl_ros.networks.layers import move_towards
from rl_ros.training.logged import (
    AT_ONCE,
    Logged,
    collect,
    discount_of,
    own_values,
    possible_returns,
    returns,
)

FEWEST_EPISODES = 5
"""A bootstrap over fewer says nothing."""
BINS = 10
FAR = 2.0
"""Times the recorded actions' spread: a policy that is further from them, in the mean, does what was never tried."""

Verdict = Literal["better", "worse", "unclear"]
SENTENCES: dict[Verdict, str] = {
    "better": "better than the behaviour policy with 95 % confidence: deploy for a trial",
    "worse": "worse than the behaviour policy with 95 % confidence: do not deploy",
    "unclear": "not distinguishable from the behaviour policy: record more",
}


@dataclass(frozen=True)
class Settings:
    """How the critics are fitted."""

    members: int = 24
    """Resamples, each with a critic and a value function of its own."""
    quantile: float = 2.07
    """Of Student's t at 97.5 % with members - 1 degrees of freedom: the deviation comes from so many members."""
    updates: int = 3000
    batch_size: int = 128
    hidden_size: int = 64
    learning_rate: float = 2e-3
    target_rate: float = 0.1
    """Share of the way that the target networks move at each update."""
    from_returns: float = 0.3
    """Share of the updates that fit the returns seen, before bootstrapping begins."""


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Calibration:
    """A critic's values against the returns that followed, in bins of equally many transitions."""

    predicted: np.ndarray
    """(bins,): mean value."""
    observed: np.ndarray
    """(bins,): mean return."""
    error: float
    """Mean distance of the two."""
    bias: float
    """Mean of value less return: above 0 the critic promises more than came."""
    spread: float
    """Standard deviation of the returns, to compare the error with."""


@dataclass(frozen=True)
class Estimate:
    """What the recordings say of a policy. Values are discounted returns from the start of an episode."""

    episodes: int
    transitions: int
    discount: float
    value: Interval
    """Of the policy."""
    behaviour: Interval
    """Of going on as recorded."""
    difference: Interval
    """Of the two, episode by episode."""
    action_distance: float
    """Root mean square of policy's less recorded actions, where half of an action's range is 1."""
    action_spread: float
    """The same of the recorded actions about their mean: the distance of a policy that looks at nothing."""
    calibration: Calibration | None = None
    """Of the run's own critic, if it has one."""

    @property
    def verdict(self) -> Verdict:
        """What the interval of the difference allows to say."""
        return "better" if self.difference.low > 0 else "worse" if self.difference.high < 0 else "unclear"

    @property
    def recommendation(self) -> str:
        """The verdict in a sentence, with its uncertainty and what it rests on."""
        text = (
            f"{SENTENCES[self.verdict]} (difference {self.difference}, on {self.episodes} episodes that it has not "
            "learned from)"
        )
        if self.action_distance > FAR * self.action_spread:
            text += "; its actions are far from the recorded ones, so the estimate extrapolates"
        return text

    def summary(self) -> dict[str, float | str | list[float] | None]:
        """The figures that are reported."""
        return {
            "episodes": self.episodes,
            "transitions": self.transitions,
            "discount": self.discount,
            "value": round(self.value.estimate, 4),
            "value_95": [round(self.value.low, 4), round(self.value.high, 4)],
            "behaviour_value": round(self.behaviour.estimate, 4),
            "behaviour_value_95": [round(self.behaviour.low, 4), round(self.behaviour.high, 4)],
            "difference": round(self.difference.estimate, 4),
            "difference_95": [round(self.difference.low, 4), round(self.difference.high, 4)],
            "action_distance": round(self.action_distance, 4),
            "action_spread": round(self.action_spread, 4),
            "calibration_error": round(self.calibration.error, 4) if self.calibration else None,
            "calibration_bias": round(self.calibration.bias, 4) if self.calibration else None,
            "verdict": self.verdict,
            "recommendation": self.recommendation,
        }


def estimate(
    memory: ReplayMemory,
    rows: np.ndarray,
    learner: Algorithm,
    *,
    seed: int = 0,
    settings: Settings | None = None,
    progress: Callable[[int], None] = lambda update: None,
) -> Estimate:
    """Judge a policy by episodes that it has not learned from.

    Args:
        memory: that holds them.
        rows: their transitions, int64 (n,).
        learner: with the weights of the policy.
        progress: called after each update of the critics.

    Raises:
        UserError: there are too few episodes.
    """
    logged = collect(memory, np.sort(rows), learner)
    return judge(logged, discount_of(learner), own_values(learner, logged), seed, settings or Settings(), progress)


def judge(
    logged: Logged,
    discount: float,
    own: np.ndarray | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    progress: Callable[[int], None] = lambda update: None,
) -> Estimate:
    """Judge a policy by what it would have done in recorded transitions.

    Args:
        own: Q(s, a) of the run's own critic, float32 (n,).

    Raises:
        UserError: there are fewer than `FEWEST_EPISODES`.
    """
    settings = settings or Settings()
    if logged.episodes < FEWEST_EPISODES:
        raise UserError(
            f"{logged.episodes} held-out episodes are too few for an interval; train with --held-out 0.2, or name new "
            "recordings with --bags."
        )
    weights = resamples(np.random.default_rng(seed), settings.members, logged.episodes)
    fitted = fit(logged, discount, weights, seed, settings, progress)
    seen = returns(logged, discount, fitted.tail)
    policy, behaviour, recorded = (
        (weights * values).mean(1) for values in (fitted.policy, fitted.behaviour, seen[logged.starts])
    )
    missed = abs(float((behaviour - recorded).mean()))
    return Estimate(
        episodes=logged.episodes,
        transitions=len(seen),
        discount=discount,
        value=_interval(policy, settings.quantile, missed),
        behaviour=_interval(recorded, settings.quantile),
        difference=_interval(policy - behaviour, settings.quantile, missed),
        action_distance=_root_mean_square(logged.policy_action - logged.action),
        action_spread=_root_mean_square(logged.action - logged.action.mean(0)),
        calibration=None if own is None else calibrate(own, seen),
    )


def resamples(rng: np.random.Generator, members: int, episodes: int) -> np.ndarray:
    """How often each member's resample holds each episode, float64 (members, episodes); rows sum to the episodes."""
    return rng.multinomial(episodes, np.full(episodes, 1.0 / episodes), members).astype(np.float64)


def calibrate(predicted: np.ndarray, observed: np.ndarray) -> Calibration:
    """Compare values with returns, (n,) each, in bins by value."""
    order = np.argsort(predicted, kind="stable")
    bins = [some for some in np.array_split(order, BINS) if len(some)]
    means = np.array([[predicted[some].mean(), observed[some].mean()] for some in bins])
    shares = np.array([len(some) for some in bins]) / len(order)
    return Calibration(
        predicted=means[:, 0],
        observed=means[:, 1],
        error=float(shares @ np.abs(means[:, 0] - means[:, 1])),
        bias=float(predicted.mean() - observed.mean()),
        spread=float(observed.std()),
    )


class Fitted(NamedTuple):
    """What the critics have learned."""

    policy: np.ndarray
    """(members, episodes): value of the policy where each episode starts."""
    behaviour: np.ndarray
    """(members, episodes): of going on as recorded."""
    tail: np.ndarray
    """(n,): of going on as recorded after each transition; the mean of the members."""


def fit(
    logged: Logged,
    discount: float,
    weights: np.ndarray,
    seed: int,
    settings: Settings,
    progress: Callable[[int], None] = lambda update: None,
) -> Fitted:
    """Fit the critics; `weights` are those of `resamples`, (members, episodes)."""
    rng = np.random.default_rng(seed)
    seen = returns(logged, discount)
    scale = max(float(np.abs(seen).max()), 1e-6)
    low, high = (bound / scale for bound in possible_returns(logged.reward, discount))
    size, members, hidden = logged.state.shape[1], settings.members, settings.hidden_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        critic = StackedCritic(members, size + logged.action.shape[1], hidden)
        value = StackedCritic(members, size, hidden)
    online = nn.ModuleList([critic, value])
    target = copy.deepcopy(online).requires_grad_(False)
    optimiser = torch.optim.AdamW(online.parameters(), lr=settings.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.updates)
    state, next_state, action, next_action, reward, going_on, total, episode = (
        torch.from_numpy(np.ascontiguousarray(array))
        for array in (
            logged.state,
            logged.next_state,
            logged.action,
            logged.next_policy_action,
            logged.reward / np.float32(scale),
            discount * (1.0 - logged.terminated.astype(np.float32)),
            (seen / scale).astype(np.float32),
            logged.episode,
        )
    )
    weight_of = torch.from_numpy(weights.astype(np.float32))
    for update in range(settings.updates):
        rows = torch.from_numpy(rng.integers(0, len(reward), settings.batch_size))
        if update < settings.from_returns * settings.updates:
            targets = [total[rows], total[rows]]
        else:
            with torch.no_grad():
                after = target[0](next_state[rows], next_action[rows]), target[1](next_state[rows])
            targets = [(reward[rows] + going_on[rows] * each).clamp(low, high) for each in after]
        weight = weight_of[:, episode[rows]]
        error_q = (critic(state[rows], action[rows]) - targets[0]).square()
        error_v = (value(state[rows]) - targets[1]).square()
        loss = (weight * (error_q + error_v)).mean(1).sum()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        move_towards(target, online, settings.target_rate)
        progress(update)
    starts = torch.from_numpy(logged.starts)
    with torch.no_grad():
        policy = critic(state[starts], torch.from_numpy(logged.policy_action)[starts])
        behaviour = value(state[starts])
        tail = torch.cat([value(some).mean(0) for some in next_state.split(AT_ONCE)])
    return Fitted(*((scale * found.double()).numpy() for found in (policy, behaviour, tail)))


def _interval(members: np.ndarray, quantile: float, missed: float = 0.0) -> Interval:
    """The mean and an interval about it, widened on both sides by `missed`."""
    mean, half = float(members.mean()), quantile * float(members.std(ddof=1)) + missed
    return Interval(mean, mean - half, mean + half)


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
