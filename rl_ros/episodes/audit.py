"""What a person should know of recordings before training on them: plain functions of their arrays.

Each check has its threshold in `Thresholds`. What a check finds is a `Finding`: `warn` is worth a look, `bad`
means that the episode should not be trained on.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path

import numpy as np

from rl_ros.contract import Contract, Key
from rl_ros.episodes.bags import Bag, read_bag
from rl_ros.episodes.ingest import Cuts, episodes_of
from rl_ros.episodes.memory import Episode
from rl_ros.episodes.messages import MessageError, stamp_of
from rl_ros.episodes.statistics import wilson_interval
from rl_ros.errors import UserError


@dataclass(frozen=True)
class Thresholds:
    """From where on something is flagged. Shares are of 1; ranges are those of the contract's action limits."""

    transitions: int = 5
    """Fewer are too short an episode: bad."""
    idle_action: float = 0.02
    """Share of a channel's range: smaller velocities, and smaller changes of position, ask for no motion."""
    idle: float = 0.5
    """Share of ticks that ask for no motion: warn."""
    jump: float = 0.5
    """Share of a channel's range from one action to the next that counts as a jump."""
    jumps: float = 0.25
    """Share of actions that jump: warn."""
    saturation: float = 0.8
    """Share of ticks at one of a channel's limits: warn."""
    motion: float = 0.05
    """Share of an observation's span within the episode that counts as motion between two ticks."""
    freeze: int = 3
    """Ticks in a row with the same image while the arm moves: bad."""
    cut_warn: float = 0.0
    """Share of transitions that were cut out: more is a warning."""
    cut_bad: float = 0.2
    """Share of transitions that were cut out: more is bad."""
    age: float = 0.5
    """Share of the control period: a topic whose values are older at a tick (median) is skewed: warn."""
    latency: float = 0.1
    """s between the delays (log time minus stamp, median) of two topics: one of their clocks is wrong: warn."""


DEFAULTS = Thresholds()


class Level(IntEnum):
    """A verdict."""

    OK = 0
    WARN = 1
    BAD = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Finding:
    """One thing found: how bad it is, by which check, and what exactly."""

    level: Level
    check: str
    text: str


