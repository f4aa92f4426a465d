"""The one statistic of success rates."""

import math


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
