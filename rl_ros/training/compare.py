"""Runs side by side: learning curves with intervals over seeds, on one HTML page and in one CSV."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rl_ros.episodes.pages import heading, paragraph, plot, text_table, write_page
from rl_ros.episodes.statistics import bootstrap_interval, wilson_interval
from rl_ros.errors import UserError
from rl_ros.training.bundle import load_bundle
from rl_ros.training.live import read_results
from rl_ros.training.runs import metrics_file, read_source

POINTS = 100
"""Steps at which the curves of a group are averaged."""
NO_FIGURES = {"seconds", "episodes", "transitions", "owed_updates", "updates"}
FIRST = ("success", "return")
"""Figures that are shown first, before what is said of held-out episodes and then all others."""
COLUMNS = 3
"""Panels side by side."""
LEGEND_LETTERS = 140
"""What fits into a row of a legend."""
LINES = ("-", "--", ":")
"""Of groups that share a colour."""


@dataclass(frozen=True)
class Data:
    """What a run has learned from: two tasks may well keep their recordings under the same name."""

    contract: str
    bags: Path | None = None
    """The directory, resolved; None for a run that collected for itself."""
    layer: str = ""
    """Of rewards, if not the recorded one."""

    def names(self) -> list[str]:
        """What it can be called, the shortest first; the last is no other's."""
        if self.bags is None:
            return [self.contract]
        paths = ["/".join(self.bags.parts[-length:]) for length in range(1, len(self.bags.parts))]
        layer = f" ({self.layer})" if self.layer else ""
        return [f"{name}{layer}" for name in (paths[0], self.contract, *paths[1:], f"{self.bags} as {self.contract}")]


@dataclass(frozen=True)
class Run:
    """What one run said of itself."""

    directory: Path
    algorithm: str
    data: Data
    steps: str
    """What a step of the curves is: `update` or `env_steps`."""
    figures: Mapping[str, tuple[np.ndarray, np.ndarray]]
    """By name: steps and values, without empty rows."""
    seconds: float = math.nan
    live: tuple[int, int] | None = None
    """Successes and episodes of `rl_ros evaluate`."""
    verdict: str = ""
    """Of `rl_ros evaluate --offline`."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of the algorithm and of how the recordings were read, all but the seed; as `--set` takes them."""


