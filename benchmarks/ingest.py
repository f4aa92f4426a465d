"""How fast bags become training arrays: raw and JPEG images, and beside it what rosbags' own deserialisation takes.

    .venv/bin/python benchmarks/ingest.py [--quick]

Bags of the lift contract are written to a temporary directory, and so are in the cache of files; then both are timed
in turn, two or three times each, and the best time of each counts. Everything runs in one process on one core.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.highlevel import AnyReader

from rl_ros.contract import Contract
from rl_ros.episodes import messages
from rl_ros.episodes.cache import load_columns
from rl_ros.episodes.ingest import read_episodes
from rl_ros.episodes.memory import ReplayMemory
from rl_ros.episodes.record import EpisodeFile

GIGABYTE = 1e9
PERIOD = 100_000_000
TICKS_PER_BAG = 400
CAMERA = (480, 640)


def jpeg_contract(contract: Contract) -> Contract:
    """The same with a compressed camera, reduced to the same shape."""
    image = dataclasses.replace(
        contract.observation["image"], topic="/camera/image_raw/compressed", type="sensor_msgs/msg/CompressedImage"
    )
    return dataclasses.replace(
        contract,
        observation={**contract.observation, "image": image},
        record={topic: what for topic, what in contract.record.items() if topic != "/camera/camera_info"},
    )


def raw_images(contract: Contract) -> Iterator[Callable[[int], bytes]]:
    """One picture after the other, as messages for any stamp."""
    rng = np.random.default_rng(0)
    while True:
        pixels = np.frombuffer(rng.bytes(64 * 64 * 3), np.uint8).reshape(64, 64, 3)
        yield partial(messages.image_cdr, frame="camera", image=pixels)


def jpeg_images(contract: Contract) -> Iterator[Callable[[int], bytes]]:
    """Pictures with the detail of a table top: smooth noise of several sizes, at quality 90."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(16):
        layers = [cv2.resize(rng.random((n, n, 3), np.float32), CAMERA[::-1]) / n**0.5 for n in (4, 16, 64)]
        image = cv2.normalize(np.sum(layers, axis=0), np.empty(0), 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
        files.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].reshape(-1))
    number = 0
    while True:
        data, number = files[number % len(files)], number + 1

        def compressed(stamp: int, data: np.ndarray = data) -> bytes:
            fields = {"header": messages.header(stamp, "camera"), "format": "jpeg", "data": data}
            return messages.encode(
                "sensor_msgs/msg/CompressedImage", messages.message("sensor_msgs/msg/CompressedImage", **fields)
            )

        yield compressed


