"""Goals given as images: learning by imagined goals, beside an oracle and beside distances of pixels.

    .venv/bin/python benchmarks/rig.py --task visual_push --seed 0 [--resume]

The task is visual_reach, visual_push, visual_push_two or visual_door. The methods, each with the same budget, networks
and loop:

- `rig`: an image encoder, goals that it imagines, rewards by distances of latents (`rig_sac`: with SAC);
- `oracle`: hindsight on true positions: what the encoder is to be as good as;
- `pixels`: hindsight on the pixels themselves, shrunk to 12x12, with rewards by their distance: no encoder.

Steps are counted over all environments, those of wandering about for the encoder's images among them; those of
evaluation are not experience. An evaluation is of 100 episodes of seeds of their own, whose goals are pictures, and
measures in metres how far the hand or the puck is from where its picture shows it at the last tick. Seconds hold all
that a method does: collecting images, training the encoder, evaluating.

A run that is interrupted leaves a checkpoint, and one every ten minutes; `--resume` goes on from it, and skips methods
that have finished. Curves go to benchmarks/results/rig_TASK_SEED.csv. The last line is a JSON object: `task`, `seed`,
and for each method `env_steps`, `seconds`, `median_distance_m`, `success`.
"""

import argparse
import csv
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from rl_ros.algorithms.base import make_algorithm
from rl_ros.algorithms.rig import drawn_from
from rl_ros.commands.console import progress
from rl_ros.contract import Contract
from rl_ros.episodes.allocation import keep_freed_memory
from rl_ros.episodes.memory import Episode, ends_of_episodes
from rl_ros.networks.image_encoder import load_encoder
from rl_ros.networks.layers import DESIRED_GOAL
from rl_ros.tasks.task import Values
from rl_ros.tasks.visual import LATENT, LatentEnvironment
from rl_ros.training.online import CHECKPOINTS, PROGRESS, OnlineSettings
from rl_ros.training.report import read_columns
from rl_ros.training.representation import RepresentationConfig, restored, train_encoder
from rl_ros.training.rig import (
    HELD_OUT,
    CameraSenses,
    LatentTraining,
    PractisingSenses,
    RigSettings,
    RigTraining,
    TrueSenses,
    wander,
)
from rl_ros.training.rollouts import Make, Rollouts

RESULTS = Path(__file__).parent / "results"
RUNS = Path(__file__).parents[1] / "runs" / "rig"
METHODS = ("rig", "oracle", "pixels")
FIRST = "first.json"
"""What a run has spent before its loop begins."""


@dataclass(frozen=True)
class Budget:
    """What one method may use on a task."""

    wandering: int
    """Episodes at the beginning."""
    encoder_updates: int
    steps: int
    """Ticks of experience, wandering included."""
    loop: dict[str, Any]
    """Settings of the loop."""


BUDGETS = {
    "visual_reach": Budget(200, 2500, 30_000, {"evaluate_every": 5_000, "updates_per_step": 1.0}),
    "visual_push": Budget(600, 4000, 150_000, {"evaluate_every": 20_000, "updates_per_step": 1.0}),
    "visual_push_two": Budget(600, 5000, 300_000, {"evaluate_every": 30_000, "updates_per_step": 1.0}),
    "visual_door": Budget(300, 3000, 60_000, {"evaluate_every": 10_000, "updates_per_step": 1.0}),
}
MOVED = {
    "visual_reach": ["tool_position"],
    "visual_push": ["tool_position", "object_position"],
    "visual_push_two": ["tool_position", "object_position", "second_object_position"],
    "visual_door": ["tool_position", "object_position"],
}
"""The positions that a picture shows, by task."""


class PixelSenses(PractisingSenses):
    """The image itself in the place of a latent, shrunk to `SIDE` by `SIDE`: 0 to 1 each."""

    SIDE = 12

    def see(self, values: Values, first: Values) -> np.ndarray:
        """See `rl_ros.tasks.visual.Senses`."""
        small = cv2.resize(values["image"], (self.SIDE, self.SIDE), interpolation=cv2.INTER_AREA)
        return small.astype(np.float32).ravel() / 255.0


