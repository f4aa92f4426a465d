"""Durations as they are reported: p50, p99 and the largest of what was noted since the last report."""

from collections import defaultdict

import numpy as np


class Timings:
    """Collects durations by name until they are reported. No clock and no ROS."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)

    def note(self, name: str, seconds: float) -> None:
        """One duration of that name, s."""
        self._seconds[name].append(seconds)

    def report(self) -> dict[str, str]:
        """Per name `NAME_p50_ms`, `NAME_p99_ms` and `NAME_max_ms`, as text; then begins anew."""
        told: dict[str, str] = {}
        for name, seconds in self._seconds.items():
            p50, p99, most = np.percentile(seconds, [50, 99, 100]) * 1e3
            told |= {f"{name}_p50_ms": f"{p50:.3f}", f"{name}_p99_ms": f"{p99:.3f}", f"{name}_max_ms": f"{most:.3f}"}
        self._seconds.clear()
        return told
