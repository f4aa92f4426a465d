"""Runs episodes on the live graph and says how they went."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rl_ros.bringup import Supervisor
from rl_ros.episodes.statistics import success_figures
from rl_ros.errors import UserError
from rl_ros.graph import load_graph, resolve


@dataclass
class Results:
    """What the episode manager wrote, one entry per episode, and every control latency in seconds."""

    episodes: list[dict[str, Any]] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    processes: int = 0

    @property
    def successes(self) -> int:
        """Episodes that ended in success."""
        return sum(episode["outcome"] == "success" for episode in self.episodes)

    def summary(self) -> dict[str, Any]:
        """The figures that are reported.

        `realtime_factor` is simulated over wall time while episodes run; `realtime_factor_with_resets` counts the
        time between them as well. `latency_ms` is from the publication of an image to the arrival of its command.

        Raises:
            UserError: no episode was finished.
        """
        if not self.episodes:
            raise UserError("not one episode was finished; see graph.log in the run's directory.")
        simulated = sum(e["simulated_seconds"] for e in self.episodes)
        p50, p99 = np.percentile(self.latencies or [math.nan], [50, 99]) * 1e3
        return {
            **success_figures(self.successes, len(self.episodes)),
            "mean_steps": round(float(np.mean([e["steps"] for e in self.episodes])), 2),
            "realtime_factor": round(simulated / sum(e["running_seconds"] for e in self.episodes), 2),
            "realtime_factor_with_resets": round(simulated / sum(e["wall_seconds"] for e in self.episodes), 2),
            "latency_ms": {"p50": round(float(p50), 3), "p99": round(float(p99), 3)},
            "processes": self.processes,
        }


def read_results(path: Path) -> Results:
    """Read the lines that the episode manager wrote so far; a last line still being written is left out."""
    results = Results()
    text = path.read_text() if path.exists() else ""
    for line in text[: text.rfind("\n") + 1].splitlines():
        entry = json.loads(line)
        if "outcome" in entry:
            results.episodes.append(entry)
        else:
            results.latencies += entry["control_latency"]
    return results


def run_episodes(
    graph: str,
    arguments: Mapping[str, str],
    episodes: int,
    directory: Path,
    progress: Callable[[Results], None] = lambda results: None,
) -> Results:
    """Bring up the graph, run `episodes` episodes in lockstep, and take it down.

    Args:
        graph: name of a graph in `config/graphs`.
        arguments: its arguments, beside those set here.
        directory: receives `episodes.jsonl` and `graph.log`.
        progress: called several times a second with what is there so far.

    Raises:
        UserError: the graph failed; the sentence holds what its nodes said.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "episodes.jsonl"
    file.unlink(missing_ok=True)
    given = {"lockstep": "true", "episodes": str(episodes), "results": str(file.resolve()), **arguments}
    resolved = resolve(load_graph(graph), given)
    said: list[str] = []
    with (directory / "graph.log").open("w", buffering=1) as log:

        def note(line: str) -> None:
            log.write(line + "\n")
            said.append(line)

        with Supervisor(resolved, note) as supervisor:
            status = supervisor.wait(lambda: progress(read_results(file)), every=0.2)
    results = read_results(file)
    results.processes = len(resolved.processes)
    progress(results)
    if status:
        errors = [line for line in said if "[ERROR]" in line or "error:" in line or "Error" in line]
        reason = " ".join((errors or said or ["nothing was printed"])[-1].split())
        raise UserError(f"the graph {graph} failed: {reason} (all it printed is in {directory / 'graph.log'})")
    return results
