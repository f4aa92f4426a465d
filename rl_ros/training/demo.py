"""The whole loop in one go: record, train, deploy, report. What `make demo` runs."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.progress import Progress

from rl_ros.errors import UserError
from rl_ros.resources import share_directory
from rl_ros.training.live import Results
from rl_ros.training.report import read_columns, write_report

ALGORITHMS = ("bc", "iql")
EVALUATION_SEED = 100_000
"""Far from the seeds of the recorded episodes."""
SHIPPED, GRASPS = "policies/grasp", 20
"""The policy of ours that then grasps out of a tray, and how often."""


def run_demo(
    out: Path,
    episodes: int,
    seconds: float,
    evaluations: int,
    seed: int,
    collect: Callable[..., Results],
    evaluate: Callable[..., Results],
    progress: Callable[[], Progress],
) -> dict[str, Any]:
    """Record `episodes`, train each algorithm for `seconds` side by side, run each policy live; returns the summary.

    Last the shipped policy of QT-Opt grasps things that it has never seen out of a tray.

    `out` is emptied first. Leaves `summary.json`, `report.html`, `bags/`, a run per algorithm and `evaluation/`.

    Raises:
        UserError: a step failed.
    """
    began = time.monotonic()
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    behaviour = collect("lift", episodes, out / "bags", seed, 1.0)
    train_side_by_side(out, seconds, seed, progress)
    policies = {
        name: evaluate(
            out / name / "bundle",
            "lift",
            evaluations,
            EVALUATION_SEED + seed,
            out / "evaluation" / name,
            out / "evaluation" / name / "bags",
            f"running {name}",
        ).summary()
        for name in ALGORITHMS
    }
    best = max(policies.values(), key=lambda summary: float(summary["success"]))
    recorded = behaviour.summary()
    summary = {
        "episodes": recorded["episodes"],
        "behaviour_success": recorded["success"],
        "policy_success": {name: entry["success"] for name, entry in policies.items()},
        "policy_success_95": {name: entry["success_95"] for name, entry in policies.items()},
        "policy_episodes": evaluations,
        "realtime_factor": best["realtime_factor"],
        "realtime_factor_with_resets": best["realtime_factor_with_resets"],
        "recording_realtime_factor": recorded["realtime_factor"],
        "latency_ms": best["latency_ms"],
        "processes": best["processes"],
        "grasp": grasp(out / "evaluation" / "grasp", evaluate),
        "seconds": round(time.monotonic() - began, 1),
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    write_report(out)
    return summary


def grasp(out: Path, evaluate: Callable[..., Results]) -> dict[str, Any]:
    """What the shipped policy grasps; its bags stay in `out`."""
    things = {"objects": "held_out"}
    bundle = share_directory() / SHIPPED
    results = evaluate(bundle, "grasp", GRASPS, EVALUATION_SEED, out, out / "bags", "grasping unseen things", things)
    figures = results.summary()
    return {name: figures[name] for name in ("episodes", "success", "success_95", "realtime_factor")}


def train_side_by_side(out: Path, seconds: float, seed: int, progress: Callable[[], Progress]) -> None:
    """One process with one thread per algorithm.

    Raises:
        UserError: one of them failed; the sentence holds what it said.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = {}
    for name in ALGORITHMS:
        command = [sys.executable, "-m", "rl_ros.cli", "train", "--algorithm", name, "--bags", str(out / "bags")]
        command += ["--out", str(out / name), "--seconds", str(seconds), "--seed", str(seed)]
        log = (out / f"train_{name}.log").open("w")
        processes[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        with progress() as bar:
            tasks = {name: bar.add_task(f"training {name}", total=round(seconds)) for name in ALGORITHMS}
            while any(process.poll() is None for process in processes.values()):
                for name in ALGORITHMS:
                    file = out / name / "metrics.csv"
                    columns = read_columns(file) if file.is_file() else {}
                    if len(columns.get("seconds", ())):
                        bar.update(tasks[name], completed=min(round(seconds), int(columns["seconds"][-1])))
                try:
                    next(p for p in processes.values() if p.poll() is None).wait(0.5)
                except (subprocess.TimeoutExpired, StopIteration):
                    continue
            for task in tasks.values():
                bar.update(task, completed=round(seconds))
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.terminate()
                process.wait()
    for name, process in processes.items():
        if process.returncode:
            said = (out / f"train_{name}.log").read_text().strip().splitlines() or ["nothing"]
            raise UserError(f"training {name} failed: {said[-1]} (see {out / f'train_{name}.log'})")
