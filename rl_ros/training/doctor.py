"""Why a run is not learning: each check looks for one known fault and says what to do about it.

The checks are plain functions of `Evidence`, which holds the run's figures, its settings, and what its policy and
critic say of the recordings. What cannot be looked at (no recordings, no critic) is not judged.
"""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from rl_ros.algorithms.base import dataset_statistics
from rl_ros.algorithms.goal_conditioned import GoalConditioned
from rl_ros.contract import Contract
from rl_ros.episodes.audit import entry_names
from rl_ros.episodes.memory import ReplayMemory
from rl_ros.networks.layers import DESIRED_GOAL, Normalisation
from rl_ros.training.bundle import load_bundle
from rl_ros.training.estimate import FEWEST_EPISODES, Estimate, Settings, judge
from rl_ros.training.logged import Logged, collect, discount_of, own_values, possible_returns, returns
from rl_ros.training.runs import metrics_file, read_source, restore

QUICK = Settings(members=8, quantile=2.36, updates=800)
"""For the estimate that the run's own critic is compared with."""
LOOKED_AT = 20_000
"""Transitions that the policy is asked about, at most; whole episodes."""


@dataclass(frozen=True)
class Thresholds:
    """From where on something is a finding."""

    beyond: float = 1.5
    """Times the largest return that the rewards allow: values beyond have diverged."""
    growth: float = 10.0
    """Times that a critic's loss is larger at the end than at its lowest (means of a tenth of the run) to say so."""
    bias: float = 1.0
    """Standard deviations of the returns that the critic may be outside of the interval of another estimate."""
    saturated: float = 0.98
    """A scaled action beyond is at its limit."""
    dead: float = 0.95
    """Share of the policy's actions at a limit, or standing still."""
    only_at_limits: float = 0.99
    """Share of the recorded values of a channel that are at a limit, from which on it is taken for discrete."""
    still: float = 0.005
    """Standard deviation, of half an action's range, below which an action does not answer to what is seen."""
    missing: float = 0.05
    """Share of the episodes that may have lost their end, such as to a gap."""
    time_limit: float = 0.1
    """Share of the episodes with exactly the greatest length from which on that length is a time limit."""
    episodes: int = 20
    """Fewer are thin coverage."""
    transitions: int = 1000
    """Fewer are thin coverage."""
    varied: float = 0.02
    """Standard deviation, of half an action's range, below which an action was not tried."""
    shift: float = 0.5
    """Standard deviations between the mean that the policy normalises with and that of the data."""
    stretch: float = 2.0
    """Times that its standard deviation is larger or smaller than theirs."""


