"""`rl_ros demo`: the whole loop."""

import argparse
from pathlib import Path

from rl_ros.commands.collect import collect
from rl_ros.commands.console import console, duration, positive, progress, seed, show
from rl_ros.commands.evaluate import evaluate


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "demo",
        help="the whole loop: record, train, deploy, report",
        description="Record grasps of a noisy expert, train bc and iql from the bags, run both live, let the shipped "
        "policy grasp things that it has never seen, write a report.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="(default: %(default)s)")
    parser.add_argument("--episodes", type=positive, default=600, help="to record (default: %(default)s)")
    parser.add_argument("--seconds", type=duration, default=120.0, help="of training (default: %(default)s)")
    parser.add_argument("--evaluations", type=positive, default=50, help="episodes per policy (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="(default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from rl_ros.training.demo import run_demo

    summary = run_demo(
        options.out, options.episodes, options.seconds, options.evaluations, options.seed, collect, evaluate, progress
    )
    show(summary, "demo")
    console.print(f"report: {options.out / 'report.html'}")
    return 0