def write_bags(
    directory: Path, contract: Contract, pictures: Iterator[Callable[[int], bytes]], ticks: int
) -> list[Path]:
    """Episodes of the contract with everything that a recording of ours holds for each tick."""
    metadata = {"contract": contract.to_yaml(), "seed": "0"}
    fingers, goal = contract.observation["finger_position"].names, contract.goal.desired_goal
    paths = []
    for number in range((ticks + TICKS_PER_BAG - 1) // TICKS_PER_BAG):
        file = EpisodeFile(directory, f"episode_{number:06d}", contract.recorded_topics(), metadata)
        start = 1_000_000_000_000
        file.write(goal.topic, start, messages.joint_state_cdr(start, goal.names, [0.1]))
        for tick in range(TICKS_PER_BAG):
            stamp = start + tick * PERIOD
            over = float(tick == TICKS_PER_BAG - 1)
            file.write(contract.observation["image"].topic, stamp, next(pictures)(stamp))
            file.write("/joint_states", stamp, messages.joint_state_cdr(stamp, fingers, [0.04, 0.04], frame="base"))
            file.write("/tool/pose", stamp, messages.pose_cdr(stamp, contract.frame, [0.5, 0.0, 0.1]))
            file.write("/object/pose", stamp, messages.pose_cdr(stamp, contract.frame, [0.4, 0.1, 0.02]))
            for topic, cdr in messages.action_cdrs(contract, stamp, np.array([0.1, 0.0, 0.0, 1.0])).items():
                file.write(topic, stamp, cdr)
            names = ["reward", "success", "terminated", "truncated"]
            judgement = messages.joint_state_cdr(stamp, names, [0.0, over, over, 0.0])
            file.write(contract.reward.topic, stamp, judgement)
            if tick % 4 == 3:
                file.flush()
        paths.append(file.close({"outcome": "success"}))
    return paths


def by_rosbags(paths: list[Path], contract: Contract) -> int:
    """Every message of the contract's topics as numpy arrays, by rosbags alone; no alignment, no episodes."""
    keys = (*contract.observation.values(), *contract.auxiliary.values(), *contract.action.values())
    topics = {key.topic for key in (*keys, *contract.reward_keys.values(), contract.goal.desired_goal)}
    count = 0
    for path in paths:
        columns: dict[str, list[np.ndarray]] = {topic: [] for topic in topics}
        with AnyReader([path]) as reader:
            wanted = [connection for connection in reader.connections if connection.topic in topics]
            for connection, _, cdr in reader.messages(wanted):
                message: Any = reader.deserialize(cdr, connection.msgtype)
                if connection.msgtype == "sensor_msgs/msg/Image":
                    array = message.data.reshape(message.height, message.width, 3)
                elif connection.msgtype == "sensor_msgs/msg/JointState":
                    array = message.position
                elif connection.msgtype == "geometry_msgs/msg/PoseStamped":
                    position = message.pose.position
                    array = np.array([position.x, position.y, position.z])
                else:
                    linear = message.twist.linear
                    array = np.array([linear.x, linear.y, linear.z])
                columns[connection.topic].append(array)
        count += len([np.stack(rows) for rows in columns.values()][0])
    return count


def by_rl_ros(paths: list[Path], contract: Contract) -> int:
    """Aligned ticks and transitions; each bag's arrays are let go of, as a cache does."""
    count = 0
    for path in paths:
        episodes, refused = read_episodes([path], contract)
        assert not refused, refused
        count += sum(int(episode.has_transition.sum()) for episode in episodes)
    return count


def best_of(times: int, *functions: Callable[[], object]) -> list[float]:
    """Seconds of the best of several calls of each, taken in turn."""
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(times):
        for function, found in zip(functions, seconds, strict=True):
            began = time.perf_counter()
            function()
            found.append(time.perf_counter() - began)
    return [min(found) for found in seconds]


def main() -> None:
    """Measure, print a table, and one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small part of the data")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    raw_ticks, jpeg_ticks, times = (4_000, 400, 3) if options.quick else (100_000, 2_000, 2)
    contract = Contract.load("lift")
    with tempfile.TemporaryDirectory() as temporary:
        raw = write_bags(Path(temporary) / "raw", contract, raw_images(contract), raw_ticks)
        raw_bytes = sum(file.stat().st_size for path in raw for file in path.glob("*.mcap"))
        ours, theirs = best_of(times, lambda: by_rl_ros(raw, contract), lambda: by_rosbags(raw, contract))

        compressed = jpeg_contract(contract)
        jpeg = write_bags(Path(temporary) / "jpeg", compressed, jpeg_images(compressed), jpeg_ticks)
        decoded_bytes = len(jpeg) * TICKS_PER_BAG * CAMERA[0] * CAMERA[1] * 3
        (jpeg_seconds,) = best_of(times, lambda: by_rl_ros(jpeg, compressed))

        bags = Path(temporary) / "raw"
        starts = []
        for _ in range(2):
            began = time.perf_counter()
            memory = ReplayMemory(load_columns(raw, contract, bags / ".rl_ros_cache").columns)
            starts.append(time.perf_counter() - began)

    figures = {
        "raw_s_per_gb": ours / raw_bytes * GIGABYTE,
        "jpeg_s_per_gb": jpeg_seconds / decoded_bytes * GIGABYTE,
        "ratio_to_rosbags": theirs / ours,
        "rosbags_s_per_gb": theirs / raw_bytes * GIGABYTE,
        "first_start_s": starts[0],
        "second_start_s": starts[1],
        "frames": len(memory.reward),
    }
    rows = [
        ("raw 64x64, s per GB of bag", figures["raw_s_per_gb"], "at most 20"),
        ("rosbags, s per GB of the same bags", figures["rosbags_s_per_gb"], ""),
        ("times faster than rosbags", figures["ratio_to_rosbags"], "at least 3"),
        ("JPEG 640x480 to 64x64, s per GB of decoded images", figures["jpeg_s_per_gb"], "at most 60"),
        (f"first start on {figures['frames']} frames, s", figures["first_start_s"], ""),
        (f"second start on {figures['frames']} frames, s", figures["second_start_s"], "under 2"),
    ]
    for name, figure, bar in rows:
        print(f"{name:52} {figure:10.2f}   {bar}")
    print(json.dumps({name: round(figure, 3) for name, figure in figures.items()}))


if __name__ == "__main__":
    main()
