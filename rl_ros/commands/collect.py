"""`rl_ros collect`: record episodes."""

import argparse
import json
from pathlib import Path

from rl_ros.commands.console import episode_bar, positive, progress, seed, show
from rl_ros.errors import UserError
from rl_ros.graph import next_episode
from rl_ros.training.live import Results, run_episodes

EXPLORATION = 0.02
"""Of a policy whose grasps are recorded: enough that two grasps of the same scene differ."""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "collect",
        help="record episodes of the scripted expert or of a policy",
        description="Run episodes in lockstep and record each as one MCAP bag. New bags are numbered after old ones.",
    )
    parser.add_argument("graph", help="a graph in config/graphs, such as grasp")
    parser.add_argument("--episodes", type=positive, default=100, help="how many (default: %(default)s)")
    parser.add_argument(
        "--grasps", type=positive, help="grasp: so many in process, many to a bag, without a graph and much faster"
    )
    parser.add_argument("--bags", "--out", type=Path, required=True, metavar="DIR", help="where the bags go")
    parser.add_argument("--workers", type=int, default=2, help="--grasps: processes (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the first episode (default: %(default)s)")
    parser.add_argument("--noise", type=float, default=1.0, help="scale of the expert's errors (default: %(default)s)")
    parser.add_argument("--policy", default="", metavar="BUNDLE", help="a policy bundle instead of the expert")
    parser.add_argument(
        "--exploration",
        type=float,
        metavar="SHARE",
        help=f"--grasps --policy: its random actions, and its noise (default: {EXPLORATION})",
    )
    parser.add_argument("--randomise", action="store_true", help="vary the looks of the scene between episodes")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if options.exploration is not None and not (options.grasps and options.policy):
        raise UserError("--exploration is for --grasps with --policy; nothing else here explores.")
    if options.grasps:
        return grasps(options)
    results = collect(
        options.graph, options.episodes, options.bags, options.seed, options.noise, options.policy, options.randomise
    )
    show(results.summary(), f"{options.graph}: recorded in {options.bags}")
    return 0


def grasps(options: argparse.Namespace) -> int:
    """Grasps of the explorer or of a policy in process."""
    from rl_ros.training.grasping import collect_grasps

    if options.graph != "grasp" or options.randomise:
        raise UserError("--grasps records the graph grasp as it is; leave it out for anything else.")
    exploration = EXPLORATION if options.exploration is None else options.exploration
    if not 0.0 <= exploration < 1.0:
        raise UserError(f"--exploration {exploration}: expected a share from 0 to less than 1.")
    if options.workers < 0:
        raise UserError(f"--workers {options.workers}: expected at least 0, which records in this process.")
    with progress() as bar:
        task = bar.add_task("recording", total=options.grasps)

        def advance(done: int, successes: int) -> None:
            bar.update(task, completed=done, description=f"recording, {successes} of {done} grasped")

        found = collect_grasps(
            options.bags,
            options.grasps,
            options.seed,
            noise=options.noise,
            policy=options.policy,
            exploration=exploration,
            workers=options.workers,
            progress=advance,
        )
    show(found, f"grasp: recorded in {options.bags}")
    print(json.dumps(found))
    return 0


def collect(
    graph: str, episodes: int, bags: Path, seed: int, noise: float, policy: str = "", randomise: bool = False
) -> Results:
    """Record episodes, numbered and seeded after those that are there already."""
    first = next_episode(bags)
    arguments = {
        "bags": str(bags.resolve()),
        "seed": str(seed + first),
        "first_episode": str(first),
        "expert_noise": str(noise),
        "policy": str(Path(policy).resolve()) if policy else "",
        "randomise": str(randomise).lower(),
    }
    with episode_bar("recording", episodes) as advance:
        return run_episodes(graph, arguments, episodes, bags.parent / f"{bags.name}_log", advance)
