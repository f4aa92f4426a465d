"""Statistics of success rates, of runs, and of what has been seen so far."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

RESAMPLES = 2000
SMALLEST_STD = 0.01
"""What hardly moves is not to be blown up: the smallest standard deviation (Plappert et al. 2018, 1802.09464)."""


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a success rate from few trials (Wilson 1927).

    Raises:
        ValueError: there are no trials.
    """
    if trials < 1:
        raise ValueError("an interval needs at least one trial")
    rate = successes / trials
    centre = rate + z * z / (2 * trials)
    margin = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def success_figures(successes: int, episodes: int) -> dict[str, Any]:
    """`episodes`, `success` and its interval `success_95`, as they are reported.

    Raises:
        ValueError: there are no episodes.
    """
    interval = wilson_interval(successes, episodes)
    return {
        "episodes": episodes,
        "success": round(successes / episodes, 4),
        "success_95": [round(bound, 4) for bound in interval],
    }


def bootstrap_interval(
    values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray] = lambda resampled: resampled.mean(1)
) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of a statistic over runs, by resampling the runs (Agarwal et al. 2021, 2108.13264).

    Args:
        values: (runs, ...).
        statistic: of (resamples, runs, ...) over the runs; the mean by default.
    """
    chosen = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(statistic(values[chosen]), [2.5, 97.5], axis=0)
    return low, high


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half of the scores along the last axis, (...,) from (..., n).

    Half way between mean and median: a quarter of the scores is left out at each end, the scores at the borders in
    part (Agarwal et al. 2021, 2108.13264).
    """
    ordered, count = np.sort(values, axis=-1), values.shape[-1]
    places = np.arange(count)
    weight = np.clip(np.minimum(places + 1, 0.75 * count) - np.maximum(places, 0.25 * count), 0.0, 1.0)
    mean: np.ndarray = (ordered * weight).sum(-1) / weight.sum()
    return mean


@dataclass
class RunningStatistics:
    """Mean and standard deviation of all that was ever seen, by key."""

    count: dict[str, int] = field(default_factory=dict)
    total: dict[str, np.ndarray] = field(default_factory=dict)
    squares: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, name: str, values: np.ndarray) -> None:
        """Take in values (n, *shape)."""
        rows = values.reshape(len(values), -1).astype(np.float64)
        none = np.zeros(rows.shape[1])
        self.count[name] = self.count.get(name, 0) + len(rows)
        self.total[name] = self.total.get(name, none) + rows.sum(0)
        self.squares[name] = self.squares.get(name, none) + np.square(rows).sum(0)

    def normalisation(self) -> dict[str, dict[str, list[float]]]:
        """`mean` and `std` by name, the latter at least `SMALLEST_STD`."""
        found = {}
        for name, count in self.count.items():
            mean = self.total[name] / count
            variance = np.maximum(self.squares[name] / count - np.square(mean), SMALLEST_STD**2)
            found[name] = {"mean": mean.tolist(), "std": np.sqrt(variance).tolist()}
        return found

    def state(self) -> dict[str, dict[str, Any]]:
        """All of it as plain data."""
        return {
            name: {"count": count, "total": self.total[name].tolist(), "squares": self.squares[name].tolist()}
            for name, count in self.count.items()
        }

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on from what `state` gave."""
        self.count = {name: entry["count"] for name, entry in state.items()}
        self.total = {name: np.array(entry["total"]) for name, entry in state.items()}
        self.squares = {name: np.array(entry["squares"]) for name, entry in state.items()}
