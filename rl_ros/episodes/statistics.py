"""Statistics of success rates and of runs."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

RESAMPLES = 2000


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
