"""Whether observations are answered in time, and what an answer takes. A steady clock goes in; no ROS."""

from rl_ros.episodes.assemble import Tick
from rl_ros.episodes.timings import Timings

KEPT = 64
"""Observations whose arrival is remembered."""


class Pace:
    """Counts what was answered in time, late, or not at all, and collects what each part of an answer takes.

    Args:
        period: s in which an observation must be answered.
    """

    def __init__(self, period: float) -> None:
        self.period = period
        self.skipped = 0
        """Observations that a newer one has overtaken, since the last report."""
        self.invalid = 0
        """Observations that could not be answered because something was missing or wrong, since the last report."""
        self._late = self._answered = 0
        self._timings = Timings()
        self.restart()

    def restart(self) -> None:
        """An episode is over: forget what has arrived, and keep what is still to be reported."""
        self._arrived: dict[int, float] = {}

    def arrived(self, stamp: int, now: float) -> None:
        """The observation of that stamp arrived."""
        self._arrived[stamp] = now
        if len(self._arrived) > KEPT:
            del self._arrived[next(iter(self._arrived))]

    def waited(self, stamp: int, now: float) -> float:
        """s since the observation of that stamp arrived; earlier ones are forgotten."""
        came = self._arrived.pop(stamp, now)
        self._arrived = {each: at for each, at in self._arrived.items() if each > stamp}
        return now - came

    def answered(self, tick: Tick, waited: float, inference: float, publish: float) -> None:
        """An action was published.

        Args:
            tick: what was answered.
            waited: s from the arrival of the observation until the policy was asked.
            inference: s of the policy.
            publish: s until the action was handed to the middleware.
        """
        self._answered += 1
        self._late += waited + inference + publish > self.period
        parts = {"wait": waited, "inference": inference, "publish": publish, "answer": waited + inference + publish}
        for name, seconds in (parts | {f"age.{key}": age for key, age in tick.ages.items()}).items():
            self._timings.note(name, seconds)

    def report(self) -> tuple[dict[str, str], str]:
        """Counts and timings since the last report, and a sentence where observations were not answered in time."""
        counts = {"late": self._late, "skipped": self.skipped, "invalid": self.invalid}
        missed = sum(counts.values())
        values = {"answered": str(self._answered), "missed": str(missed)}
        values |= {name: str(count) for name, count in counts.items()} | self._timings.report()
        self._late = self._answered = self.skipped = self.invalid = 0
        told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        return values, f"observations not answered in time: {told}" if missed else ""
