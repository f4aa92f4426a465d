"""Plots of results: one frame for all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

plt.switch_backend("Agg")


@contextmanager
def plot(picture: Path) -> Iterator[Axes]:
    """Axes to draw on; the picture is written afterwards, with a grid and a legend."""
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    yield axes
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(picture, dpi=120)
    plt.close(figure)
