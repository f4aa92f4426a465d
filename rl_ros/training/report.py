"""One HTML page that shows a run: figures, learning curves, camera strips. No script, no network."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rl_ros.episodes.bags import find_bags, read_bag
from rl_ros.episodes.ingest import read_episode
from rl_ros.episodes.pages import camera_strip, figures_table, heading, picture, plot, write_page
from rl_ros.episodes.statistics import wilson_interval
from rl_ros.errors import UserError


def write_report(run: Path) -> Path:
    """Write `report.html` for a run directory that `rl_ros demo` left.

    Raises:
        UserError: the directory holds no `summary.json`.
    """
    file = run / "summary.json"
    if not file.is_file():
        raise UserError(f"{run}: holds no summary.json; `rl_ros demo` writes one.")
    summary = json.loads(file.read_text())
    algorithms = list(summary["policy_success"])
    sections = [
        _table(summary),
        heading("Success"),
        plot(success_figure(summary), "Success in live episodes with 95 % intervals (Wilson)."),
        heading("Learning"),
        plot(
            learning_figure({name: run / name / "metrics.csv" for name in algorithms}),
            "Training and held-out losses; the policy at the end is the one that runs.",
        ),
    ]
    best = max(algorithms, key=lambda name: summary["policy_success"][name])
    bags = run / "evaluation" / best / "bags"
    if bags.exists():
        sections.append(heading(f"What the camera saw: policy {best}"))
        sections += camera_strips(bags)
    if (grasps := run / "evaluation" / "grasp" / "bags").exists():
        sections.append(heading("What the camera saw: things that the shipped policy had never seen"))
        sections += camera_strips(grasps)
    sections.append(heading("What the camera saw: recorded behaviour"))
    sections += camera_strips(run / "bags")
    page = run / "report.html"
    write_page(page, "rl_ros: from rosbags to a policy on the robot", sections)
    return page


def _table(summary: Mapping[str, Any]) -> str:
    rows = [
        ("Episodes recorded", str(summary["episodes"])),
        ("Success of the recorded behaviour", f"{summary['behaviour_success']:.2f}"),
        *((f"Success of {name}", f"{rate:.2f}") for name, rate in summary["policy_success"].items()),
        ("Success of the shipped policy, things never seen, out of a tray", f"{summary['grasp']['success']:.2f}"),
        ("Simulated over wall time (lockstep)", f"{summary['realtime_factor']:.1f}"),
        ("Control latency, median", f"{summary['latency_ms']['p50']:.1f} ms"),
        ("Control latency, 99th percentile", f"{summary['latency_ms']['p99']:.1f} ms"),
        ("Processes of the graph", str(summary["processes"])),
        ("Seconds in all", f"{summary['seconds']:.0f}"),
    ]
    return figures_table(rows)


def success_figure(summary: Mapping[str, Any]) -> Figure:
    """Success of the behaviour and of each policy, with intervals."""
    names = ["recorded behaviour", *summary["policy_success"]]
    rates = [summary["behaviour_success"], *summary["policy_success"].values()]
    trials = [summary["episodes"], *(summary["policy_episodes"] for _ in summary["policy_success"])]
    intervals = [wilson_interval(round(rate * n), n) for rate, n in zip(rates, trials, strict=True)]
    figure, axes = plt.subplots(figsize=(7, 0.7 + 0.5 * len(names)), layout="constrained")
    colours = ["#9a9a9a"] + ["#2a6fbb"] * (len(names) - 1)
    axes.barh(names, rates, color=colours, height=0.6)
    errors = [
        [rate - low for rate, (low, _) in zip(rates, intervals, strict=True)],
        [high - rate for rate, (_, high) in zip(rates, intervals, strict=True)],
    ]
    axes.errorbar(rates, range(len(names)), xerr=errors, fmt="none", ecolor="#222", capsize=4)
    for row, (rate, n) in enumerate(zip(rates, trials, strict=True)):
        axes.text(0.01, row, f"{rate:.2f} of {n}", va="center", color="white")
    axes.set_xlim(0, 1)
    axes.set_xlabel("success")
    axes.invert_yaxis()
    return figure


def learning_figure(files: Mapping[str, Path]) -> Figure:
    """Losses over time from each `metrics.csv`, one panel per algorithm."""
    figure, panels = plt.subplots(1, len(files), figsize=(4.6 * len(files), 3.6), layout="constrained", squeeze=False)
    for axes, (name, file) in zip(panels[0], files.items(), strict=True):
        columns = read_columns(file)
        losses = [column for column in columns if column.endswith("loss")]
        names = list(dict.fromkeys(column.removeprefix("validation_") for column in losses))
        for column in losses:
            learned = column.removeprefix("validation_")
            style = {"color": f"C{names.index(learned)}", "linestyle": "-" if column == learned else "--"}
            axes.plot(columns["seconds"], columns[column], label=column, linewidth=1, **style)
        axes.set_title(name)
        axes.set_xlabel("seconds of training")
        if all(np.nanmin(columns[column]) > 0 for column in losses):
            axes.set_yscale("log")  # which has numbers on its axis however small the range
        else:
            axes.set_yscale("symlog", linthresh=1e-3)
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False)
    return figure


def read_columns(file: Path) -> dict[str, np.ndarray]:
    """The columns of a CSV of numbers, NaN where a cell is empty.

    Raises:
        UserError: the file does not exist.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file; `rl_ros train` writes it.")
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    names = rows[0].keys() if rows else ()
    return {name: np.array([float(row[name]) if row[name] else np.nan for row in rows]) for name in names}


def camera_strips(bags: Path) -> list[str]:
    """A strip of one success and of one failure, where there are such."""
    strips = []
    for wanted in ("success", "timeout"):
        for path in find_bags(bags):
            bag = read_bag(path)
            if bag.outcome.get("outcome") != wanted or bag.contract is None:
                continue
            caption = f"{'Success' if wanted == 'success' else 'Failure'}: {path.name}, seed {bag.outcome.get('seed')}"
            strip = camera_strip(read_episode(bag, bag.contract).observation)
            if strip is not None:
                strips.append(picture(strip, caption))
            break
    return strips
