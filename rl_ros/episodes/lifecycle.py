"""The life of episodes as a state machine: what to say next, given what was heard. No ROS.

prepare -> (acknowledged by all) -> reset -> (done) -> start -> (judged to be over) -> end -> (answered
by the guard) -> prepare of the next one. Each wait has a limit, and a sentence for when it runs out.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

DEAD_SECONDS = 0.5
"""How long the guard may hold the arm still, with no further action to reject, until the episode is a fault."""


class Phase(Enum):
    """What is being waited for."""

    PREPARING = "prepare"
    RESETTING = "reset"
    RUNNING = "run"
    CLOSING = "close"
    FINISHING = "finish"
    DONE = "done"


@dataclass(frozen=True)
class Prepare:
    """Stop answering, and get ready for this episode."""

    number: int
    seed: int


@dataclass(frozen=True)
class Reset:
    """Put the world into the state the episode begins with."""

    number: int
    seed: int


@dataclass(frozen=True)
class Start:
    """The episode's first observation has this stamp, in nanoseconds."""

    number: int
    seed: int
    stamp: int


@dataclass(frozen=True)
class End:
    """The episode's last observation has this stamp, in nanoseconds."""

    number: int
    seed: int
    stamp: int
    outcome: str
    steps: int
    total_reward: float
    simulated_seconds: float
    running_seconds: float
    """Wall time from the start to the end."""
    wall_seconds: float
    """Wall time from its preparation to its end."""


@dataclass(frozen=True)
class Finished:
    """All episodes have run, and their bags are closed."""


@dataclass(frozen=True)
class Failed:
    """Something did not answer; the sentence says what and what to look at."""

    sentence: str


Step = Prepare | Reset | Start | End | Finished | Failed


