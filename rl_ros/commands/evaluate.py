"""`rl_ros evaluate`: a policy in fresh episodes, or judged by recordings."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from rl_ros.commands.console import episode_bar, positive, progress, seed, show
from rl_ros.commands.estimate import run_offline
from rl_ros.errors import UserError
from rl_ros.training.bundle import load_bundle
from rl_ros.training.evaluate import OTHER_LOOK, environment_of, evaluate_in_process, evaluate_pictures
from rl_ros.training.live import Results, run_episodes

if TYPE_CHECKING:
    from rl_ros.robots.bin import ObjectSet


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "evaluate",
        help="run a policy in fresh episodes and count successes",
        description="Run a policy in fresh episodes: in this process where its task has an environment, such as "
        "rl_ros/Push-v0, else (or with --live) on the live graph in lockstep. The last line is one JSON object.",
    )
    parser.add_argument("run_directory", nargs="?", type=Path, metavar="RUN", help="a run of `rl_ros train`")
    parser.add_argument("--policy", type=Path, metavar="BUNDLE", help="a policy bundle instead of a run")
    parser.add_argument("--live", action="store_true", help="on the live graph, over ROS")
    parser.add_argument("--graph", help="a graph in config/graphs, live (default: the one of the policy's task)")
    parser.add_argument(
        "--other-look",
        action="store_true",
        help="where goals are pictures: take them under another light, with the camera moved by 5 degrees",
    )
    parser.add_argument(
        "--objects", choices=["train", "held-out"], default="train",
        help="grasp: what lies in the tray: what policies learn from, or what none has seen (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--episodes", "--goals", type=positive, default=50, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=100_000, help="seed of the first episode (default: %(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where results go (default: RUN/evaluation, runs/evaluation/BUNDLE with --policy, "
        "RUN/offline_evaluation with --offline)",
    )
    parser.add_argument(
        "--bags", type=Path, metavar="DIR", help="live: record the episodes there; --offline: judge by these"
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        help="judge RUN without a robot, by the episodes that training held out, or by those in --bags",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if options.offline:
        return run_offline(options)
    if (options.run_directory is None) == (options.policy is None):
        raise UserError("give either a RUN of `rl_ros train` or --policy BUNDLE.")
    bundle = options.policy or options.run_directory / "bundle"
    contract = load_bundle(bundle).contract
    if options.live or options.graph or options.bags or environment_of(contract) is None:
        if contract.task == "grasp_image":
            raise UserError(
                f"{bundle}: the pictures of its goals are made in process, so leave out --live; on the live graph "
                "`rl_ros goal` shows them: rl_ros up grasp goal:=image."
            )
        graph = options.graph or contract.task
        of_policy = Path("runs") / "evaluation" / bundle.resolve().name
        out = options.out or (options.run_directory / "evaluation" if options.run_directory else of_policy)
        more = {"objects": "held_out"} if options.objects == "held-out" else {}
        summary = evaluate(bundle, graph, options.episodes, options.seed, out, options.bags, more=more).summary()
        title = f"{bundle} on {graph}, live"
    else:
        with progress() as bar:
            task = bar.add_task("evaluating", total=options.episodes)

            def advance(done: int, success: float) -> None:
                bar.update(task, completed=done, description=f"evaluating, success {success:.2f}")

            objects: ObjectSet = "held_out" if options.objects == "held-out" else "train"
            if options.other_look:
                pictured = load_bundle(bundle)
                summary = evaluate_pictures(pictured, options.episodes, options.seed, advance, OTHER_LOOK)
            else:
                summary = evaluate_in_process(bundle, options.episodes, options.seed, advance, objects)
        title = f"{bundle} in {environment_of(contract)}"
    show(summary, title)
    print(json.dumps(summary))
    return 0


def evaluate(
    bundle: Path,
    graph: str,
    episodes: int,
    seed: int,
    out: Path,
    bags: Path | None,
    title: str = "evaluating",
    more: Mapping[str, str] = MappingProxyType({}),
) -> Results:
    """Run a policy in live episodes; `more` are further arguments of the graph."""
    arguments = {
        "policy": str(bundle.resolve()),
        "seed": str(seed),
        "bags": str(bags.resolve()) if bags else "",
        **more,
    }
    with episode_bar(title, episodes) as advance:
        return run_episodes(graph, arguments, episodes, out, advance)
