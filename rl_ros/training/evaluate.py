"""A policy in the environment of its task, in this process: no ROS, and faster than a live graph by far."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_ros.contract import Contract
from rl_ros.episodes.memory import Episode
from rl_ros.episodes.statistics import success_figures
from rl_ros.errors import UserError
from rl_ros.training.bundle import Bundle, load_bundle

if TYPE_CHECKING:
    from rl_ros.robots.bin import ObjectSet
    from rl_ros.training.rollouts import Rollouts

OTHER_LOOK = 5.0
"""Degrees that the camera is moved by for pictures of another day."""
GRASPS = ("grasp", "grasp_image")
"""Tasks of bin grasping."""
EPISODES_AT_ONCE = 20
"""Episodes between two reports of progress."""


def environment_of(contract: Contract) -> str | None:
    """The name that Gymnasium knows the contract's environment by; None if its task has none."""
    from rl_ros.tasks.env import TASKS, VARIANTS, VISUAL_TASKS

    for name, task in VISUAL_TASKS.items():
        if contract.name == task:
            return f"rl_ros/{name}-v0"
    if contract.name in GRASPS:
        return "rl_ros/Grasp-v0"
    for name, task in TASKS.items():
        for suffix, variant in VARIANTS.items():
            if contract.name == (task if variant == "state" else f"{task}_{variant}"):
                return f"rl_ros/{name}{suffix}-v0"
    return None


def evaluate_in_process(
    directory: Path,
    episodes: int,
    seed: int,
    progress: Callable[[int, float], None] = lambda done, success: None,
    objects: "ObjectSet" = "train",
) -> dict[str, Any]:
    """Run a policy bundle as the robot would, one episode for each seed from `seed` on, through all of the guard's
    checks.

    Args:
        directory: of the bundle.
        episodes: how many.
        seed: of the first episode; as on the live graph it says where everything is.
        progress: called with the number of episodes so far and the share that succeeded.
        objects: of bin grasping: those that policies learn from, or those held out.

    Returns:
        `episodes`, `success` (at the last tick of an episode), `success_95` and `mean_return`; for bin grasping what
        `evaluate_grasps` returns.

    Raises:
        UserError: there is no such bundle, or no environment of its contract.
    """
    from rl_ros.tasks.env import make
    from rl_ros.training.rollouts import Rollouts

    bundle = load_bundle(directory)
    if bundle.contract.task in GRASPS:
        from rl_ros.training.grasping import evaluate_grasps

        return evaluate_grasps(bundle, objects, episodes, seed, progress)
    if bundle.contract.goal.image:
        return evaluate_pictures(bundle, episodes, seed, progress)
    name = environment_of(bundle.contract)
    if name is None:
        raise UserError(f"{directory}: contract {bundle.contract.name} has no environment; evaluate it with --live.")
    with Rollouts(partial(make, name, guarded=True), count=1) as rollouts:
        bundle.require(rollouts.contract)
        found = _run(bundle, rollouts, episodes, seed, progress)
    return {
        **success_figures(sum(episode.success for episode in found), len(found)),
        "mean_return": round(float(np.mean([episode.reward.sum() for episode in found])), 3),
    }


def evaluate_pictures(
    bundle: Bundle, episodes: int, seed: int, progress: Callable[[int, float], None], degrees: float | None = None
) -> dict[str, Any]:
    """Run a policy whose goals are pictures; other arguments and figures are those of `evaluate_in_process`.

    Args:
        degrees: take the pictures under another light and with the camera moved about what it looks at by so much.

    Returns:
        `episodes`, `success` and `success_95` (by true positions, at the last tick), `median_distance_m` of what the
        picture shows from where it shows it, `mean_distance_m`, and `refused`: the share of the pictures that
        goal_encoder would refuse. They are followed here all the same.
    """
    from rl_ros.tasks.visual import LatentEnvironment, other_look
    from rl_ros.training.rig import CameraSenses, final_distances
    from rl_ros.training.rollouts import Rollouts

    encoder = bundle.image_encoder()
    scores: list[float] = []

    class Pictures(LatentEnvironment):
        """Notes how well the encoder knows each picture."""

        def reset(self, seed: int) -> None:
            """Begin the episode of this seed."""
            super().reset(seed)
            scores.append(encoder.look(self.arm.goal_values["image"], self.values["image"]).score)

    def make() -> LatentEnvironment:
        environment = Pictures(bundle.contract.task, CameraSenses(encoder), bundle.contract, guarded=True)
        if degrees is not None:
            environment.arm.pictured_by = other_look(environment.arm.world.scene, degrees)
        return environment

    with Rollouts(make, count=1) as rollouts:  # type: ignore[arg-type]
        found = _run(bundle, rollouts, episodes, seed, progress)
    apart = final_distances(found, bundle.contract.task)
    return {
        **success_figures(sum(episode.success for episode in found), len(found)),
        "median_distance_m": round(float(np.median(apart)), 5),
        "mean_distance_m": round(float(np.mean(apart)), 5),
        "refused": round(float(np.mean(np.array(scores) > 1.0)), 4),
    }


def _run(
    bundle: Bundle, rollouts: "Rollouts", episodes: int, seed: int, progress: Callable[[int, float], None]
) -> list[Episode]:
    """Episodes of the policy as the robot runs it."""
    policy = bundle.policy()

    def act(observation: Mapping[str, np.ndarray], desired_goal: np.ndarray) -> np.ndarray:
        rows = range(len(desired_goal))
        return np.stack([policy.act({k: v[row] for k, v in observation.items()}, desired_goal[row]) for row in rows])

    found: list[Episode] = []
    for first in range(seed, seed + episodes, EPISODES_AT_ONCE):
        found += rollouts.collect(act, range(first, min(first + EPISODES_AT_ONCE, seed + episodes)))
        progress(len(found), float(np.mean([episode.success for episode in found])))
    return found
