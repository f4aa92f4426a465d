"""How long an image takes to become a latent: as goal_encoder does it, on one core.

    .venv/bin/python benchmarks/encoder_latency.py [--size 84] [--quick]

From the bytes of an Image message to those of the latent's: reading, encoding with onnxruntime on one thread, and
writing. The weights are random; the time does not depend on them. The last line is a JSON object: `size`, `images`,
`p50_ms`, `p99_ms`, and `p50_encode_ms`, of encoding alone.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from rl_ros.contract import Contract
from rl_ros.episodes import messages
from rl_ros.networks.image_encoder import Calibration, save_encoder
from rl_ros.networks.vae import ImageVAE
from rl_ros.training.representation import RepresentationConfig

WARM_UP = 100


def main() -> None:
    """Parse the command line, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=84, help="pixels of height and width")
    parser.add_argument("--quick", action="store_true", help="a tenth of the images")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    contract, count = Contract.load("visual_push"), 500 if arguments.quick else 5000
    camera = replace(contract.auxiliary["image"], shape=(arguments.size, arguments.size, 3))
    key, config = contract.latent, RepresentationConfig()
    model = ImageVAE(camera.shape, key.shape[0], config.features, config.hidden_size)
    rng = np.random.default_rng(0)
    cdrs = [messages.image_cdr(i, "camera", rng.integers(0, 256, camera.shape, np.uint8)) for i in range(16)]
    whole, alone = np.zeros(count), np.zeros(count)
    with tempfile.TemporaryDirectory() as directory:
        encoder = save_encoder(Path(directory) / "encoder", model, Calibration(1.0, 1.0, 1.0, 1.0), {})
    for index in range(-WARM_UP, count):
        began = time.perf_counter()
        image = messages.value(camera, cdrs[index % len(cdrs)])
        read = time.perf_counter()
        latent = encoder.encode(image)
        encoded = time.perf_counter()
        messages.joint_state_cdr(index + WARM_UP, key.names, latent, frame=encoder.frame)
        if index >= 0:
            whole[index], alone[index] = time.perf_counter() - began, encoded - read
    p50, p99 = np.percentile(whole, [50, 99]) * 1e3
    figures = {
        "size": arguments.size,
        "images": count,
        "p50_ms": round(float(p50), 4),
        "p99_ms": round(float(p99), 4),
        "p50_encode_ms": round(float(np.median(alone)) * 1e3, 4),
    }
    table = Table(*figures, title=f"an image of {arguments.size}x{arguments.size} to its latent, one core")
    table.add_row(*map(str, figures.values()))
    Console().print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
