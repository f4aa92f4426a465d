"""The pictures in the README: shipped policies at work, drawn with more pixels than they see themselves.

    .venv/bin/python benchmarks/pictures.py [--quick]

Writes `docs/pictures/goals.png`, where policies move the arm until the camera looks like a picture, and
`docs/pictures/grasp.png`, where one lifts things out of a tray that it has never seen. The episodes are the first ones
that `rl_ros evaluate --seed 12345` has too, whatever comes of them. The last line is a JSON object: for each task the
`success` of its episodes.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from rl_ros.robots.pybullet_arm import Camera, Light, PyBulletArm
from rl_ros.tasks.env import BinEnvironment
from rl_ros.tasks.task import Values
from rl_ros.tasks.visual import LatentEnvironment
from rl_ros.training.bundle import load_bundle
from rl_ros.training.grasping import GraspEpisodes
from rl_ros.training.rig import CameraSenses

plt.switch_backend("Agg")

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
TASKS = ("visual_reach", "visual_push")
"""Whose goals are pictures."""
SEED, PIXELS, FRAMES, GRASPS = 12345, 320, 5, 2
"""Of the first episode; of a frame's height and width; frames and grasps that are shown."""


def enlarged(world: PyBulletArm) -> tuple[Camera, Light]:
    """The camera that the policy looks through, with more pixels."""
    return replace(world.scene.camera, height=PIXELS, width=PIXELS), world.scene.light


def towards_a_picture(task: str, seed: int) -> tuple[list[np.ndarray], bool]:
    """The goal and then frames of an episode of the shipped policy, and whether it got there."""
    bundle = load_bundle(ROOT / "policies" / task)
    policy = bundle.policy()
    environment = LatentEnvironment(task, CameraSenses(bundle.image_encoder()), bundle.contract, guarded=True)
    world = environment.arm.world
    try:
        environment.task.arrange(world, seed)
        goal = world.image(enlarged(world))
        environment.reset(seed)
        frames, over, success = [world.image(enlarged(world))], False, False
        while not over:
            observation = {name: environment.values[name] for name in bundle.contract.observation}
            _, terminated, truncated, success = environment.step(policy.act(observation, environment.desired_goal))
            frames.append(world.image(enlarged(world)))
            over = terminated or truncated
    finally:
        environment.close()
    return [goal, *some(frames)], success


class Filmed(BinEnvironment):
    """Keeps a frame of every tick."""

    def _set_up(self, *arguments: Any, **options: Any) -> None:
        super()._set_up(*arguments, **options)
        self.frames: list[np.ndarray] = []

    def _look(self) -> None:
        super()._look()
        self.frames.append(self.world.image(enlarged(self.world)))


def out_of_a_tray(seed: int) -> tuple[list[np.ndarray], bool]:
    """Frames of an episode of the shipped policy with things that it has never seen, and whether one was lifted."""
    bundle = load_bundle(ROOT / "policies" / "grasp")
    policy = bundle.policy()
    environment = Filmed("held_out")

    def choose(values: Values, goal: np.ndarray) -> np.ndarray:
        return policy.act(values, goal)

    try:
        grasp = GraspEpisodes(environment).run(seed, 0, choose)
        return some(environment.frames), grasp.success
    finally:
        environment.close()


def some(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A few of them, the first and the last among them."""
    return [frames[round(place)] for place in np.linspace(0, len(frames) - 1, FRAMES)]


def draw(file: Path, rows: dict[str, list[np.ndarray]], titles: Sequence[str]) -> None:
    """Rows of frames with their names on the left."""
    count = len(titles)
    figure, panels = plt.subplots(len(rows), count, figsize=(1.7 * count, 1.75 * len(rows)), layout="constrained")
    for line, (name, frames) in zip(np.atleast_2d(panels), rows.items(), strict=True):
        for axes, frame in zip(line, frames, strict=True):
            axes.imshow(frame)
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=9)
    for axes, title in zip(np.atleast_2d(panels)[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main() -> int:
    """Run the episodes, write the pictures, print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one episode of each kind, into runs/pictures")
    quick = parser.parse_args().quick
    out = ROOT / "runs" / "pictures" if quick else PICTURES
    success: dict[str, list[bool]] = {}

    goals: dict[str, list[np.ndarray]] = {}
    for task in TASKS:
        goals[task], reached = towards_a_picture(task, SEED)
        success[task] = [reached]
    draw(out / "goals.png", goals, ["the picture sent", "the camera, at first", *[""] * (FRAMES - 2), "at the end"])

    grasps: dict[str, list[np.ndarray]] = {}
    success["grasp"] = []
    for number in range(1 if quick else GRASPS):
        grasps[f"seed {SEED + number}"], lifted = out_of_a_tray(SEED + number)
        success["grasp"].append(lifted)
    draw(out / "grasp.png", grasps, ["at first", *[""] * (FRAMES - 2), "let go, to see that it was held"])
    print(json.dumps(success))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