class EpisodeLifecycle:
    """Runs `episodes` episodes (0: without end), the first with `seed` and the number `first`.

    Args:
        required: nodes that must acknowledge before the world is reset.
        recorded: whether each bag must be closed before all is finished.
        patience: s to wait for anything.
        fault_after: s that the guard rejects everything until the episode ends as a fault; 0 ends it at the first.
    """

    def __init__(
        self,
        episodes: int,
        seed: int,
        first: int,
        required: Collection[str],
        recorded: bool,
        patience: float,
        fault_after: float = 0.0,
    ) -> None:
        self.episodes, self.seed, self.first = episodes, seed, first
        self.required, self.recorded, self.patience = frozenset(required), recorded, patience
        self.fault_after = round(fault_after * 1e9)
        self.phase = Phase.PREPARING
        self.number = first - 1
        self._acknowledged: set[str] = set()
        self._unclosed: set[int] = set()
        self._guard_stamp = -1
        self._rejected: int | None = None
        """Stamp of the first of the rejections that last."""
        self._rejected_at = 0.0
        self._since = 0.0

    @property
    def _seed(self) -> int:
        return self.seed + self.number - self.first

    def begin(self, now: float) -> list[Step]:
        """Prepare the next episode; `now` is a steady clock, s."""
        self.number += 1
        self._acknowledged = set()
        self._prepared = now
        self._enter(Phase.PREPARING, now)
        return [Prepare(self.number, self._seed)]

    def acknowledged(self, node: str, number: int, now: float) -> list[Step]:
        """A node is ready for the episode of that number."""
        if self.phase is not Phase.PREPARING or number != self.number:
            return []
        self._acknowledged.add(node)
        if not self.required <= self._acknowledged:
            return []
        self._enter(Phase.RESETTING, now)
        return [Reset(self.number, self._seed)]

    def reset_done(self, number: int, stamp: int, now: float) -> list[Step]:
        """The world is ready; the first observation has this stamp."""
        if self.phase is not Phase.RESETTING or number != self.number:
            return []
        self._start = self._judged = stamp
        self._steps, self._total, self._started = 0, 0.0, now
        self._rejected = None
        self._enter(Phase.RUNNING, now)
        return [Start(self.number, self._seed, stamp)]

    def judged(
        self, stamp: int, reward: float, success: bool, terminated: bool, truncated: bool, now: float
    ) -> list[Step]:
        """An observation was judged."""
        if self.phase is not Phase.RUNNING or stamp < self._start:
            return []
        self._since = now
        self._judged = stamp
        if stamp > self._start:
            self._steps += 1
            self._total += reward
        if terminated or truncated:
            return self._end("success" if success else "timeout" if truncated else "failure", now)
        return []

    def guarded(self, stamp: int, now: float) -> list[Step]:
        """The guard answered the action of that stamp, with whatever command."""
        self._guard_stamp = max(self._guard_stamp, stamp)
        return self._after_end(now)

    def guard_changed(self, stamp: int, rejected: bool, now: float) -> list[Step]:
        """The guard begins or goes on to reject, or accepts again. Rejections that last are a fault.

        A single late action costs a moment of holding still, not the episode.
        """
        self._guard_stamp = max(self._guard_stamp, stamp)
        if self.phase is Phase.RUNNING and stamp >= self._start:
            if not rejected:
                self._rejected = None
            elif self._rejected is None:
                self._rejected, self._rejected_at = stamp, now
            if self._rejected is not None and stamp - self._rejected >= self.fault_after:
                return self._end("fault", now)
        return self._after_end(now)

    def broken_off(self, now: float) -> list[Step]:
        """Something without which no episode goes on, such as room on the disk, is gone."""
        return self._end("fault", now) if self.phase is Phase.RUNNING else []

    def bag_closed(self, number: int, now: float) -> list[Step]:
        """The recorder closed the bag of that episode."""
        self._unclosed.discard(number)
        if self.phase is Phase.FINISHING and not self._unclosed:
            self._enter(Phase.DONE, now)
            return [Finished()]
        return []

    def waited(self, now: float, hint: str = "", stopped: bool = False) -> list[Step]:
        """Time passes; fails if it was too long, but not for a person who has stopped the arm between two episodes.

        Args:
            now: a steady clock, s.
            hint: what is known of the reason.
            stopped: whether the arm is stopped until somebody arms it again.
        """
        if (
            self.phase is Phase.RUNNING
            and self._rejected is not None
            and now - self._rejected_at >= max(self.fault_after * 1e-9, DEAD_SECONDS)
        ):
            return self._end("fault", now)  # no action comes any more to be rejected: the policy is dead
        if stopped and self.phase in (Phase.PREPARING, Phase.RESETTING):
            self._since = now
        if self.phase is Phase.DONE or now - self._since < self.patience:
            return []
        missing = ", ".join(sorted(self.required - self._acknowledged))
        reason = {
            Phase.PREPARING: f"no answer from: {missing}; " + (hint or "is it running on this ROS domain?"),
            Phase.RESETTING: "nothing reset the arm; "
            + (hint or "is arm_sim running, or the arm_guard of a real arm?"),
            Phase.RUNNING: "no observation was judged; " + (hint or "is a sensor or the policy silent?"),
            Phase.CLOSING: "arm_guard does not answer; is it running?",
            Phase.FINISHING: f"the recorder did not close: {sorted(self._unclosed)}; is it running, and the disk full?",
        }[self.phase]
        self.phase = Phase.DONE
        return [Failed(f"episode {self.number}: waited {self.patience:g} s: {reason}")]

    def _end(self, outcome: str, now: float) -> list[Step]:
        self._enter(Phase.CLOSING, now)
        if self.recorded:
            self._unclosed.add(self.number)
        end = End(
            self.number,
            self._seed,
            self._judged,
            outcome,
            self._steps,
            self._total,
            (self._judged - self._start) * 1e-9,
            now - self._started,
            now - self._prepared,
        )
        return [end, *self._after_end(now)]

    def _after_end(self, now: float) -> list[Step]:
        # The last observation is answered like any other, and recorded: so wait for that answer.
        if self.phase is not Phase.CLOSING or self._guard_stamp < self._judged:
            return []
        if self.episodes and self.number - self.first + 1 >= self.episodes:
            if self._unclosed:
                self._enter(Phase.FINISHING, now)
                return []
            self._enter(Phase.DONE, now)
            return [Finished()]
        return self.begin(now)

    def _enter(self, phase: Phase, now: float) -> None:
        self.phase, self._since = phase, now
