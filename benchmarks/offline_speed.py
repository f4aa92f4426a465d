"""Updates a second of offline learning: ours, d3rlpy's in the same run, and what the machine allows at most.

    .venv/bin/python benchmarks/offline_speed.py [--quick] [--threads N] [--compile] [--device cuda] [NAME...]

Random transitions of half-cheetah's sizes (17 numbers of observation, 6 of action), batches of 256, networks with two
hidden layers of 256, two threads; an update includes sampling its batch, on both sides. d3rlpy runs in a process of its
own, with `make bench-setup`, before and after ours, and the faster run counts. What counts as ours for SAC is the naive
off-policy learner: it is trained on the same random data.

`ceiling_share` is the rate of floating-point operations in an update's matrix products, as counted while one runs,
over the best rate that matrix products alone reach in the same run. The last line is a JSON object by algorithm:
`ours`, `d3rlpy`, `ratio`, `ceiling_share`, and the ceiling itself in GFLOP/s.

With `--device cuda` both sides learn on a GPU, ours by recorded graphs, and each hundredth update waits for it.

With `--compile` our loss is compiled by torch's inductor, after a check that ten updates in eager mode and ten compiled
ones end at the same weights, to rounding; `difference` is the largest one between weights of the policy.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from rl_ros.algorithms.base import Algorithm, make_algorithm
from rl_ros.contract import Contract
from rl_ros.episodes.allocation import keep_freed_memory
from rl_ros.episodes.memory import Columns, ReplayMemory

OBSERVATION, ACTION, BATCH, LENGTH, TRANSITIONS = 17, 6, 256, 50, 100_000
BLOCK = 100
"""Updates whose rows are drawn at once, as in training."""
SETTINGS: dict[str, dict[str, Any]] = {
    "td3_bc": {"critic_layer_norm": False},
    "iql": {"schedule": "constant", "average_rate": 1.0, "critic_layer_norm": False},
    "sac": {"hidden_layers": 2, "critic_layer_norm": False, "smallest_reward": 0.0, "largest_reward": 1.0},
    "awac": {},
    "cql": {"critic_layer_norm": False},
    "bc": {"schedule": "constant", "average_rate": 1.0},
    "crr": {"samples": 1},
    "bcq": {"vae_hidden_size": 256},
    "bear": {"vae_hidden_size": 256, "matched_samples": 4, "cloning_updates": 0},
    "rebrac": {"hidden_layers": 2},
}
"""What makes both sides compute the same: d3rlpy's samples and sizes, no LayerNorm, no running mean of weights."""
BARS = {"td3_bc": 2.5, "iql": 2.5, "sac": 2.0, "awac": 2.0, "cql": 2.0}
"""Times d3rlpy."""
SHARE_BAR = 0.65
GPU_BARS = {"td3_bc": 2000, "iql": 1800, "cql": 400}
"""Updates a second on a GPU."""
TOLERANCE = 1e-4
"""Between weights of the policy after ten updates in eager mode and ten compiled ones: a third of a step of Adam, whose
first ones go by the signs of gradients, and so by their last digits where they are next to nothing."""
PEER_PYTHON = Path(__file__).parents[1] / ".venv-bench/bin/python"


def make_contract() -> Contract:
    """Half-cheetah's sizes."""
    names = ", ".join(f"s{i}" for i in range(OBSERVATION))
    joints = ", ".join(f"a{i}" for i in range(ACTION))
    joint_state = "type: sensor_msgs/msg/JointState, field: position"
    text = f"""
format: 1
name: speed
task: speed
control_rate: 20.0
episode_length: {LENGTH}
frame: base
reference: state
observation:
  state: {{topic: /state, {joint_state}, names: [{names}], shape: [{OBSERVATION}], unit: rad}}
action:
  torque:
    {{topic: /torque, {joint_state}, names: [{joints}], shape: [{ACTION}], unit: rad,
     low: {[-1.0] * ACTION}, high: {[1.0] * ACTION}}}
goal:
  policy_input: false
  desired_goal: {{topic: /goal, {joint_state}, names: [g], shape: [1], unit: m}}
"""
    return Contract.from_yaml(text, "speed")


def make_memory() -> ReplayMemory:
    """Random episodes."""
    rng = np.random.default_rng(0)
    episodes = TRANSITIONS // LENGTH
    rows = episodes * (LENGTH + 1)
    last = np.arange(1, rows + 1) % (LENGTH + 1) == 0
    return ReplayMemory(
        Columns(
            observation={"state": rng.standard_normal((rows, OBSERVATION), np.float32)},
            auxiliary={},
            desired_goal=np.zeros((rows, 1), np.float32),
            action=rng.uniform(-1, 1, (rows, ACTION)).astype(np.float32),
            reward=rng.random(rows, np.float32),
            terminated=np.zeros(rows, bool),
            truncated=np.roll(last, -1),
            has_transition=~last,
            lengths=np.full(episodes, LENGTH + 1),
        )
    )


def learner(name: str, contract: Contract, compiled: bool = False, device: str = "cpu") -> Algorithm:
    """An algorithm of ours, of the sizes that are compared."""
    size = len(contract.goal.desired_goal.names)
    statistics = {"state": {"mean": [0.0] * OBSERVATION, "std": [1.0] * OBSERVATION}}
    statistics["desired_goal"] = {"mean": [0.0] * size, "std": [1.0] * size}
    overrides = {"batch_size": BATCH, "hidden_size": 256, "compile": compiled, **SETTINGS[name]}
    return make_algorithm(name, contract, statistics, overrides=overrides, device=device)


