"""`rl_ros train --algorithm qt_opt --grasps N --ray`: QT-Opt that collects while it learns, in parts."""

import argparse
from collections.abc import Mapping
from typing import Any

from rl_ros.commands.console import OFFLINE, console, positive, progress, refuse, share
from rl_ros.errors import UserError


def add_in_parts(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a run in parts."""
    parts = parser.add_argument_group(
        "in parts (qt_opt)",
        "Collectors, updaters of targets, replay and trainer are parts of their own: in this process, or as actors of "
        "Ray, which replaces one that dies. Collectors add bags to those that there are; --continue fine-tunes a "
        "bundle on its own grasps.",
    )
    parts.add_argument(
        "--ray", nargs="?", const="", metavar="ADDRESS", help="run the parts on Ray, here or in the cluster at ADDRESS"
    )
    parts.add_argument(
        "--grasps", type=positive, default=0, metavar="N", help="collect up to so many meanwhile, into --bags"
    )
    parts.add_argument("--collectors", type=positive, default=1, metavar="N", help="default: %(default)s")
    parts.add_argument("--updaters", type=positive, default=1, metavar="N", help="default: %(default)s")
    parts.add_argument(
        "--scripted-share",
        type=share,
        default=0.1,
        metavar="SHARE",
        help="of the grasps that are collected, by the scripted explorer (default: %(default)s)",
    )
    parts.add_argument(
        "--updates-per-grasp", type=float, default=2.0, metavar="N", help="between two grasps (default: %(default)s)"
    )


def run_in_parts(options: argparse.Namespace, settings: Mapping[str, Any]) -> int:
    """Run the parts until all updates are made.

    Raises:
        UserError: another algorithm, no number of updates, or an option that belongs to training in one piece.
    """
    if options.algorithm != "qt_opt":
        raise UserError("--ray and --grasps are for --algorithm qt_opt; leave them out for any other.")
    if not options.updates:
        raise UserError("say how long to train: --updates.")
    if options.device != "cpu":
        raise UserError("a run in parts learns on the CPU; leave --device out, or --ray and --grasps.")
    refuse(options, (*OFFLINE, "contract", "encoder"), "a run in parts reads the bags of grasp as they are")
    from rl_ros.training.distributed import Here, OnRay, Settings, train_in_parts

    chosen = Settings(
        bags=options.bags.resolve(),
        out=options.out.resolve(),
        updates=options.updates,
        grasps=options.grasps,
        collectors=options.collectors,
        updaters=options.updaters,
        scripted_share=options.scripted_share,
        updates_a_grasp=options.updates_per_grasp,
        continue_from=options.continue_from or "",
        seed=options.seed,
        overrides=settings,
    )
    engine = Here() if options.ray is None else OnRay(options.ray)
    try:
        with progress() as bar:
            task = bar.add_task("training qt_opt", total=options.updates)

            def advance(updates: int, grasps: int) -> None:
                text = f"training qt_opt, {grasps} grasps collected" if options.grasps else "training qt_opt"
                bar.update(task, completed=updates, description=text)

            bundle = train_in_parts(chosen, engine, advance)
    finally:
        engine.close()
    console.print(f"policy bundle: {bundle}")
    return 0
