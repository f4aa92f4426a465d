"""What other libraries take to sample the same transitions; run by sampling.py with the python of `.venv-bench`.

    .venv-bench/bin/python benchmarks/peers_sampling.py TRANSITIONS SAMPLES

Prints one JSON object with `sb3_her_ms` and `d3rlpy_ms`, milliseconds a batch.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import cast

import d3rlpy
import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

BATCH, LENGTH, OBSERVATION, ACTION, GOAL = 256, 50, 25, 4, 3


def box(size: int) -> spaces.Box:
    """An unbounded space of vectors."""
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)


class Reach(gymnasium.Env):
    """Only what the buffer asks of an environment: its spaces and its reward."""

    observation_space = spaces.Dict(
        {"observation": box(OBSERVATION), "achieved_goal": box(GOAL), "desired_goal": box(GOAL)}
    )
    action_space = spaces.Box(-1.0, 1.0, (ACTION,), np.float32)

    def compute_reward(self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: object) -> np.ndarray:
        """0 within 5 cm, else -1, as in the Fetch tasks."""
        return -(np.linalg.norm(achieved_goal - desired_goal, axis=-1) > 0.05).astype(np.float32)


def milliseconds(sample: Callable[[], object], times: int) -> float:
    """Median of five rounds of calls, per call."""
    rounds = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(times):
            sample()
        rounds.append((time.perf_counter() - began) / times * 1e3)
    return sorted(rounds)[2]


def stable_baselines3_her(transitions: int) -> Callable[[], object]:
    """Its HER buffer, full of episodes; filled through its arrays, as `add` takes a minute for a million."""
    environment = DummyVecEnv([Reach])
    buffer = HerReplayBuffer(
        transitions,
        cast(spaces.Dict, environment.observation_space),
        environment.action_space,
        environment,
        device="cpu",
        n_sampled_goal=4,
    )
    rng = np.random.default_rng(0)
    for name in buffer.observations:
        buffer.observations[name][:] = rng.random(buffer.observations[name].shape, np.float32)
        buffer.next_observations[name][:] = rng.random(buffer.next_observations[name].shape, np.float32)
    buffer.actions[:] = rng.random(buffer.actions.shape, np.float32)
    buffer.ep_start[:] = (np.arange(transitions) // LENGTH * LENGTH)[:, None]
    buffer.ep_length[:] = LENGTH
    buffer.full = True
    return lambda: buffer.sample(BATCH)


def d3rlpy_buffer(transitions: int) -> Callable[[], object]:
    """Its replay buffer, made from a data set of the same size."""
    rng = np.random.default_rng(0)
    ends = np.arange(1, transitions + 1) % LENGTH == 0
    data = d3rlpy.dataset.MDPDataset(
        observations=rng.random((transitions, OBSERVATION), np.float32),
        actions=rng.random((transitions, ACTION), np.float32),
        rewards=rng.random(transitions, np.float32),
        terminals=np.zeros(transitions, np.float32),
        timeouts=ends.astype(np.float32),
    )
    return lambda: data.sample_transition_batch(BATCH)


def main() -> None:
    """Measure both."""
    transitions, samples = int(sys.argv[1]), int(sys.argv[2])
    figures = {"sb3_her_ms": milliseconds(stable_baselines3_her(transitions), samples)}
    figures["d3rlpy_ms"] = milliseconds(d3rlpy_buffer(transitions), samples)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