DEFAULTS = Thresholds()
Severity = Literal["warning", "fault"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    check: str
    severity: Severity
    what: str
    """One sentence."""
    where: str
    """File, column or key."""
    remedy: str
    """What to do."""


@dataclass(frozen=True)
class Evidence:
    """What the checks look at."""

    metrics: Mapping[str, np.ndarray]
    """Columns of the run's CSV, float64; a column leaves out the rows in which it is empty."""
    contract: Contract
    discount: float
    normalisation: Normalisation
    memory: ReplayMemory | None = None
    """The recordings."""
    logged: Logged | None = None
    """Some of them, as the policy sees them."""
    q: np.ndarray | None = None
    """Of the run's critic at the transitions of `logged`, float32 (n,)."""
    own_value: float = math.nan
    """What it says of the policy's actions where episodes start, in the mean."""
    estimate: Estimate | None = None
    """What fitted Q evaluation says of the policy."""
    recorded_rewards: bool = True
    """Whether it learns from the recorded rewards, not from some that it gives itself."""
    conservative_weight: float = 0.0
    """How hard its critics are asked to value unseen actions less (CQL); 0 where they are not."""
    metrics_name: str = "metrics.csv"
    thresholds: Thresholds = DEFAULTS


def examine(run: Path, bags: Path | None = None) -> tuple[list[Finding], Evidence]:
    """Look for every known fault in a run, the worst first.

    Args:
        run: its directory.
        bags: recordings, if not those that the run says it was trained on.

    Raises:
        UserError: it is no run, or its recordings cannot be read.
    """
    evidence = gather(run, bags)
    found = [finding for check in CHECKS for finding in check(evidence)]
    return sorted(found, key=lambda finding: finding.severity != "fault"), evidence


def gather(run: Path, bags: Path | None = None) -> Evidence:
    """Read what there is of a run; see `examine`."""
    file = metrics_file(run)
    bundle = load_bundle(run / "bundle")
    learner = restore(bundle)
    source = read_source(run, bags)
    memory = logged = q = found = None
    own_value = math.nan
    if source is not None:
        memory, _ = source.read(bundle)
        episode = memory.episode[memory.transitions]
        looked_at = episode <= episode[min(LOOKED_AT, len(episode)) - 1]
        logged = collect(memory, memory.transitions[looked_at], learner)
        q = own_values(learner, logged)
        chosen = own_values(learner, replace(logged, action=logged.policy_action))
        if chosen is not None and logged.episodes >= FEWEST_EPISODES:
            own_value = float(chosen[logged.starts].mean())
            found = judge(logged, discount_of(learner), settings=QUICK)
    return Evidence(
        metrics=read_metrics(file),
        contract=bundle.contract,
        discount=discount_of(learner),
        normalisation=bundle.normalisation,
        memory=memory,
        logged=logged,
        q=q,
        own_value=own_value,
        estimate=found,
        recorded_rewards=not isinstance(learner, GoalConditioned),
        conservative_weight=getattr(learner.config, "conservative_weight", 0.0),
        metrics_name=file.name,
    )


def read_metrics(file: Path) -> dict[str, np.ndarray]:
    """The columns of a CSV of numbers, without empty cells."""
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {name: np.array([float(row[name]) for row in rows if row[name]]) for name in (rows[0] if rows else ())}


def not_finite(evidence: Evidence) -> list[Finding]:
    """Losses or values that are no numbers any more."""
    broken = [name for name, values in evidence.metrics.items() if np.isinf(values).any() or math.isnan(_last(values))]
    if not broken:
        return []
    return [
        Finding(
            "divergence",
            "fault",
            f"{', '.join(broken)} {'is' if len(broken) == 1 else 'are'} not finite at the end of training.",
            evidence.metrics_name,
            "train with a smaller learning_rate, and look for extreme rewards with `rl_ros audit`",
        )
    ]


def diverged(evidence: Evidence) -> list[Finding]:
    """Values beyond what the rewards allow, or a critic's loss that explodes."""
    limits = evidence.thresholds
    remedy = (
        "hold the policy closer to the data (cql, td3_bc and iql do), lower learning_rate or target_rate, or turn "
        "critic_layer_norm on"
    )
    found = []
    if evidence.memory is not None and evidence.recorded_rewards:
        reward = evidence.memory.reward[evidence.memory.transitions]
        low, high = possible_returns(reward, evidence.discount)
        middle, half = (low + high) / 2, max(limits.beyond * (high - low) / 2, 1e-6)
        last = {name: _last(evidence.metrics[name]) for name in ("q", "value") if name in evidence.metrics}
        if evidence.q is not None:
            last["Q(s, a)"] = float(np.median(evidence.q))
        # A reward that is the same everywhere says nothing of those that hindsight learns from.
        beyond = {} if low == high else {name: value for name, value in last.items() if abs(value - middle) > half}
        if beyond:
            name, value = next(iter(beyond.items()))
            text = f"{name} is {value:.3g}, but with these rewards no return is beyond {low:.3g} to {high:.3g}."
            cure = too_conservative(evidence) if value < low else ""
            severity: Severity = "warning" if cure else "fault"
            found.append(Finding("divergence", severity, text, f"{evidence.metrics_name}: {name}", cure or remedy))
    for name, values in evidence.metrics.items():
        window = max(1, len(values) // 10)
        means = np.array([values[i : i + window].mean() for i in range(0, len(values) - window + 1, window)])
        if found or name != "critic_loss" or len(means) < 5 or not np.isfinite(means).all():
            continue
        if means[-1] > limits.growth * max(means.min(), 1e-9) and means[-1] > means[0]:
            text = f"{name} is {means[-1] / max(means.min(), 1e-9):.0f} times as large at the end as it once was."
            found.append(Finding("divergence", "fault", text, f"{evidence.metrics_name}: {name}", remedy))
    return found


def miscalibrated(evidence: Evidence) -> list[Finding]:
    """A critic that promises far more, or far less, than another one learns of the same policy."""
    if evidence.logged is None or evidence.estimate is None or math.isnan(evidence.own_value):
        return []
    value, own = evidence.estimate.value, evidence.own_value
    margin = evidence.thresholds.bias * float(returns(evidence.logged, evidence.discount).std())
    if value.low - margin <= own <= value.high + margin:
        return []
    over = own > value.estimate
    return [
        Finding(
            "overestimation" if over else "underestimation",
            "warning",
            f"the critic values the policy at {own:.3g}; fitted Q evaluation at {value}.",
            "bundle: critic",
            "hold the policy closer to the data, and see the calibration in `rl_ros evaluate --offline`"
            if over
            else too_conservative(evidence)
            or "train longer or with a larger target_rate, and see that only true ends are marked as terminated",
        )
    ]


def too_conservative(evidence: Evidence) -> str:
    """What to do about values that are too low; empty unless the critics were asked for low ones.

    A policy climbs differences of values, which may be right where all of them are too low.
    """
    if not evidence.conservative_weight:
        return ""
    return (
        "evaluate the policy, which may be none the worse for it; if it is, try another conservative_weight than "
        f"{evidence.conservative_weight:g}: unseen actions are made worth little by it, and recorded ones, which are "
        "followed by them, with them"
    )


def dead_policy(evidence: Evidence) -> list[Finding]:
    """Actions at their limits, or the same whatever is seen, where the recorded ones are not."""
    if evidence.logged is None:
        return []
    limits, logged = evidence.thresholds, evidence.logged
    found = []
    for index, name in _continuous_actions(evidence.contract):
        policy, recorded = logged.policy_action[:, index], logged.action[:, index]
        at_limit, usual = (float(np.mean(np.abs(each) > limits.saturated)) for each in (policy, recorded))
        if at_limit > limits.dead and usual < limits.dead / 2:
            text = f"the policy has {name} at a limit in {at_limit:.0%} of the observations; recorded: {usual:.0%}."
        elif policy.std() < limits.still and recorded.std() > 10 * limits.still:
            text = f"the policy's {name} is {policy.mean():.2f} of half its range, whatever it sees."
        else:
            continue
        remedy = "lower learning_rate, standardise rewards, or weigh the recorded actions more; see the critic first"
        found.append(Finding("dead policy", "fault", text, f"bundle: action {name}", remedy))
    return found


def only_at_limits(evidence: Evidence) -> list[Finding]:
    """A channel that is only ever at its limits, of which a conservative critic believes the worst in between."""
    if evidence.logged is None or not evidence.conservative_weight:
        return []
    limits, found = evidence.thresholds, []
    for index, name in _continuous_actions(evidence.contract):
        recorded = evidence.logged.action[:, index]
        both = recorded.min() < -limits.saturated and recorded.max() > limits.saturated
        at_limit = float(np.mean(np.abs(recorded) > limits.saturated))
        if both and at_limit > limits.only_at_limits:
            text = (
                f"{name} is recorded at one of its limits in {at_limit:.0%} of the transitions; a conservative critic "
                "makes all that is between worth so little that the policy cannot get from one to the other."
            )
            remedy = "set `discrete: true` for it in the contract and train with that: recordings at limits can be read"
            found.append(Finding("limits", "fault", text, f"contract: action {name}", remedy))
    return found


def reward_never_seen(evidence: Evidence) -> list[Finding]:
    """The same reward everywhere: nothing to learn from."""
    if evidence.memory is None or not evidence.recorded_rewards:
        return []
    reward = evidence.memory.reward[evidence.memory.transitions]
    if reward.max() > reward.min():
        return []
    return [
        Finding(
            "reward",
            "fault",
            f"the reward is {reward[0]:g} in all of {len(reward)} transitions, so no action is better than another.",
            f"recordings: {evidence.contract.reward.topic}",
            "record episodes that reach the goal, relabel goals in hindsight, or judge anew with `rl_ros relabel`",
        )
    ]


def wrong_terminals(evidence: Evidence) -> list[Finding]:
    """Ends of episodes that are missing, in the middle, or a time limit that counts as termination."""
    if evidence.memory is None:
        return []
    limits, memory, rows = evidence.thresholds, evidence.memory, evidence.memory.transitions
    where = f"recordings: {evidence.contract.reward.topic}"
    episode, terminated = memory.episode[rows], np.asarray(memory.terminated[rows])
    ended = terminated | memory.truncated[rows]
    last = np.append(np.diff(episode) != 0, True)
    found = []
    missing = int((last & ~ended).sum())
    if missing > limits.missing * last.sum():
        text = f"{missing} of {int(last.sum())} episodes end neither terminated nor truncated."
        remedy = "mark their ends: a success terminates, a time limit truncates; `rl_ros relabel` can do it"
        found.append(Finding("terminals", "fault" if missing == last.sum() else "warning", text, where, remedy))
    if early := int((terminated & ~last).sum()):
        text = f"{early} transitions are marked as terminated, but their episodes go on."
        remedy = "mark only the last transition of an episode, or cut there with --split-on"
        found.append(Finding("terminals", "fault", text, where, remedy))
    length, end = np.bincount(episode)[np.unique(episode)], terminated[last]
    longest = length == length.max()
    if length.max() > length.min() or length.max() == evidence.contract.episode_length > 1:
        limited = longest.sum() >= max(5, limits.time_limit * len(length))
        if limited and end[longest].mean() > 0.5:
            text = (
                f"{int(end[longest].sum())} of {int(longest.sum())} episodes of the greatest length, {length.max()} "
                "transitions, are terminated: a time limit seems to be marked as termination."
            )
            remedy = "mark time limits as truncated, so that what would have come after them counts"
            found.append(Finding("terminals", "fault", text, where, remedy))
    return found


def thin_coverage(evidence: Evidence) -> list[Finding]:
    """Too little to learn from, or actions that were never varied."""
    if evidence.memory is None or evidence.logged is None:
        return []
    limits, rows = evidence.thresholds, evidence.memory.transitions
    found = []
    episodes = len(np.unique(evidence.memory.episode[rows]))
    if episodes < limits.episodes or len(rows) < limits.transitions:
        text = f"there are {episodes} episodes and {len(rows)} transitions."
        remedy = f"record more; {limits.episodes} episodes and {limits.transitions} transitions are little already"
        found.append(Finding("coverage", "warning", text, "recordings", remedy))
    for index, name in _continuous_actions(evidence.contract):
        std = float(evidence.logged.action[:, index].std())
        if std < limits.varied:
            text = f"{name} varies by {std:.1%} of half its range in the recordings: its effect cannot be learned."
            remedy = "record with some variation of it (`rl_ros collect` adds errors), or take it out of the contract"
            found.append(Finding("coverage", "warning", text, f"recordings: action {name}", remedy))
    return found


def wrong_normaliser(evidence: Evidence) -> list[Finding]:
    """A normalisation that is not that of the data."""
    if evidence.memory is None:
        return []
    limits, contract = evidence.thresholds, evidence.contract
    keys = contract.observation | {DESIRED_GOAL: contract.goal.desired_goal}
    found = []
    plain = dataset_statistics(evidence.memory, contract)
    known = [plain]
    if evidence.memory.achieved_goal_key is not None:  # a bundle does not tell whether it learned in hindsight
        known.append(dataset_statistics(evidence.memory, contract, achieved=True))
    for key, data in plain.items():
        if key not in evidence.normalisation or key not in keys:
            continue
        used = evidence.normalisation[key]
        wrong = np.all([_differ(used, each[key], limits) for each in known], axis=0)
        if wrong.any():
            means, stds = (np.array([each[part] for each in (used, data)]) for part in ("mean", "std"))
            index = int(np.argmax(wrong))
            names = entry_names(key, keys[key])
            name = names[index] if len(names) == len(wrong) else f"{key}[{index}]"
            text = (
                f"{name} has mean {means[1, index]:.3g} and standard deviation "
                f"{stds[1, index]:.3g} in the recordings, but is normalised with {means[0, index]:.3g} and "
                f"{stds[0, index]:.3g}."
            )
            remedy = "train on these recordings from the beginning, or check the units and topics of the contract"
            found.append(Finding("normaliser", "fault", text, f"bundle: normalisation of {key}", remedy))
    return found


def _differ(used: Mapping[str, Sequence[float]], data: Mapping[str, Sequence[float]], limits: Thresholds) -> np.ndarray:
    """Whether each entry is normalised with other statistics than those of the data, bool (n,)."""
    means, stds = (np.array([each[part] for each in (used, data)]) for part in ("mean", "std"))
    off, ratio = np.abs(means[0] - means[1]) / stds.min(0), stds[0] / stds[1]
    differ: np.ndarray = (off > limits.shift) | (ratio > limits.stretch) | (ratio < 1 / limits.stretch)
    return differ


CHECKS: tuple[Callable[[Evidence], list[Finding]], ...] = (
    not_finite,
    diverged,
    miscalibrated,
    dead_policy,
    only_at_limits,
    reward_never_seen,
    wrong_terminals,
    thin_coverage,
    wrong_normaliser,
)


def _last(values: np.ndarray) -> float:
    """The last value that was written; NaN if it is none, or there is none."""
    return float(values[-1]) if len(values) else math.nan


def _continuous_actions(contract: Contract) -> list[tuple[int, str]]:
    """Index and name of each entry of the action that is no choice of two."""
    names = [entry for name, channel in contract.action.items() for entry in entry_names(name, channel)]
    return [(index, name) for index, name in enumerate(names) if not contract.action_discrete[index]]