def begin(
    contract: Contract, seed: int, budget: Budget, out: Path, sees: bool, config: RepresentationConfig
) -> tuple[list[Episode], dict[str, float]]:
    """Wander about, and train the encoder where there is to be one."""
    began = time.monotonic()
    with progress() as bar:
        shown = bar.add_task("wandering about", total=budget.wandering)
        episodes = wander(contract, budget.wandering, seed, lambda done: bar.update(shown, completed=done))
    figures: dict[str, float] = {}
    if sees:
        images = [episode.observation["image"] for episode in episodes]
        learned = [image for index, image in enumerate(images) if index % HELD_OUT]
        latent = contract.latent.shape[0]
        with progress() as bar:
            shown = bar.add_task("training the encoder", total=budget.encoder_updates)
            _, _, figures = train_encoder(
                np.concatenate(learned),
                np.concatenate(images[::HELD_OUT]),
                latent,
                out,
                updates=budget.encoder_updates,
                config=config,
                contexts=firsts(learned) if config.conditional else None,
                held_out_contexts=firsts(images[::HELD_OUT]),
                seed=seed,
                progress=lambda done: bar.update(shown, completed=done),
            )
    return episodes, {"seconds": time.monotonic() - began, **figures}


def firsts(episodes: list[np.ndarray]) -> np.ndarray:
    """For each image of some episodes, one after the other, the index of the first one of its episode."""
    return ends_of_episodes(np.array([len(images) for images in episodes]))[0]


def run_method(
    method: str, contract: Contract, seed: int, budget: Budget, out: Path, resume: bool, overrides: dict[str, Any]
) -> LatentTraining:
    """Run a method, or go on with it."""
    resume = resume and (out / CHECKPOINTS).is_dir()
    sees = method in ("rig", "rig_sac")
    settings = OnlineSettings(
        steps=budget.steps, random_steps=0, kept_still=1.0, **({"capacity": budget.steps + 10_000} | budget.loop)
    )
    rig = RigSettings(**overrides.get("rig", {}))
    task, pictured = contract.task, contract
    episodes: list[Episode] = []
    if resume:
        spent = json.loads((out / FIRST).read_text())
    else:
        shutil.rmtree(out, ignore_errors=True)
        config = RepresentationConfig(**overrides.get("representation", {}))
        episodes, spent = begin(contract, seed, budget, out, sees, config)
        out.mkdir(parents=True, exist_ok=True)
        (out / FIRST).write_text(json.dumps(spent))
        if sees:
            shutil.copytree(out / "encoder", out / "first_encoder")
    senses: PractisingSenses
    if sees:
        senses = CameraSenses(load_encoder(out / ("encoder" if resume else "first_encoder")))
    elif method == "oracle":
        senses = TrueSenses(MOVED[task])
        contract = contract.with_latent(2 * len(MOVED[task]))
    else:
        senses = PixelSenses()
        contract = contract.with_latent(3 * PixelSenses.SIDE**2)
    size = contract.latent.shape[0]
    unknown = {LATENT: size, "tool_position": 3, DESIRED_GOAL: size}
    normalisation = {name: {"mean": [0.0] * width, "std": [1.0] * width} for name, width in unknown.items()}
    learner = "rig_sac" if method == "rig_sac" else "rig"
    algorithm = make_algorithm(learner, contract, normalisation, seed=seed, overrides=overrides.get("settings", {}))
    with Rollouts(cast(Make, lambda: LatentEnvironment(task, senses, contract)), 8) as rollouts:
        training: LatentTraining
        if isinstance(senses, CameraSenses):
            training = RigTraining(
                algorithm, rollouts, settings, seed, out, senses, restored(senses.encoder, seed), rig, resume=resume
            )
        else:
            # Goals to practise are those of pictures that wandering about has seen.
            seen = episodes or wander(pictured, 200, seed)
            ends = np.stack([senses.see(tick, tick) for tick in last_ticks(seen)])
            training = LatentTraining(algorithm, rollouts, settings, seed, out, senses, drawn_from(ends), resume=resume)
        if not resume:
            training.seconds = float(spent["seconds"])
            training.remember(episodes)
        finished = training.run()
        if finished:
            shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
        training.export(out / "bundle")
    return training


