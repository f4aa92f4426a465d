"""One HTML page that shows a run: figures, learning curves, camera strips. No script, no network."""

import base64
import csv
import html
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rl_ros.contract import Contract
from rl_ros.episodes.bags import find_bags, read_bag
from rl_ros.episodes.ingest import read_episode
from rl_ros.errors import UserError
from rl_ros.training.live import wilson_interval

matplotlib.use("Agg")

STRIP_FRAMES = 8
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.2rem; margin-top: 2rem; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .3rem .9rem .3rem 0; text-align: left; border-bottom: 1px solid #ddd; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
img {{ max-width: 100%; }} img.strip {{ image-rendering: pixelated; }}
figure {{ margin: 1rem 0; }} figcaption {{ color: #555; font-size: .9rem; }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


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
        "<h2>Success</h2>",
        _picture(success_figure(summary), "Success in live episodes with 95 % intervals (Wilson)."),
        "<h2>Learning</h2>",
        _picture(
            learning_figure({name: run / name / "metrics.csv" for name in algorithms}),
            "Training and held-out losses; the policy at the end is the one that runs.",
        ),
    ]
    best = max(algorithms, key=lambda name: summary["policy_success"][name])
    bags = run / "evaluation" / best / "bags"
    if bags.exists():
        sections.append(f"<h2>What the camera saw: policy {html.escape(best)}</h2>")
        sections += camera_strips(bags)
    sections.append("<h2>What the camera saw: recorded behaviour</h2>")
    sections += camera_strips(run / "bags")
    page = run / "report.html"
    page.write_text(PAGE.format(title="rl_ros: from rosbags to a policy on the robot", body="\n".join(sections)))
    return page


def _table(summary: Mapping[str, Any]) -> str:
    rows = [
        ("Episodes recorded", str(summary["episodes"])),
        ("Success of the recorded behaviour", f"{summary['behaviour_success']:.2f}"),
        *((f"Success of {name}", f"{rate:.2f}") for name, rate in summary["policy_success"].items()),
        ("Simulated over wall time (lockstep)", f"{summary['realtime_factor']:.1f}"),
        ("Control latency, median", f"{summary['latency_ms']['p50']:.1f} ms"),
        ("Control latency, 99th percentile", f"{summary['latency_ms']['p99']:.1f} ms"),
        ("Processes of the graph", str(summary["processes"])),
        ("Seconds in all", f"{summary['seconds']:.0f}"),
    ]
    cells = "".join(f'<tr><th>{html.escape(a)}</th><td class="number">{html.escape(b)}</td></tr>' for a, b in rows)
    return f"<table>{cells}</table>"


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
    figure, panels = plt.subplots(1, len(files), figsize=(4.6 * len(files), 3.2), layout="constrained", squeeze=False)
    for axes, (name, file) in zip(panels[0], files.items(), strict=True):
        columns = read_columns(file)
        for column, values in columns.items():
            if "loss" in column:
                axes.plot(columns["seconds"], values, label=column, linewidth=1)
        axes.set_title(name)
        axes.set_xlabel("seconds of training")
        axes.set_yscale("symlog", linthresh=1e-3)
        axes.legend(fontsize=7)
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
            strip = camera_strip(read_episode(bag, bag.contract).observation, bag.contract)
            if strip is not None:
                strips.append(_figure(strip, caption, "strip"))
            break
    return strips


def camera_strip(observation: Mapping[str, np.ndarray], contract: Contract) -> np.ndarray | None:
    """Evenly spaced images of an episode side by side, uint8 (H, W, 3); None without a camera."""
    images = next((values for values in observation.values() if values.ndim == 4), None)
    if images is None:
        return None
    chosen = np.linspace(0, len(images) - 1, STRIP_FRAMES).round().astype(int)
    strip = np.concatenate([images[index] for index in chosen], axis=1)
    return np.ascontiguousarray(strip.repeat(2, axis=0).repeat(2, axis=1))


def _figure(image: np.ndarray, caption: str, style: str = "") -> str:
    written, png = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not written:
        raise RuntimeError("OpenCV could not encode a PNG")
    return _embed(png.tobytes(), caption, style)


def _picture(figure: Figure, caption: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    return _embed(buffer.getvalue(), caption)


def _embed(png: bytes, caption: str, style: str = "") -> str:
    data = base64.b64encode(png).decode()
    text = html.escape(caption)
    return (
        f'<figure><img class="{style}" alt="{text}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>"
    )
