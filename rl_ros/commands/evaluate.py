"""`rl_ros evaluate`: a policy in live episodes."""

import argparse
import json
from pathlib import Path

from rl_ros.commands.console import episode_bar, positive, show
from rl_ros.errors import UserError
from rl_ros.training.live import Results, run_episodes


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "evaluate",
        help="run a policy in live episodes and count successes",
        description="Run a policy in fresh episodes on the live graph, in lockstep. The last line is one JSON object.",
    )
    parser.add_argument("run_directory", nargs="?", type=Path, metavar="RUN", help="a run of `rl_ros train`")
    parser.add_argument("--policy", type=Path, metavar="BUNDLE", help="a policy bundle instead of a run")
    parser.add_argument("--graph", default="grasp", help="a graph in config/graphs (default: %(default)s)")
    parser.add_argument("--episodes", type=positive, default=50, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=100_000, help="seed of the first episode (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where results go (default: RUN/evaluation)")
    parser.add_argument("--bags", type=Path, metavar="DIR", help="record the episodes there")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if (options.run_directory is None) == (options.policy is None):
        raise UserError("give either a RUN of `rl_ros train` or --policy BUNDLE.")
    bundle = options.policy or options.run_directory / "bundle"
    out = options.out or (options.run_directory or options.policy.parent) / "evaluation"
    results = evaluate(bundle, options.graph, options.episodes, options.seed, out, options.bags)
    summary = results.summary()
    show(summary, f"{bundle} on {options.graph}")
    print(json.dumps(summary))
    return 0


def evaluate(
    bundle: Path, graph: str, episodes: int, seed: int, out: Path, bags: Path | None, title: str = "evaluating"
) -> Results:
    """Run a policy in live episodes."""
    arguments = {"policy": str(bundle.resolve()), "seed": str(seed), "bags": str(bags.resolve()) if bags else ""}
    with episode_bar(title, episodes) as advance:
        return run_episodes(graph, arguments, episodes, out, advance)