def last_ticks(episodes: list[Episode]) -> list[dict[str, np.ndarray]]:
    """The values at the end of each episode."""
    return [{key: a[-1] for key, a in (episode.observation | episode.auxiliary).items()} for episode in episodes]


def main() -> None:
    """Parse the command line, run, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, choices=list(BUDGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--quick", action="store_true", help="a few thousand steps, nothing kept in results/")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=(*METHODS, "rig_sac"))
    parser.add_argument("--steps", type=int, help="ticks of experience, if not the task's own")
    parser.add_argument("--settings", default="{}", help="JSON: settings of the algorithm")
    parser.add_argument("--loop", default="{}", help="JSON: settings of the loop")
    parser.add_argument("--rig", default="{}", help='JSON: RigSettings, such as {"skew": -0.5}')
    parser.add_argument("--representation", default="{}", help="JSON: RepresentationConfig")
    parser.add_argument("--camera", type=int, metavar="N", help="N x N pixels, if not the task's own")
    parser.add_argument("--name", default="", help="of the runs, to tell settings apart")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    budget = BUDGETS[arguments.task]
    loop = budget.loop | json.loads(arguments.loop)
    budget = Budget(budget.wandering, budget.encoder_updates, arguments.steps or budget.steps, loop)
    if arguments.quick:
        budget = Budget(20, 200, 2_000, loop | {"evaluate_every": 1_000, "evaluation_episodes": 10})
    overrides = {name: json.loads(getattr(arguments, name)) for name in ("settings", "rig", "representation")}
    contract = Contract.load(arguments.task)
    if arguments.camera:
        contract = contract.with_image(contract.goal.image, arguments.camera, arguments.camera)
    label = f"rig_{arguments.task}_{arguments.seed}{'_' if arguments.name else ''}{arguments.name}"
    table = Table("method", "env steps", "seconds", "median distance, m", "success", title=label)
    last: dict[str, Any] = {"task": arguments.task, "seed": arguments.seed}
    rows: list[dict[str, Any]] = []
    for method in arguments.methods:
        out = RUNS / label / method
        if not (arguments.resume and (out / "bundle").is_dir() and not (out / CHECKPOINTS).is_dir()):
            run_method(method, contract, arguments.seed, budget, out, arguments.resume, overrides)
        columns = read_columns(out / PROGRESS)
        kept = ("env_steps", "seconds", "median_distance", "mean_distance", "success")
        for values in zip(*(columns[name] for name in kept), strict=True):
            row = dict(zip(kept, values, strict=True))
            rows.append({"method": method, **row})
            figures = f"{row['env_steps']:.0f}", f"{row['seconds']:.0f}", f"{row['median_distance']:.4f}"
            table.add_row(method, *figures, f"{row['success']:.2f}")
        last[method] = {
            "env_steps": int(row["env_steps"]),
            "seconds": round(row["seconds"], 1),
            "median_distance_m": round(row["median_distance"], 5),
            "success": row["success"],
        }
    if not arguments.quick:
        RESULTS.mkdir(exist_ok=True)
        file = RESULTS / f"{label}.csv"
        if file.exists():  # what other methods have come to stays
            with file.open(newline="") as stream:
                rows = [row for row in csv.DictReader(stream) if row["method"] not in arguments.methods] + rows
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    Console().print(table)
    print(json.dumps(last))


if __name__ == "__main__":
    main()
