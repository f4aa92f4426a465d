"""d3rlpy learns from a data set, then answers observations; run by offline_scores.py with `.venv-bench`'s python.

    .venv-bench/bin/python benchmarks/peers_scores.py SET.npz ALGORITHM SEED UPDATES BATCH REWARD_SCALE DEVICE

Settings are those of d3rlpy's own reproductions of the papers; networks have two hidden layers of 256. When it has
learned it writes one line of JSON, and from then on answers on standard output what comes on standard input: a number
n (int32) and n observations (float32) are answered by n actions (float32).
"""

import json
import os
import sys
import time
from typing import Any

# What d3rlpy prints must not come between the answers.
ANSWERS = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)

import d3rlpy  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "awac": ("AWACConfig", {"actor_learning_rate": 3e-4, "critic_learning_rate": 3e-4, "lam": 1.0}),
    "bc": ("BCConfig", {}),
    "bcq": ("BCQConfig", {}),
    "bear": ("BEARConfig", {}),
    "cql": ("CQLConfig", {"alpha_learning_rate": 0.0, "conservative_weight": 5.0}),
    "crr": ("CRRConfig", {}),
    "iql": ("IQLConfig", {"weight_temp": 3.0, "expectile": 0.7, "max_weight": 100.0}),
    "rebrac": ("ReBRACConfig", {}),
    "sac": ("SACConfig", {}),
    "td3_bc": ("TD3PlusBCConfig", {"alpha": 2.5}),
}


def main() -> None:
    """Learn, then answer."""
    file, name = sys.argv[1:3]
    seed, updates, batch = (int(text) for text in sys.argv[3:6])
    torch.set_num_threads(1)
    d3rlpy.seed(seed)
    with np.load(file, allow_pickle=False) as arrays:
        observations = arrays["observations"]
        data = d3rlpy.dataset.MDPDataset(
            observations=observations,
            actions=arrays["actions"],
            rewards=arrays["rewards"] * float(sys.argv[6]),
            terminals=arrays["terminals"].astype(np.float32),
            timeouts=arrays["timeouts"].astype(np.float32),
        )
    config, settings = SETTINGS[name]
    scaler = d3rlpy.preprocessing.StandardObservationScaler()
    made = getattr(d3rlpy.algos, config)(batch_size=batch, observation_scaler=scaler, **settings)
    learner = made.create(device=f"{sys.argv[7]}:0")
    began = time.monotonic()
    learner.fit(
        data,
        n_steps=updates,
        n_steps_per_epoch=updates,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )
    ANSWERS.write(json.dumps({"seconds": time.monotonic() - began}).encode() + b"\n")
    ANSWERS.flush()
    size = observations.shape[1]
    while header := sys.stdin.buffer.read(4):
        count = int(np.frombuffer(header, np.int32)[0])
        seen = np.frombuffer(sys.stdin.buffer.read(4 * count * size), np.float32).reshape(count, size)
        ANSWERS.write(np.ascontiguousarray(learner.predict(seen), np.float32).tobytes())
        ANSWERS.flush()


if __name__ == "__main__":
    main()
