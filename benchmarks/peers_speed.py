"""Updates a second of d3rlpy; run by offline_speed.py with the python of `.venv-bench`.

    .venv-bench/bin/python benchmarks/peers_speed.py DEVICE TRANSITIONS OBSERVATION ACTION BATCH THREADS SECONDS NAME...

An update is what its `fit` does for one: sample a batch from the data set and learn from it, with d3rlpy's default
settings but for the batch size; its networks have two hidden layers of 256. Prints one JSON object: updates a second
by name, the middle one of three rounds.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import d3rlpy
import numpy as np
import torch

LENGTH = 50
"""Transitions an episode."""
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "awac": ("AWACConfig", {}),
    "bc": ("BCConfig", {}),
    "bcq": ("BCQConfig", {}),
    "bear": ("BEARConfig", {"warmup_steps": 0}),
    "cql": ("CQLConfig", {}),
    "crr": ("CRRConfig", {}),
    "iql": ("IQLConfig", {}),
    "rebrac": ("ReBRACConfig", {}),
    "sac": ("SACConfig", {}),
    "td3": ("TD3Config", {}),
    "td3_bc": ("TD3PlusBCConfig", {}),
}


def dataset(transitions: int, observation: int, action: int) -> d3rlpy.dataset.ReplayBuffer:
    """Random episodes."""
    rng = np.random.default_rng(0)
    return d3rlpy.dataset.MDPDataset(
        observations=rng.standard_normal((transitions, observation), np.float32),
        actions=rng.uniform(-1, 1, (transitions, action)).astype(np.float32),
        rewards=rng.random(transitions, np.float32),
        terminals=np.zeros(transitions, np.float32),
        timeouts=(np.arange(1, transitions + 1) % LENGTH == 0).astype(np.float32),
    )


def updates_per_second(update: Callable[[], object], seconds: float) -> float:
    """The middle one of three rounds, after a few updates that are not counted."""
    for _ in range(5):
        update()
    rates = []
    for _ in range(3):
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds / 3:
            update()
            count += 1
        rates.append(count / (time.perf_counter() - began))
    return sorted(rates)[1]


def update(learner: Any, data: d3rlpy.dataset.ReplayBuffer, batch: int) -> None:
    """One, of a batch drawn for it."""
    learner.update(data.sample_transition_batch(batch))


def main() -> None:
    """Measure the algorithms named."""
    transitions, observation, action, batch, threads = (int(text) for text in sys.argv[2:7])
    torch.set_num_threads(threads)
    data = dataset(transitions, observation, action)
    figures = {}
    for name in sys.argv[8:]:
        config, settings = CONFIGS[name]
        learner = getattr(d3rlpy.algos, config)(batch_size=batch, **settings).create(device=f"{sys.argv[1]}:0")
        learner.build_with_dataset(data)
        figures[name] = updates_per_second(partial(update, learner, data, batch), float(sys.argv[7]))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
