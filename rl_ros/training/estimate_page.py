"""What recordings say of a policy, as one HTML page."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from rl_ros.episodes.pages import figures_table, heading, paragraph, plot, write_page
from rl_ros.training.estimate import Calibration, Estimate

COLOURS = {"better": "#2a6fbb", "unclear": "#d28b16", "worse": "#b8332a"}


def write_estimate_page(found: Estimate, title: str, file: Path) -> None:
    """Write the page."""
    rows = [
        ("Held-out episodes", str(found.episodes)),
        ("Transitions in them", str(found.transitions)),
        ("Discount", f"{found.discount:g}"),
        ("Value of the policy", str(found.value)),
        ("Value of the behaviour policy", str(found.behaviour)),
        ("Difference", str(found.difference)),
        ("Distance of its actions to the recorded ones", f"{found.action_distance:.3g}"),
        ("Distance of the recorded ones to their mean", f"{found.action_spread:.3g}"),
    ]
    sections = [
        paragraph(f"{found.recommendation[0].upper()}{found.recommendation[1:]}."),
        figures_table(rows),
        heading("Value"),
        plot(
            value_figure(found),
            "Discounted return from the start of an episode, by fitted Q evaluation, with 95 % intervals: a bootstrap "
            "over episodes, widened by how far the same critics miss the returns of the recorded behaviour.",
        ),
    ]
    if found.calibration is not None:
        sections += [
            heading("Calibration of the run's own critic"),
            plot(
                calibration_figure(found.calibration),
                f"Its values against the returns that followed, in bins of equally many transitions; mean distance "
                f"{found.calibration.error:.3g}, bias {found.calibration.bias:+.3g}, standard deviation of the returns "
                f"{found.calibration.spread:.3g}. A critic of a policy that is better than the recorded behaviour lies "
                "below the line.",
            ),
        ]
    write_page(file, title, sections)


def value_figure(found: Estimate) -> Figure:
    """Values of policy and behaviour, and their difference, with intervals."""
    bars = {
        "policy": (found.value, COLOURS[found.verdict]),
        "behaviour policy": (found.behaviour, "#9a9a9a"),
        "difference": (found.difference, COLOURS[found.verdict]),
    }
    figure, axes = plt.subplots(figsize=(7, 2.2), layout="constrained")
    for row, (interval, colour) in enumerate(bars.values()):
        axes.plot([interval.low, interval.high], [row, row], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot(interval.estimate, row, "o", color=colour, markersize=8)
    axes.axvline(0, color="#bbb", linewidth=1)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlabel("discounted return")
    return figure


def calibration_figure(calibration: Calibration) -> Figure:
    """Mean return against mean value, a point a bin."""
    figure, axes = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
    both = [*calibration.predicted, *calibration.observed]
    axes.plot([min(both), max(both)], [min(both), max(both)], color="#bbb", linewidth=1)
    axes.plot(calibration.predicted, calibration.observed, "o-", color="#2a6fbb", linewidth=1)
    axes.set_xlabel("value Q(s, a)")
    axes.set_ylabel("discounted return that followed")
    return figure
