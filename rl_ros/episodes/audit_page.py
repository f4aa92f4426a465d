"""The audit as one HTML page: verdicts, histograms, coverage, camera strips."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rl_ros.contract import Contract
from rl_ros.episodes.audit import Audit, EpisodeAudit, Level, entry_names
from rl_ros.episodes.bags import read_bag
from rl_ros.episodes.ingest import episodes_of
from rl_ros.episodes.pages import camera_strip, figures_table, heading, picture, plot, text_table, write_page

STRIPS = 6
"""Flagged episodes that are shown with their pictures, the worst first."""
COLOURS = {Level.OK: "#2a6fbb", Level.WARN: "#d28b16", Level.BAD: "#b8332a"}


def write_audit_page(audit: Audit, file: Path) -> None:
    """Write the page; the bags of flagged episodes are read once more for their pictures."""
    flagged = sorted((e for e in audit.episodes if e.level), key=lambda e: -e.level)
    sections = [figures_table(audit.summary().items())]
    if audit.findings:
        sections += [heading("The whole set"), text_table(["verdict", "what"], _lines(audit))]
    if flagged:
        rows = [(str(e.level), e.name, e.outcome, e.reasons) for e in flagged]
        sections += [heading("Flagged episodes"), text_table(["verdict", "episode", "outcome", "why"], rows)]
    if audit.readable:
        sections += [
            heading("Figures"),
            plot(histograms(audit.readable), "Episodes by figure; the colour is the verdict."),
            heading("Coverage"),
            plot(
                coverage(audit.readable, audit.contract),
                "Where episodes start, and what they are asked for, by outcome.",
            ),
        ]
    strips = [strip for e in [e for e in flagged if e.spans][:STRIPS] for strip in _strip(e, audit)]
    if strips:
        sections += [heading("Flagged episodes as the camera saw them"), *strips]
    clean = next((e for e in audit.readable if not e.level), None)
    if clean is not None and (shown := _strip(clean, audit)):
        sections += [heading("An episode without findings"), *shown]
    write_page(file, "Audit of recordings", sections)


def histograms(episodes: Sequence[EpisodeAudit]) -> Figure:
    """Return, length, idle share, jumps, saturation and cut share, stacked by verdict."""
    figures: dict[str, list[float]] = {
        "return": [e.total_reward for e in episodes],
        "transitions": [float(e.transitions) for e in episodes],
        "idle, % of ticks": [100 * e.idle for e in episodes],
        "jumps, % of actions": [100 * e.jumps for e in episodes],
        "at a limit, % of ticks": [100 * max(e.saturation.values(), default=0.0) for e in episodes],
        "cut out, % of transitions": [100 * e.cut for e in episodes],
    }
    figure, panels = plt.subplots(2, 3, figsize=(10, 5), layout="constrained")
    for axes, (name, values) in zip(panels.flat, figures.items(), strict=True):
        stacks = [[v for v, e in zip(values, episodes, strict=True) if e.level is level] for level in Level]
        bins = np.linspace(0, 100, 21) if "%" in name else np.histogram_bin_edges(values, 20)
        axes.hist(
            stacks, bins=bins, stacked=True, color=[COLOURS[level] for level in Level], label=[str(v) for v in Level]
        )
        axes.set_xlabel(name)
        axes.set_ylabel("episodes")
    panels[0, 0].legend(title="verdict")
    return figure


def coverage(episodes: Sequence[EpisodeAudit], contract: Contract) -> Figure:
    """First value of each vector, the first two entries against each other; single numbers as a histogram."""
    keys = contract.observation | contract.auxiliary | {"desired_goal": contract.goal.desired_goal}
    names = list(episodes[0].starts)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(3.4 * columns, 3.2 * rows), layout="constrained", squeeze=False
    )
    success = np.array([e.outcome == "success" for e in episodes])
    for axes, name in zip(panels.flat, names, strict=False):
        starts = np.stack([episode.starts[name] for episode in episodes])
        unit = f", {keys[name].unit}" if keys[name].unit else ""
        labels = [entry.removeprefix(f"{name}.") + unit for entry in entry_names(name, keys[name])]
        if starts.shape[1] == 1:
            axes.hist(starts[:, 0], color="#777")
            axes.set_xlabel(labels[0])
            axes.set_ylabel("episodes")
        else:
            axes.scatter(*starts[~success, :2].T, s=14, color=COLOURS[Level.BAD], label="no success", alpha=0.7)
            axes.scatter(*starts[success, :2].T, s=14, color=COLOURS[Level.OK], label="success", alpha=0.7)
            axes.set_xlabel(labels[0])
            axes.set_ylabel(labels[1])
            axes.set_xlim(_at_least(*axes.get_xlim()))
            axes.set_ylim(_at_least(*axes.get_ylim()))
            axes.ticklabel_format(useOffset=False)
            axes.locator_params(nbins=5)
        axes.set_title(name)
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    scattered = next((axes for axes in panels.flat if axes.get_legend_handles_labels()[0]), None)
    if scattered is not None:
        scattered.legend(fontsize=8)
    return figure


def _at_least(low: float, high: float, width: float = 1e-3) -> tuple[float, float]:
    """Limits no closer than `width`: the noise of a sensor is no coverage."""
    middle, half = (low + high) / 2, max(high - low, width) / 2
    return middle - half, middle + half


def _lines(audit: Audit) -> list[tuple[str, str]]:
    return [(str(finding.level), finding.text) for finding in audit.findings]


def _strip(episode: EpisodeAudit, audit: Audit) -> list[str]:
    episodes = episodes_of(read_bag(Path(episode.source)), audit.contract, [], audit.cuts)
    strip = camera_strip(next(islice(episodes, episode.number or 0, None)).observation)
    if strip is None:
        return []
    text = f"{episode.name} ({episode.outcome}): {episode.reasons or 'nothing found'}"
    return [picture(strip, text)]
