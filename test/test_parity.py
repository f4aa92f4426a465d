"""What the policy saw live is, bit for bit, what its bag gives back."""

from pathlib import Path

import numpy as np

from rl_ros.contract import Contract
from rl_ros.episodes.bags import find_bags
from rl_ros.episodes.ingest import read_episodes
from rl_ros.episodes.trace import compare, digest, read_traces
from rl_ros.training.live import run_episodes


def test_live_and_bag_are_equal_bit_for_bit(tmp_path: Path) -> None:
    # `make parity` does the same over at least 10,000 ticks.
    arguments = {"bags": str(tmp_path / "bags"), "trace": str(tmp_path / "trace"), "seed": "11"}
    results = run_episodes("lift", arguments, 6, tmp_path / "log")
    episodes, refused = read_episodes(find_bags(tmp_path / "bags"), Contract.load("lift"))
    assert not refused
    traces = read_traces(sorted((tmp_path / "trace").glob("*.jsonl")))
    ticks, mismatches = compare(traces, episodes)
    assert ticks == sum(episode["steps"] for episode in results.episodes)
    assert mismatches == []
    # The comparison notices one bit.
    episodes[0].observation["image"][3, 0, 0, 0] ^= 1
    _, mismatches = compare(traces, episodes)
    assert [sentence.split()[0] for sentence in mismatches] == ["image", "image"]  # as next observation, and as one


def test_a_digest_tells_dtype_and_shape_apart() -> None:
    assert digest(np.zeros(4, np.float32)) != digest(np.zeros(2, np.float64))
    assert digest(np.zeros((2, 2))) != digest(np.zeros(4))
