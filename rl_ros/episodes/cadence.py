"""Picks regular ticks out of a faster stream of stamps."""

EARLIEST = 0.75
"""Periods between two picks, at least: after one that came late the next ones are not hurried."""


class Cadence:
    """From one pick to the next it is a period of ns, on average, and never much less."""

    def __init__(self, period: int) -> None:
        self.period = period
        self.due: int | None = None
        """Stamp from which the next pick is due, ns."""

    def picks(self, stamp: int) -> bool:
        """Whether the message with this stamp, ns, is one of them."""
        if self.due is None or abs(stamp - self.due) > 2 * self.period:  # the first, a gap, or a clock that was set
            self.due = stamp
        if stamp < self.due:
            return False
        self.due = max(self.due + self.period, stamp + round(EARLIEST * self.period))
        return True