@dataclass(frozen=True)
class EpisodeAudit:
    """What was found in one episode. The figures of one that could not be read are empty."""

    source: str
    """Its bag."""
    number: int | None = None
    """Which episode of the bag it is, where there are several."""
    outcome: str = "unreadable"
    findings: tuple[Finding, ...] = ()
    transitions: int = 0
    seconds: float = 0.0
    total_reward: float = 0.0
    idle: float = 0.0
    """Share of ticks that ask for no motion."""
    jumps: float = 0.0
    """Share of actions that jump."""
    saturation: dict[str, float] = field(default_factory=dict)
    """Share of ticks at a limit, by action entry."""
    cut: float = 0.0
    """Share of transitions that were cut out."""
    constant: frozenset[str] = frozenset()
    """Entries of the observation that never change within the episode."""
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Smallest and largest value by entry, of observation, auxiliary values, action and goal."""
    starts: dict[str, np.ndarray] = field(default_factory=dict)
    """First value of each vector of observation, auxiliary values and goal, by key."""

    @property
    def name(self) -> str:
        """The bag's name, and the episode's number within it where there are several."""
        name = Path(self.source).name
        return name if self.number is None else f"{name} [{self.number}]"

    @property
    def level(self) -> Level:
        """The verdict."""
        return max((finding.level for finding in self.findings), default=Level.OK)

    @property
    def reasons(self) -> str:
        """The findings in one line."""
        return "; ".join(finding.text for finding in self.findings)


@dataclass(frozen=True)
class Audit:
    """What was found in a set of bags."""

    contract: Contract
    episodes: tuple[EpisodeAudit, ...]
    findings: tuple[Finding, ...]
    """What concerns the set and no single episode."""
    cuts: Cuts = Cuts()
    """Where the bags were cut into episodes."""

    @property
    def level(self) -> Level:
        """The worst of all verdicts."""
        return max([f.level for f in self.findings] + [e.level for e in self.episodes], default=Level.OK)

    @property
    def readable(self) -> tuple[EpisodeAudit, ...]:
        """Episodes with figures."""
        return tuple(episode for episode in self.episodes if episode.spans)

    def success(self) -> tuple[int, int, float, float] | None:
        """Successes, episodes judged, and the 95 % interval of the rate (Wilson); None if none was judged."""
        judged = [e.outcome for e in self.readable if e.outcome not in UNJUDGED]
        if not judged:
            return None
        return judged.count("success"), len(judged), *wilson_interval(judged.count("success"), len(judged))

    def summary(self) -> dict[str, str]:
        """The figures of the whole set, in words."""
        episodes, success = self.readable, self.success()
        verdicts = Counter(str(episode.level) for episode in self.episodes)
        figures = {
            "episodes": f"{len(self.episodes)}: " + ", ".join(f"{verdicts[str(level)]} {level}" for level in Level),
            "outcomes": ", ".join(f"{n} {name}" for name, n in Counter(e.outcome for e in self.episodes).most_common()),
        }
        if success is not None:
            hits, trials, low, high = success
            figures["success"] = f"{hits / trials:.2f} of {trials} (95 % interval {low:.2f} to {high:.2f})"
        if episodes:
            figures |= {
                "transitions": f"{sum(e.transitions for e in episodes)} ({_spread([e.transitions for e in episodes])})",
                "duration": _spread([e.seconds for e in episodes], " s"),
                "return": _spread([e.total_reward for e in episodes]),
                "idle": _spread([100 * e.idle for e in episodes], " %"),
                "action jumps": _spread([100 * e.jumps for e in episodes], " %"),
                "at an action limit": _spread([100 * max(e.saturation.values(), default=0.0) for e in episodes], " %"),
                "cut out": _spread([100 * e.cut for e in episodes], " %"),
            }
        return figures


REASONS = 3
"""Reasons for cut transitions that are named."""
UNJUDGED = ("unfinished", "operator", "unreadable")
"""Outcomes of episodes that nobody judged to the end."""


def audit(
    bags: Sequence[Path],
    contract: Contract,
    thresholds: Thresholds = DEFAULTS,
    progress: Callable[[], None] = lambda: None,
    cuts: Cuts | None = None,
) -> Audit:
    """Audit bags one after the other; only figures stay in memory.

    Args:
        bags: directories or files.
        contract: what to take from them.
        thresholds: from where on something is flagged.
        progress: called after each bag.
        cuts: for bags of several episodes.
    """
    cuts = cuts or Cuts()
    episodes = []
    for path in bags:
        episodes += audit_bag(path, contract, thresholds, cuts)
        progress()
    return replace(audit_set(episodes, contract), cuts=cuts)


def audit_bag(path: Path, contract: Contract, thresholds: Thresholds, cuts: Cuts) -> list[EpisodeAudit]:
    """Everything that can be said of the episodes of one bag; what cannot be used is bad, with the reason."""
    found: list[EpisodeAudit] = []
    refused: list[str] = []
    try:
        bag = read_bag(path)
        times = times_of(bag, contract)
        whole = [Finding(Level.WARN, "damage", bag.damage)] if bag.damage else []
        if bag.missing:
            whole.append(Finding(Level.WARN, "incomplete", f"incomplete topics: {', '.join(bag.missing)}"))
        for episode in episodes_of(bag, contract, refused, cuts):
            findings = audit_episode(episode, contract, thresholds)
            skew = skew_findings(times, episode.stamps, contract, thresholds)
            found.append(replace(findings, findings=(*findings.findings, *whole, *skew)))
    except UserError as error:
        refused.append(str(error))
    if len(found) > 1:
        found = [replace(episode, number=number) for number, episode in enumerate(found)]
    reasons = [text.removeprefix(f"{path}: ").removeprefix(f"{path}/").rstrip(".") for text in refused]
    return found + [EpisodeAudit(str(path), findings=(Finding(Level.BAD, "unreadable", why),)) for why in reasons]


def audit_episode(episode: Episode, contract: Contract, thresholds: Thresholds = DEFAULTS) -> EpisodeAudit:
    """What the arrays of one episode tell."""
    t = thresholds
    transitions = int(episode.has_transition.sum())
    idle = idle_ticks(episode, contract, t)
    idle_share = float(idle[episode.has_transition].mean()) if transitions else 0.0
    jumps = jumping_actions(episode, contract, t)
    jump_share = float(jumps.mean()) if len(jumps) else 0.0
    saturation = saturation_shares(episode, contract)
    cut = cut_share(episode, contract)
    problems = ", ".join(episode.problems[:REASONS])
    if len(episode.problems) > REASONS:
        problems += f" and {len(episode.problems) - REASONS} more"
    findings = []

    def note(level: Level, check: str, text: str) -> None:
        findings.append(Finding(level, check, text))

    if transitions < t.transitions:
        note(Level.BAD, "short", f"{transitions} transitions, too short to learn from")
    if cut > t.cut_warn:
        note(Level.BAD if cut > t.cut_bad else Level.WARN, "cut", f"{cut:.0%} of the transitions cut out: {problems}")
    elif episode.problems:
        note(Level.WARN, "problems", problems)
    if episode.outcome in UNJUDGED or episode.outcome == "fault":
        note(Level.WARN, "outcome", f"ended as {episode.outcome}")
    for name, ticks in frozen_cameras(episode, idle, t).items():
        if ticks >= t.freeze:
            note(Level.BAD, "freeze", f"{name} shows the same image for {ticks} ticks in a row while the arm moves")
    if idle_share > t.idle:
        note(Level.WARN, "idle", f"idle in {idle_share:.0%} of its ticks")
    if jump_share > t.jumps:
        note(Level.WARN, "jumps", f"{jump_share:.0%} of its actions jump")
    for name, share in saturation.items():
        if share > t.saturation:
            note(Level.WARN, "saturation", f"{name} is at its limit in {share:.0%} of the ticks")
    constant = constant_entries(episode, contract) if not idle.all() else frozenset()
    if constant:
        note(Level.WARN, "constant", f"never changes: {', '.join(sorted(constant))}")
    vectors = {k: v for k, v in {**episode.observation, **episode.auxiliary}.items() if v.ndim == 2}
    return EpisodeAudit(
        source=episode.source,
        outcome=episode.outcome,
        findings=tuple(findings),
        transitions=transitions,
        seconds=float(episode.stamps[-1] - episode.stamps[0]) * 1e-9,
        total_reward=float(episode.reward.sum()),
        idle=idle_share,
        jumps=jump_share,
        saturation=saturation,
        cut=cut,
        constant=constant,
        spans=_spans(episode, contract),
        starts={name: values[0] for name, values in (vectors | {"desired_goal": episode.desired_goal}).items()},
    )


def audit_set(episodes: Sequence[EpisodeAudit], contract: Contract) -> Audit:
    """What only the set shows; what is the same in every episode is said once instead of for each."""
    readable = [episode for episode in episodes if episode.spans]
    several = len(readable) > 1
    findings = []
    dead = set()
    for name in readable[0].spans if several else ():
        low = min(episode.spans[name][0] for episode in readable)
        high = max(episode.spans[name][1] for episode in readable)
        if low == high and (contract.goal.policy_input or not name.startswith("desired_goal")):
            dead.add(name)
            findings.append(Finding(Level.WARN, "dead", f"{name} is {low:g} in every tick of every episode"))
    always = frozenset.intersection(*(episode.constant for episode in readable)) if several else frozenset()
    for name in sorted(always - dead):
        findings.append(Finding(Level.WARN, "constant", f"{name} never changes within an episode, in any of them"))
    judged = [episode.outcome for episode in readable if episode.outcome not in UNJUDGED]
    if several and judged and "success" not in judged:
        findings.append(Finding(Level.WARN, "success", f"none of {len(judged)} episodes succeeded"))
    if several:
        first = readable[0].starts
        same = [name for name in first if all(np.array_equal(e.starts[name], first[name]) for e in readable)]
        if len(same) == len(first):
            findings.append(Finding(Level.WARN, "coverage", "every episode starts in the same place"))
    said = always | dead
    return Audit(contract, tuple(_without_constants(episode, said) for episode in episodes), tuple(findings))


def _without_constants(episode: EpisodeAudit, said: Iterable[str]) -> EpisodeAudit:
    left = sorted(episode.constant - frozenset(said))
    findings = [finding for finding in episode.findings if finding.check != "constant"]
    if left:
        findings.append(Finding(Level.WARN, "constant", f"never changes: {', '.join(left)}"))
    return replace(episode, findings=tuple(findings))


def idle_ticks(episode: Episode, contract: Contract, thresholds: Thresholds) -> np.ndarray:
    """Ticks whose action asks for no motion, bool (T,): velocities near zero, positions that stay as they were."""
    span = contract.action_high - contract.action_low
    changes = np.abs(np.diff(episode.action, axis=0, prepend=episode.action[:1]))
    asked = np.where(_velocities(contract), np.abs(episode.action), changes)
    idle: np.ndarray = (asked < thresholds.idle_action * span).all(axis=1)
    return idle


def jumping_actions(episode: Episode, contract: Contract, thresholds: Thresholds) -> np.ndarray:
    """Whether each action jumps from the one before, bool; only where both are there. Discrete channels may."""
    both = episode.has_transition[1:] & episode.has_transition[:-1]
    share = np.abs(np.diff(episode.action, axis=0))[both] / (contract.action_high - contract.action_low)
    jumps: np.ndarray = (share[:, ~contract.action_discrete] > thresholds.jump).any(axis=1)
    return jumps


def saturation_shares(episode: Episode, contract: Contract) -> dict[str, float]:
    """Share of ticks at one of its limits, by entry of the continuous channels."""
    action = episode.action[episode.has_transition]
    slack = 1e-3 * (contract.action_high - contract.action_low)
    at_limit = (action >= contract.action_high - slack) | (action <= contract.action_low + slack)
    shares = at_limit.mean(axis=0) if len(action) else np.zeros(action.shape[1])
    names = _action_names(contract)
    return {name: float(s) for name, s, d in zip(names, shares, contract.action_discrete, strict=True) if not d}


def frozen_cameras(episode: Episode, idle: np.ndarray, thresholds: Thresholds) -> dict[str, int]:
    """Longest run of ticks, by camera, in which the image stays the same although the arm was told to move and did.

    Args:
        idle: ticks whose action asks for no motion, bool (T,).
    """
    moved = np.zeros(len(episode.stamps) - 1, bool)
    for values in episode.observation.values():
        if values.ndim == 2:
            span = np.ptp(values, axis=0)
            step = np.abs(np.diff(values, axis=0))
            moved |= ((step > thresholds.motion * span) & (span > 0)).any(axis=1)
    moved &= ~idle[:-1]
    frozen = {}
    for name, images in episode.observation.items():
        if images.ndim == 4:
            same = np.array([np.array_equal(a, b) for a, b in zip(images[1:], images[:-1], strict=True)], bool)
            frozen[name] = _longest_run(same & moved)
    return frozen


def constant_entries(episode: Episode, contract: Contract) -> frozenset[str]:
    """Entries of the observation that hold one number throughout; sensors that are alive have noise."""
    entries = _entries(contract.observation, episode.observation)
    return frozenset(name for name, values in entries if len(values) > 1 and np.ptp(values) == 0)


def cut_share(episode: Episode, contract: Contract) -> float:
    """Share of the transitions between its first and last tick that are not there, at the pace that it has."""
    gap = np.diff(episode.stamps)
    if not len(gap):
        return 0.0
    longest = 1.5 * contract.period_ns  # beyond which ingestion cuts
    missed = gap[gap > longest] / min(float(np.median(gap)), longest)
    expected = (gap <= longest).sum() + np.maximum(1.0, missed.round()).sum()
    return float(1.0 - episode.has_transition.sum() / expected)


def times_of(bag: Bag, contract: Contract) -> dict[str, np.ndarray]:
    """Stamp and log time of each message, int64 (N, 2) ns in file order, by topic of observation and auxiliary."""
    times: dict[str, list[tuple[int, int]]] = {}
    types = {key.topic: key.type for key in (*contract.observation.values(), *contract.auxiliary.values())}
    for message in bag.read(types):
        if types[message.topic] == message.type:
            try:
                times.setdefault(message.topic, []).append((stamp_of(message.cdr), message.log_time))
            except MessageError:
                continue
    return {topic: np.array(pairs, np.int64).reshape(-1, 2) for topic, pairs in times.items()}


def skew_findings(
    times: Mapping[str, np.ndarray], ticks: np.ndarray, contract: Contract, thresholds: Thresholds
) -> list[Finding]:
    """How far apart the clocks of the topics are.

    Args:
        times: as `times_of` gives them; only what is near the ticks counts.
        ticks: stamps of the episode's ticks, int64 (T,) ns.
    """
    findings = []
    keys = {key.topic: key for key in (*contract.observation.values(), *contract.auxiliary.values())}
    near = {topic: pairs[_near(pairs[:, 0], ticks)] for topic, pairs in times.items()}
    near = {topic: pairs for topic, pairs in near.items() if len(pairs)}
    for topic, pairs in near.items():
        age = value_ages(pairs[:, 0], ticks)
        if keys[topic].alignment == "latest" and len(age):
            median = float(np.median(age))
            if median > thresholds.age * contract.period:
                text = f"{topic} is {median * 1e3:.0f} ms old at a tick (median)"
                findings.append(Finding(Level.WARN, "skew", text))
    delays = {topic: float(np.median(pairs[:, 1] - pairs[:, 0])) * 1e-9 for topic, pairs in near.items()}
    if delays:
        early, late = min(delays, key=lambda t: delays[t]), max(delays, key=lambda t: delays[t])
        if (spread := delays[late] - delays[early]) > thresholds.latency:
            text = f"stamps of {late} are {spread * 1e3:.0f} ms behind those of {early}"
            findings.append(Finding(Level.WARN, "skew", text))
    return findings


def value_ages(stamps: np.ndarray, ticks: np.ndarray) -> np.ndarray:
    """s between each tick and the newest stamp at or before it; ticks before the first stamp are left out.

    Args:
        stamps: of one topic, int64 (N,) ns.
        ticks: int64 (T,) ns.
    """
    ordered = np.sort(stamps)
    index = np.searchsorted(ordered, ticks, side="right") - 1
    ages: np.ndarray = (ticks - ordered[np.maximum(index, 0)])[index >= 0] * 1e-9
    return ages


def entry_names(name: str, key: Key) -> list[str]:
    """A name for each entry of a vector: the key's own, joint names, or x, y, z and w."""
    if key.shape == (1,):
        return [name]
    axes = key.names or ("xyzw" if len(key.shape) == 1 and key.shape[0] <= 4 else range(key.shape[0]))
    return [f"{name}.{axis}" for axis, _ in zip(axes, range(key.shape[0]), strict=False)]