@dataclass(frozen=True)
class Curve:
    """A figure over the steps, averaged over the runs of a group; arrays (points,)."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    """Of the 95 % interval; that of a single run is the run."""
    high: np.ndarray


@dataclass
class Group:
    """Runs that differ in their seed alone."""

    runs: list[Run] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    settings: str = ""
    """Those in which it differs from other groups of its algorithm."""
    data: str = ""
    name: str = ""
    """As it is called in legends: whatever tells it from the others."""


def write_comparison(directories: Sequence[Path], out: Path) -> tuple[Path, Path]:
    """Write `out/compare.html` and `out/compare.csv`; returns both.

    Raises:
        UserError: one of the directories holds no run.
    """
    groups = group([read_run(directory) for directory in directories])
    out.mkdir(parents=True, exist_ok=True)
    page, table = out / "compare.html", out / "compare.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["algorithm", "settings", "data", "runs", "figure", "step", "mean", "low", "high"])
        for each in groups:
            for name, curve in each.curves.items():
                for row in zip(curve.steps, curve.mean, curve.low, curve.high, strict=True):
                    cells = (f"{value:.6g}" for value in row)
                    known = each.runs[0].algorithm, each.settings, each.data, len(each.runs)
                    writer.writerow([*known, name, *cells])
    sections = [
        paragraph(
            "Runs of the same algorithm, settings and data are one group, called by what tells it from the others. "
            "Intervals are 95 % bootstraps of the mean over the runs of a group; a group of one run has none. Every "
            "figure at the end is that of the last update, never of the best one."
        ),
        paragraph(f"Data: {', '.join(dict.fromkeys(each.data for each in groups))}."),
        text_table(["group", "runs", "steps", "seconds", "live success", "offline verdict"], _rows(groups)),
        heading("Learning curves"),
        plot(curves_figure(groups), "Figures of each group over its steps, with their intervals."),
        heading("At the end"),
        text_table(["figure", *(each.name for each in groups)], _last_rows(groups)),
    ]
    write_page(page, "Runs side by side", sections)
    return page, table


def read_run(directory: Path) -> Run:
    """Read a run's figures and what is known of it; one that is still learning goes by its directory's name.

    Raises:
        UserError: it is no run, or has no figures yet.
    """
    file = metrics_file(directory)
    with file.open(newline="") as lines:
        reader = csv.DictReader(lines)
        names, rows = list(reader.fieldnames or ()), list(reader)
    if not rows:
        raise UserError(f"{file}: holds no figures yet.")
    figures = {}
    for name in names[1:]:
        filled = [row for row in rows if row[name]]
        values = np.array([[float(row[names[0]]), float(row[name])] for row in filled]).reshape(-1, 2)
        if len(values) and name not in NO_FIGURES:
            figures[name] = (values[:, 0], values[:, 1])
    source, algorithm, data = read_source(directory), directory.name, Data("?")
    settings: dict[str, Any] = {}
    if (directory / "bundle").is_dir():
        bundle = load_bundle(directory / "bundle")
        algorithm, data = bundle.algorithm, Data(bundle.contract.name)
        settings = {name: value for name, value in bundle.configuration.items() if name != "seed"}
    if source is not None:
        data = Data(data.contract, Path(source.bags).resolve(), source.task)
        settings |= {name: value for name, value in asdict(source).items() if name not in ("bags", "cache", "task")}
    live = read_results(directory / "evaluation" / "episodes.jsonl")
    judged = directory / "offline_evaluation" / "estimate.json"
    return Run(
        directory=directory,
        algorithm=algorithm,
        data=data,
        steps=names[0],
        figures=figures,
        seconds=float(rows[-1].get("seconds") or "nan"),
        live=(live.successes, len(live.episodes)) if live.episodes else None,
        verdict=str(json.loads(judged.read_text())["verdict"]) if judged.is_file() else "",
        settings={name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()},
    )


def group(runs: Sequence[Run]) -> list[Group]:
    """Runs by algorithm, settings and data, with the curves of all figures that every run of the group has."""
    found: dict[object, Group] = {}
    for run in runs:
        found.setdefault((run.algorithm, run.data, *sorted(run.settings.items())), Group()).runs.append(run)
    groups = list(found.values())
    data_names = _data_names([run.data for run in runs])
    for each in groups:
        first = each.runs[0]
        like = [other.runs[0].settings for other in groups if other.runs[0].algorithm == first.algorithm]
        differ = [name for name in first.settings if len({settings.get(name) for settings in like}) > 1]
        each.settings = ", ".join(f"{name}={first.settings[name]}" for name in differ)
        each.data = data_names[first.data]
        place = f" on {each.data}" if len(data_names) > 1 else ""
        each.name = f"{first.algorithm} {each.settings}".strip() + place
        shared = [name for name in first.figures if all(name in run.figures for run in each.runs)]
        each.curves = {name: average([run.figures[name] for run in each.runs]) for name in shared}
    return groups


def _data_names(data: Sequence[Data]) -> dict[Data, str]:
    """The shortest names that tell all data apart."""
    names = {each: each.names() for each in data}
    for length in range(max(map(len, names.values()))):
        short = {each: choices[min(length, len(choices) - 1)] for each, choices in names.items()}
        if len(set(short.values())) == len(short):
            break
    return short


def average(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> Curve:
    """Steps and values of some runs as one curve, over the steps that all of them have reached."""
    end = min(steps[-1] for steps, _ in curves)
    begin = min(max(steps[0] for steps, _ in curves), end)
    most = max(len(steps) for steps, _ in curves)
    grid = np.linspace(begin, end, min(most, POINTS))
    values = np.stack([np.interp(grid, steps, values) for steps, values in curves])
    low, high = bootstrap_interval(values) if len(values) > 1 else (values[0], values[0])
    return Curve(grid, values.mean(0), low, high)


def curves_figure(groups: Sequence[Group]) -> Figure:
    """A panel for each figure, a line for each group."""
    names = _figures(groups)
    rows = -(-len(names) // COLUMNS)
    labels = {each.name: fill(each.name, LEGEND_LETTERS) for each in groups}
    columns = max(1, min(4, len(labels), LEGEND_LETTERS // (max(map(len, labels)) + 8)))
    legend = 0.2 * sum(label.count("\n") + 1 for label in labels.values()) / columns
    figure, panels = plt.subplots(
        rows, COLUMNS, figsize=(3.9 * COLUMNS, 2.6 * rows + legend + 0.1), layout="constrained", squeeze=False
    )
    colours = plt.get_cmap("tab10").colors  # type: ignore[attr-defined]
    lines = {}
    for axes, name in zip(panels.flat, names, strict=False):
        shown = []
        for index, each in enumerate(groups):
            if name not in each.curves:
                continue
            curve, colour = each.curves[name], colours[index % len(colours)]
            marker = "o" if len(curve.steps) == 1 else None
            style = LINES[index // len(colours) % len(LINES)]
            lines[labels[each.name]] = axes.plot(curve.steps, curve.mean, style, color=colour, marker=marker)[0]
            axes.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
            axes.set_xlabel("environment steps" if each.runs[0].steps == "env_steps" else "updates")
            shown.append(curve.mean[np.isfinite(curve.mean)])
        values = np.concatenate(shown)
        # A loss that falls through decades is a flat line otherwise.
        if len(values) and values.min() > 0 and values.max() > 100 * values.min():
            axes.set_yscale("log")
        axes.set_title(name.replace("_", " "), fontsize=10)
        axes.ticklabel_format(axis="x", scilimits=(-4, 5))
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    figure.legend(lines.values(), lines.keys(), loc="outside upper left", ncols=columns, frameon=False)
    return figure


def _figures(groups: Sequence[Group]) -> list[str]:
    """The names of all figures, what matters most first."""
    names = list(dict.fromkeys(name for each in groups for name in each.curves))

    def importance(name: str) -> int:
        return 0 if any(word in name for word in FIRST) else 1 if name.startswith("validation_") else 2

    return sorted(names, key=importance)


def _rows(groups: Sequence[Group]) -> list[list[str]]:
    """What is known of each group."""
    rows = []
    for each in groups:
        runs = each.runs
        steps = sorted({int(steps[-1]) for run in runs for steps, _ in run.figures.values()})
        live = [run.live for run in runs if run.live]
        success = "not evaluated"
        if live:
            count, trials = (sum(part) for part in zip(*live, strict=True))
            low, high = wilson_interval(count, trials)
            success = f"{count / trials:.2f} ({low:.2f} to {high:.2f})"
        verdicts = ", ".join(run.verdict for run in runs if run.verdict) or "not evaluated"
        seconds = float(np.mean([run.seconds for run in runs]))
        rows.append(
            [each.name, str(len(runs)), _span(steps), f"{seconds:.0f}", success, verdicts],
        )
    return rows


def _span(steps: Sequence[int]) -> str:
    if not steps:
        return "0"
    return f"{steps[0]:,}" if steps[0] == steps[-1] else f"{steps[0]:,} to {steps[-1]:,}"


def _last_rows(groups: Sequence[Group]) -> list[list[str]]:
    """The last value of each figure in each group, with its interval."""

    def cell(curve: Curve | None, runs: int) -> str:
        if curve is None:
            return ""
        interval = f" ({curve.low[-1]:.3g} to {curve.high[-1]:.3g})" if runs > 1 else ""
        return f"{curve.mean[-1]:.3g}{interval}"

    return [
        [name.replace("_", " "), *(cell(each.curves.get(name), len(each.runs)) for each in groups)]
        for name in _figures(groups)
    ]
