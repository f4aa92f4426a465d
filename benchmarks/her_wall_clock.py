"""Wall clock to the same success: Stable-Baselines3's SAC with HER against ours, side by side on the same task.

    .venv/bin/python benchmarks/her_wall_clock.py [--task FetchPush-v4] [--success 0.95] [--quick]

Both learn at the same time, each in a process of one thread, until the success of an evaluation is reached, or the time
limit. Both are evaluated after as many environment steps, on the same seeds, without exploration; time spent evaluating
counts for neither. Stable-Baselines3 has the settings that its zoo publishes for HER on the Fetch tasks (reach: batches
of 256 and networks of 2x64; the others: batches of 2048 and networks of 3x512; both: learning rate 0.001, γ 0.95, τ
0.05, four future goals for each real one, an update a step after 1000 steps); ours are those of goal_conditioned.py.
`--quick` is FetchReach-v4.

The last line is a JSON object: `ours_s`, `sb3_s`, `ratio` (how many times sooner ours is), with `ours_steps`,
`sb3_steps`, and `ours_success`, `sb3_success`. Where the time limit ends a run first, its seconds are a lower bound and
`sb3_reached` or `ours_reached` is false.
"""

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium
import numpy as np
import torch
from goal_conditioned import ENVIRONMENTS, KEPT_TRIVIAL, OVERRIDES, SETTINGS, kind_of, registered, unknown
from rich.console import Console
from rich.table import Table

from rl_ros.algorithms.base import make_algorithm
from rl_ros.episodes.allocation import keep_freed_memory
from rl_ros.episodes.hindsight import Hindsight, relabelled_share
from rl_ros.tasks.env import make
from rl_ros.training.online import EVALUATION_SEED, OnlineSettings, OnlineTraining
from rl_ros.training.rollouts import Rollouts

EVERY = {"Reach": 500, "Push": 10_000, "PickAndPlace": 10_000, "Slide": 10_000}
"""Environment steps between evaluations."""
EPISODES = 50
"""Episodes of an evaluation."""


def ours(task: str, seed: int, success: float, limit: float) -> dict[str, Any]:
    """DDPG with hindsight, until it is as good."""
    kind = kind_of(task)
    with Rollouts(partial(make, registered(task)), ENVIRONMENTS) as rollouts, TemporaryDirectory() as directory:
        algorithm = make_algorithm(
            "ddpg", rollouts.contract, unknown(rollouts.contract), seed=seed, overrides=OVERRIDES[kind]
        )
        algorithm.hindsight = Hindsight(
            {"future": relabelled_share(4)}, rollouts.environment.compute_reward, kept_trivial=KEPT_TRIVIAL
        )
        never = 10**9
        settings = OnlineSettings(steps=never, **SETTINGS[kind] | {"evaluate_every": never})
        training = OnlineTraining(algorithm, rollouts, settings, seed, Path(directory))
        reached, following = 0.0, EVERY[kind]
        while reached < success and training.seconds < limit:
            training.round()
            if training.env_steps >= following:
                following += EVERY[kind]
                reached = training.evaluate(EPISODES)
        return {"seconds": training.seconds, "steps": training.env_steps, "success": reached}


def stable_baselines3(task: str, seed: int, success: float, limit: float) -> dict[str, Any]:
    """Its SAC with HER, until it is as good."""
    from stable_baselines3 import SAC, HerReplayBuffer

    kind = kind_of(task)

    def environment() -> Any:
        return gymnasium.make(registered(task), disable_env_checker=True)

    def evaluate(model: Any) -> float:
        trial, successes = environment(), []
        for episode in range(EPISODES):
            seen, _ = trial.reset(seed=EVALUATION_SEED + episode)
            over, info = False, {}
            while not over:
                action, _ = model.predict(seen, deterministic=True)
                seen, _, terminated, truncated, info = trial.step(action)
                over = terminated or truncated
            successes.append(bool(info["is_success"]))
        trial.close()
        return float(np.mean(successes))

    small = kind == "Reach"
    model = SAC(
        "MultiInputPolicy",
        environment(),
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs={"n_sampled_goal": 4, "goal_selection_strategy": "future"},
        learning_rate=1e-3,
        buffer_size=1_000_000,
        batch_size=256 if small else 2048,
        gamma=0.95,
        tau=0.005 if small else 0.05,
        learning_starts=1000,
        policy_kwargs={"net_arch": [64, 64] if small else [512, 512, 512]},
        seed=seed,
        device="cpu",
    )
    seconds, reached, steps = 0.0, 0.0, 0
    while reached < success and seconds < limit:
        began = time.monotonic()
        model.learn(EVERY[kind], reset_num_timesteps=False)
        seconds += time.monotonic() - began
        steps += EVERY[kind]
        reached = evaluate(model)
    return {"seconds": seconds, "steps": steps, "success": reached}


LEARNERS = {"ours": ours, "sb3": stable_baselines3}


def main() -> None:
    """Parse the command line, run both, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="FetchPush-v4")
    parser.add_argument("--success", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=6 * 3600.0, help="seconds of learning, at most")
    parser.add_argument("--quick", action="store_true", help="FetchReach-v4")
    parser.add_argument("--only", choices=LEARNERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    task = "FetchReach-v4" if arguments.quick else arguments.task
    if arguments.only:
        torch.set_num_threads(1)
        keep_freed_memory()
        print(json.dumps(LEARNERS[arguments.only](task, arguments.seed, arguments.success, arguments.limit)))
        return
    command = [sys.executable, __file__, "--task", task, "--success", str(arguments.success)]
    command += ["--seed", str(arguments.seed), "--limit", str(arguments.limit)]
    processes = {
        name: subprocess.Popen([*command, "--only", name], stdout=subprocess.PIPE, text=True) for name in LEARNERS
    }
    found = {}
    for name, process in processes.items():
        said, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{name} failed with status {process.returncode}.")
        found[name] = json.loads(said.splitlines()[-1])
    table = Table("learner", "seconds", "steps", "success", title=f"{task} to success {arguments.success}")
    for name, entry in found.items():
        table.add_row(name, f"{entry['seconds']:.0f}", f"{entry['steps']}", f"{entry['success']:.2f}")
    Console().print(table)
    summary: dict[str, Any] = {"task": task}
    for name, entry in found.items():
        summary |= {f"{name}_s": round(entry["seconds"], 1), f"{name}_steps": entry["steps"]}
        summary |= {f"{name}_success": entry["success"], f"{name}_reached": entry["success"] >= arguments.success}
    print(json.dumps(summary | {"ratio": round(found["sb3"]["seconds"] / found["ours"]["seconds"], 2)}))


if __name__ == "__main__":
    main()