def _near(stamps: np.ndarray, ticks: np.ndarray) -> np.ndarray:
    near: np.ndarray = (stamps >= ticks[0] - 1_000_000_000) & (stamps <= ticks[-1])
    return near


def _velocities(contract: Contract) -> np.ndarray:
    return np.concatenate([np.full(c.shape, c.unit.endswith("/s")) for c in contract.action.values()])


def _action_names(contract: Contract) -> list[str]:
    return [entry for name, channel in contract.action.items() for entry in entry_names(name, channel)]


def _entries(keys: Mapping[str, Key], columns: Mapping[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """Name and values (T,) of each entry of the vectors among `columns`."""
    return [
        (entry, columns[name][:, index])
        for name, key in keys.items()
        if columns[name].ndim == 2
        for index, entry in enumerate(entry_names(name, key))
    ]


def _spans(episode: Episode, contract: Contract) -> dict[str, tuple[float, float]]:
    entries = _entries(contract.observation, episode.observation)
    entries += _entries(contract.auxiliary, episode.auxiliary)
    entries += _entries({"desired_goal": contract.goal.desired_goal}, {"desired_goal": episode.desired_goal})
    action = episode.action[episode.has_transition]
    entries += [(f"action {name}", action[:, index]) for index, name in enumerate(_action_names(contract))]
    return {name: (float(v.min()), float(v.max())) if len(v) else (np.inf, -np.inf) for name, v in entries}


def _longest_run(flags: np.ndarray) -> int:
    ends = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return int((ends[1::2] - ends[::2]).max(initial=0))


def _spread(values: Sequence[float], unit: str = "") -> str:
    low, middle, high = np.percentile(np.asarray(values, np.float64), [0, 50, 100])
    return f"{low:.3g} to {high:.3g}{unit}, median {middle:.3g}{unit}"
