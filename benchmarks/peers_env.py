"""Steps one environment as often as it is told to on standard input; run by env_speed.py, with either python.

    python benchmarks/peers_env.py MODULE ENVIRONMENT

Reads numbers of episodes of 50 steps, and answers each with one JSON object: `steps_s`.
"""

import importlib
import json
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np

STEPS = 50


def main() -> None:
    """Measure as often as asked."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    importlib.import_module(sys.argv[1])
    environment = gymnasium.make(sys.argv[2], disable_env_checker=True)
    shape = STEPS, *(environment.action_space.shape or ())
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, shape).astype(np.float32)
    seed = 0
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            environment.reset(seed=seed)
            seed += 1
            for action in actions:
                environment.step(action)
        print(json.dumps({"steps_s": int(line) * STEPS / (time.perf_counter() - began)}), flush=True)
    environment.close()


if __name__ == "__main__":
    main()