def updates_per_second(algorithm: Algorithm, memory: ReplayMemory, seconds: float) -> float:
    """The middle one of three rounds, after a block that is not counted."""
    rng = np.random.default_rng(0)

    on_gpu = algorithm.device.type == "cuda"
    updates = BLOCK if on_gpu else BLOCK // 10

    def block() -> None:
        for batch in algorithm.batches(memory, memory.sample(rng, (updates, BATCH)), rng):
            algorithm.update(batch)
        if on_gpu:
            torch.cuda.synchronize()

    block()
    rates = []
    for _ in range(3):
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds / 3:
            block()
            count += updates
        rates.append(count / (time.perf_counter() - began))
    return sorted(rates)[1]


def operations(algorithm: Algorithm, memory: ReplayMemory, updates: int = 4) -> float:
    """Floating-point operations in the matrix products of an update, the mean of a few."""
    rng = np.random.default_rng(0)
    with FlopCounterMode(display=False) as counter:
        for batch in algorithm.batches(memory, memory.sample(rng, (updates, BATCH)), rng):
            algorithm.update(batch)
    return counter.get_total_flops() / updates


def ceiling(device: str, seconds: float = 1.0) -> float:
    """Floating-point operations a second of matrix products in float32, the best of several sizes and rounds."""
    best = 0.0
    for size in (256, 512, 1024):
        a, b, out = (torch.randn(size, size, device=device) for _ in range(3))
        each = 2.0 * size**3
        until = time.perf_counter() + seconds / 3
        while time.perf_counter() < until:
            count = max(1, int(2e9 / each))
            began = time.perf_counter()
            for _ in range(count):
                torch.mm(a, b, out=out)
            out[0, 0].item()  # waits for a GPU
            best = max(best, each * count / (time.perf_counter() - began))
    return best


def difference(name: str, contract: Contract, memory: ReplayMemory, updates: int = 10) -> float:
    """Largest difference between weights of the policy after the same updates in eager mode and compiled."""
    sides = [learner(name, contract, compiled) for compiled in (False, True)]
    for side in sides:
        rng = np.random.default_rng(0)
        for batch in side.batches(memory, memory.sample(rng, (updates, BATCH)), rng):
            side.update(batch)
    eager, compiled = (list(side.policy.parameters()) for side in sides)
    return max(float((a - b).detach().abs().max()) for a, b in zip(eager, compiled, strict=True))


def peers(names: list[str], device: str, threads: int, seconds: float) -> dict[str, float]:
    """d3rlpy's updates a second by algorithm; none where it is not installed or has no such algorithm."""
    if not PEER_PYTHON.exists():
        print("d3rlpy is not installed; `make bench-setup` does it.", file=sys.stderr)
        return {}
    script = Path(__file__).with_name("peers_speed.py")
    sizes = [TRANSITIONS, OBSERVATION, ACTION, BATCH, threads, seconds]
    command = [str(PEER_PYTHON), str(script), device, *(str(size) for size in sizes), *names]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    figures: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return figures


def main() -> int:
    """Measure, print a table and the JSON line; status 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SETTINGS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="a second for each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="as torch names it (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="compile our side")
    arguments = parser.parse_args()
    names, seconds = arguments.names or list(SETTINGS), 1.0 if arguments.quick else 4.0
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    contract, memory = make_contract(), make_memory()
    device, threads = arguments.device, arguments.threads
    before = peers(names, device, threads, seconds)
    peak = ceiling(device)
    apart = {name: difference(name, contract, memory) for name in names if arguments.compile}
    ours = {
        name: updates_per_second(learner(name, contract, arguments.compile, device), memory, seconds) for name in names
    }
    flops = {name: operations(learner(name, contract), memory) for name in names}
    peak = max(peak, ceiling(device))
    after = peers(names, device, threads, seconds)
    bars = BARS if device == "cpu" else GPU_BARS

    table = Table(
        "algorithm", "ours /s", "d3rlpy /s", "ratio", "bar", "ceiling share", title=f"{peak / 1e9:.0f} GFLOP/s"
    )
    figures: dict[str, Any] = {}
    missed = False
    for name in names:
        peer = max(before[name], after[name]) if name in before and name in after else None
        share = ours[name] * flops[name] / peak
        ratio = None if peer is None else ours[name] / peer
        figures[name] = {"ours": ours[name], "d3rlpy": peer, "ratio": ratio, "ceiling_share": share}
        cells = ["-" if value is None else f"{value:.2f}" for value in (ours[name], peer, ratio)]
        table.add_row(name, *cells, str(bars.get(name, "")), f"{share:.2f}")
        if device != "cpu":
            missed |= ours[name] < bars.get(name, 0)
        elif name in BARS:
            missed |= share < SHARE_BAR or (ratio is not None and ratio < BARS[name])
        figures[name] = {key: value if value is None else round(value, 3) for key, value in figures[name].items()}
        if name in apart:
            figures[name]["difference"] = apart[name]
            missed |= apart[name] > TOLERANCE
    Console().print(table)
    print(json.dumps({**figures, "ceiling_gflops": round(peak / 1e9, 1)}))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
