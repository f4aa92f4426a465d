"""LeRobotDataset v3.0: frames in parquet files, images inside them or as MP4, and what they mean under `meta/`.

The layout of huggingface/lerobot, `lerobot/datasets/utils.py`. A frame is a tick: `observation.images.KEY`, all
vectors joined as `observation.state`, the `action` taken there, and what it led to as `next.reward`,
`next.terminated`, `next.truncated`, `next.done` and `next.success`; beside them `desired_goal`, `auxiliary.KEY` and the
`stamp`. An episode of n transitions has n + 1 frames: `has_transition` is false on the last, whose action repeats the
one before it.

Images are PNG inside the parquet files, bit for bit what was recorded. MP4 as OpenCV writes it is smaller but lossy,
and therefore has to be asked for.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rl_ros.contract import IMAGES, Contract, Key
from rl_ros.episodes.exchange.pieces import empty_directory, library, pieces, whole
from rl_ros.episodes.memory import Episode
from rl_ros.episodes.video import write_video
from rl_ros.errors import UserError

VERSION = "v3.0"
FILES_IN_A_CHUNK = 1000
DATA_FILE_MEGABYTES, VIDEO_FILE_MEGABYTES = 100, 500
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
TASKS_PATH, INFO_PATH, STATISTICS_PATH = "meta/tasks.parquet", "meta/info.json", "meta/stats.json"
IMAGE, STATE = "observation.images.", "observation.state"


def write(episodes: Iterable[Episode], contract: Contract, out: Path, video: bool = False) -> int:
    """Write a data set; returns the number of episodes in it.

    Args:
        episodes: with gaps or without; those with gaps become several.
        contract: what they mean; its task is the data set's one task.
        out: a new or empty directory.
        video: images as MP4, lossy, instead of PNG.

    Raises:
        UserError: pyarrow is not installed, or `out` holds something already.
    """
    arrow, parquet = library("pyarrow", "pyarrow"), library("pyarrow.parquet", "pyarrow")
    empty_directory(out)
    features = _features(contract, video)
    schema = arrow.schema([(name, _type(arrow, feature)) for name, feature in features.items() if _in_table(feature)])
    rows: list[dict[str, Any]] = []
    statistics: dict[str, _Statistics] = {}
    frames, file_index, megabytes = 0, 0, 0.0
    writer = None
    for number, piece in enumerate(pieces(episodes)):
        columns = _frames(piece, contract, number, frames)
        for name, array in columns.items():
            statistics.setdefault(name, _Statistics()).add(_scaled(array, features[name]))
        length = len(piece.stamps)
        row: dict[str, Any] = {"episode_index": number, "tasks": [contract.task], "length": length}
        row |= {"dataset_from_index": frames, "dataset_to_index": frames + length}
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        row |= {"outcome": piece.outcome, "seed": piece.seed}
        for name in features:
            if features[name]["dtype"] == "video":
                place = {"chunk_index": number // FILES_IN_A_CHUNK, "file_index": number % FILES_IN_A_CHUNK}
                write_video(out / VIDEO_PATH.format(video_key=name, **place), columns[name], contract.control_rate)
                row |= {f"videos/{name}/{key}": value for key, value in place.items()}
                row |= {f"videos/{name}/from_timestamp": 0.0, f"videos/{name}/to_timestamp": length * contract.period}
        arrays = [_arrow(arrow, columns[f.name], f.type, features[f.name]) for f in schema]
        table = arrow.table(arrays, schema=schema)
        if writer is not None and megabytes + table.nbytes / 2**20 > DATA_FILE_MEGABYTES:
            writer.close()
            writer, file_index, megabytes = None, file_index + 1, 0.0
        place = {"chunk_index": file_index // FILES_IN_A_CHUNK, "file_index": file_index % FILES_IN_A_CHUNK}
        if writer is None:
            path = out / DATA_PATH.format(**place)
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = parquet.ParquetWriter(path, schema)
        writer.write_table(table)
        megabytes += table.nbytes / 2**20
        rows.append(row | {f"data/{key}": value for key, value in place.items()})
        frames += length
    if writer is None:
        raise UserError("there is no complete transition to export.")
    writer.close()
    (out / EPISODES_PATH).parent.mkdir(parents=True)
    parquet.write_table(arrow.Table.from_pylist(rows), out / EPISODES_PATH)
    parquet.write_table(_tasks(arrow, contract.task), out / TASKS_PATH)
    rate = contract.control_rate
    info = {
        "codebase_version": VERSION,
        "robot_type": None,
        "total_episodes": len(rows),
        "total_frames": frames,
        "total_tasks": 1,
        "chunks_size": FILES_IN_A_CHUNK,
        "data_files_size_in_mb": DATA_FILE_MEGABYTES,
        "video_files_size_in_mb": VIDEO_FILE_MEGABYTES,
        "fps": int(rate) if rate == int(rate) else rate,
        "splits": {"train": f"0:{len(rows)}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if video else None,
        "features": features,
    }
    (out / INFO_PATH).write_text(json.dumps(info, indent=4))
    summary = {name: statistics[name].summary(features[name]) for name in features}
    (out / STATISTICS_PATH).write_text(json.dumps(summary, indent=4))
    return len(rows)


def read(path: Path, contract: Contract) -> Iterator[Episode]:
    """The episodes of a data set, as the contract has them.

    `observation.state` holds the contract's vectors one after the other. Data sets made for imitation say less than a
    contract asks for. Then the last frame of an episode, whose action leads nowhere, ends its last transition; stamps
    are a control period apart; rewards are 0, and so is a goal that the policy does not see.

    Raises:
        UserError: pyarrow is not installed, it is no such data set, or something that the contract names is missing,
            of another shape, or cannot be decoded.
    """
    parquet = library("pyarrow.parquet", "pyarrow")
    try:
        info = json.loads((path / INFO_PATH).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected a LeRobotDataset, with {INFO_PATH} in it.") from error
    if not str(info.get("codebase_version", "")).startswith("v3."):
        raise UserError(f"{path}: expected a LeRobotDataset of {VERSION}, got {info.get('codebase_version')}.")
    rows = [row for file in sorted((path / "meta/episodes").rglob("*.parquet")) for row in _rows(parquet, file)]
    opened: Path | None = None
    table: Any = None
    for row in rows:
        place = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
        file = path / info["data_path"].format(**place)
        if file != opened:
            opened, table = file, parquet.read_table(file)
        number = row["episode_index"]
        chosen = np.flatnonzero(table["episode_index"].to_numpy() == number)
        yield _episode(table.slice(chosen[0], len(chosen)), row, info, contract, path)


def _features(contract: Contract, video: bool) -> dict[str, dict[str, Any]]:
    """Name, type and shape of each column, as `info.json` has them."""
    vectors = _vectors(contract.observation)
    for name, key in contract.observation.items():
        if name not in vectors and (key.dtype != "uint8" or len(key.shape) != 3):
            raise UserError(
                f"{name}: a LeRobotDataset holds single images of bytes, not {key.dtype} {list(key.shape)}."
            )
    features: dict[str, dict[str, Any]] = {}
    for name, key in contract.observation.items():
        if name not in vectors:
            feature: dict[str, Any] = {"dtype": "video" if video else "image", "shape": list(key.shape)}
            features[IMAGE + name] = feature | {"names": ["height", "width", "channels"]}
            if video:
                features[IMAGE + name]["info"] = {
                    "video.fps": contract.control_rate,
                    "video.height": key.shape[0],
                    "video.width": key.shape[1],
                    "video.channels": key.shape[2],
                    "video.codec": "mpeg4",
                    "video.pix_fmt": "yuv420p",
                    "video.is_depth_map": False,
                    "has_audio": False,
                }
    if vectors:
        dtype = np.result_type(*(key.dtype for key in vectors.values())).name
        names = [entry for name, key in vectors.items() for entry in _entries(name, key)]
        features[STATE] = {"dtype": dtype, "shape": [len(names)], "names": names}
    actions = [entry for name, channel in contract.action.items() for entry in _entries(name, channel)]
    features["action"] = {"dtype": "float32", "shape": [len(actions)], "names": actions}
    goal = contract.goal.desired_goal
    features["desired_goal"] = {"dtype": "float32", "shape": list(goal.shape), "names": _entries("desired_goal", goal)}
    for name, key in contract.auxiliary.items():
        features[f"auxiliary.{name}"] = {"dtype": key.dtype, "shape": list(key.shape), "names": _entries(name, key)}
    scalars = {"next.reward": "float32", "next.terminated": "bool", "next.truncated": "bool", "next.done": "bool"}
    scalars |= {"next.success": "bool", "has_transition": "bool", "stamp": "int64", "timestamp": "float32"}
    scalars |= dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")
    return features | {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in scalars.items()}


def _vectors(keys: Mapping[str, Key]) -> dict[str, Key]:
    """The keys that are no images."""
    return {name: key for name, key in keys.items() if key.type not in IMAGES}


def _entries(name: str, key: Key) -> list[str]:
    """A name for each number of a key."""
    if key.names and key.shape == (len(key.names),):
        return list(key.names)
    return [f"{name}.{index}" for index in range(int(np.prod(key.shape)))]


def _frames(piece: Episode, contract: Contract, number: int, first: int) -> dict[str, np.ndarray]:
    """The columns of an episode, a row a tick."""
    length = len(piece.stamps)
    vectors = _vectors(contract.observation)
    columns = {IMAGE + name: piece.observation[name] for name in contract.observation if name not in vectors}
    if vectors:
        columns[STATE] = np.concatenate([piece.observation[name].reshape(length, -1) for name in vectors], axis=1)
    action = piece.action.copy()
    action[-1] = action[-2]
    last = np.arange(length) == length - 2
    return {
        **columns,
        "action": action,
        "desired_goal": piece.desired_goal,
        **{f"auxiliary.{name}": array for name, array in piece.auxiliary.items()},
        "next.reward": piece.reward,
        "next.terminated": piece.terminated,
        "next.truncated": piece.truncated,
        "next.done": piece.terminated | piece.truncated,
        "next.success": last & piece.success,
        "has_transition": piece.has_transition,
        "stamp": piece.stamps,
        "timestamp": (np.arange(length) / contract.control_rate).astype(np.float32),
        "frame_index": np.arange(length),
        "episode_index": np.full(length, number),
        "index": np.arange(first, first + length),
        "task_index": np.zeros(length, np.int64),
    }


def _in_table(feature: Mapping[str, Any]) -> bool:
    return bool(feature["dtype"] != "video")


def _type(arrow: Any, feature: Mapping[str, Any]) -> Any:
    if feature["dtype"] == "image":
        return arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    scalar = arrow.from_numpy_dtype(np.dtype(feature["dtype"]))
    # LeRobot stores vectors of one entry as plain numbers.
    return scalar if feature["shape"] == [1] else arrow.list_(scalar, feature["shape"][0])


def _arrow(arrow: Any, column: np.ndarray, kind: Any, feature: Mapping[str, Any]) -> Any:
    if feature["dtype"] == "image":
        return arrow.array([{"bytes": _png(image), "path": None} for image in column], kind)
    flat = arrow.array(np.ascontiguousarray(column).reshape(-1))
    return flat if feature["shape"] == [1] else arrow.FixedSizeListArray.from_arrays(flat, feature["shape"][0])


def _png(image: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", image[..., ::-1])  # OpenCV has blue first
    if not done:
        raise UserError(f"an image of shape {list(image.shape)} cannot be written as PNG.")
    return bytes(data)


def _tasks(arrow: Any, task: str) -> Any:
    """The table of tasks as pandas would write it: LeRobot looks tasks up by the index of a data frame."""
    index = "__index_level_0__"
    described: list[dict[str, Any]] = [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
        {"name": None, "field_name": index, "pandas_type": "unicode", "numpy_type": "object"},
    ]
    pandas = {
        "index_columns": [index],
        "column_indexes": [],
        "columns": [column | {"metadata": None} for column in described],
        "pandas_version": "2.0.0",
    }
    table = arrow.table({"task_index": np.zeros(1, np.int64), index: [task]})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _scaled(column: np.ndarray, feature: Mapping[str, Any]) -> np.ndarray:
    """A column as its statistics are taken: numbers (n, entries), or pixels (n, channels) from 0 to 1."""
    if feature["dtype"] in ("image", "video"):
        return column.reshape(-1, column.shape[-1]) / 255.0
    return column.reshape(len(column), -1).astype(np.float64)


class _Statistics:
    """Least, greatest, mean and standard deviation of each entry of a column, gathered piece by piece."""

    def __init__(self) -> None:
        self.count, self.sum, self.squares = 0, np.zeros(1), np.zeros(1)
        self.least, self.greatest = np.array([np.inf]), np.array([-np.inf])

    def add(self, values: np.ndarray) -> None:
        """Take (n, entries) into account."""
        self.count += len(values)
        self.sum = self.sum + values.sum(axis=0)
        self.squares = self.squares + np.square(values).sum(axis=0)
        self.least = np.minimum(self.least, values.min(axis=0))
        self.greatest = np.maximum(self.greatest, values.max(axis=0))

    def summary(self, feature: Mapping[str, Any]) -> dict[str, Any]:
        """As `stats.json` has it; those of images are (channels, 1, 1), and count frames."""
        mean = self.sum / self.count
        std = np.sqrt(np.maximum(self.squares / self.count - mean**2, 0.0))
        found = {"min": self.least, "max": self.greatest, "mean": mean, "std": std}
        image = feature["dtype"] in ("image", "video")
        pixels = feature["shape"][0] * feature["shape"][1] if image else 1
        shaped = {name: array.reshape(-1, 1, 1) if image else array for name, array in found.items()}
        return {**{name: array.tolist() for name, array in shaped.items()}, "count": [self.count // pixels]}


def _rows(parquet: Any, file: Path) -> list[dict[str, Any]]:
    names = [name for name in parquet.read_schema(file).names if not name.startswith("stats/")]
    rows: list[dict[str, Any]] = parquet.read_table(file, columns=names).to_pylist()
    return rows


def _episode(table: Any, row: Mapping[str, Any], info: Mapping[str, Any], contract: Contract, path: Path) -> Episode:
    source = f"{path}: episode {row['episode_index']}"
    length = len(table)

    def column(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in table.column_names:
            raise UserError(f"{source}: holds no {name}, which contract {contract.name} needs.")
        values = table[name].combine_chunks()
        array: np.ndarray = (values.flatten() if hasattr(values, "flatten") else values).to_numpy(zero_copy_only=False)
        if array.size != length * int(np.prod(shape)):
            raise UserError(f"{source}: {name} has {array.size // length} entries, expected {list(shape)}.")
        return array.reshape(length, *shape)

    vectors = _vectors(contract.observation)
    sizes = [int(np.prod(key.shape)) for key in vectors.values()]
    state = column(STATE, (sum(sizes),)) if vectors else np.zeros((length, 0))
    parts = dict(zip(vectors, np.split(state, np.cumsum(sizes)[:-1], axis=1), strict=True)) if vectors else {}
    observation = {
        name: parts[name].reshape(length, *key.shape).astype(key.dtype)
        if name in parts
        else _images(table, name, key, row, info, path, source)
        for name, key in contract.observation.items()
    }
    goal = contract.goal
    unseen = not goal.policy_input and "desired_goal" not in table.column_names

    def scalars(name: str) -> np.ndarray:
        return column(name, ())[:-1] if name in table.column_names else np.zeros(length - 1)

    if length < 2:
        raise UserError(f"{source}: a single frame holds no transition.")
    done = "next.terminated" not in table.column_names and "next.done" in table.column_names
    terminated = scalars("next.done" if done else "next.terminated").astype(bool)
    made_up = np.arange(1, length + 1, dtype=np.int64) * contract.period_ns
    succeeded = bool(scalars("next.success").any())
    return whole(
        stamps=column("stamp", ()).astype(np.int64) if "stamp" in table.column_names else made_up,
        observation=observation,
        auxiliary={
            name: column(f"auxiliary.{name}", key.shape).astype(key.dtype) for name, key in contract.auxiliary.items()
        },
        desired_goal=np.zeros((length, *goal.desired_goal.shape))
        if unseen
        else column("desired_goal", goal.desired_goal.shape),
        action=column("action", contract.action_low.shape)[:-1],
        reward=scalars("next.reward"),
        terminated=terminated,
        truncated=scalars("next.truncated").astype(bool),
        outcome=str(row.get("outcome") or ("success" if succeeded else "terminated" if terminated[-1] else "timeout")),
        seed=int(row.get("seed") or 0),
        source=source,
    )


def _images(
    table: Any, name: str, key: Key, row: Mapping[str, Any], info: Mapping[str, Any], path: Path, source: str
) -> np.ndarray:
    """One camera's images of an episode, uint8 (frames, *shape)."""
    feature = IMAGE + name
    kind = info["features"].get(feature, {}).get("dtype")
    if kind == "image":
        pictures: list[np.ndarray | None] = [
            cv2.imdecode(np.frombuffer(entry["bytes"] or b"\0", np.uint8), cv2.IMREAD_UNCHANGED)
            for entry in table[feature].to_pylist()
        ]
    elif kind == "video":
        place = {name: row[f"videos/{feature}/{name}"] for name in ("chunk_index", "file_index")}
        begin = round(row[f"videos/{feature}/from_timestamp"] * info["fps"])
        pictures = _read_video(path / info["video_path"].format(video_key=feature, **place), begin, len(table))
    else:
        raise UserError(f"{source}: holds no {feature}, which key {name} of the contract needs.")
    images = []
    for picture in pictures:
        if picture is None or picture.size != np.prod(key.shape) or picture.shape[:2] != key.shape[:2]:
            found = "nothing that can be decoded" if picture is None else f"images of {list(picture.shape)}"
            raise UserError(f"{source}: {feature} holds {found}, expected {list(key.shape)}.")
        images.append(picture.reshape(key.shape)[..., ::-1])
    return np.stack(images)


def _read_video(file: Path, begin: int, count: int) -> list[np.ndarray | None]:
    """Frames of a video, blue first; None for each that cannot be decoded."""
    video = cv2.VideoCapture(str(file))
    frames: list[np.ndarray | None] = []
    # Read from its beginning: seeking in compressed video lands on key frames.
    for index in range(begin + count):
        done, frame = video.read() if index >= begin else (video.grab(), None)
        if index >= begin:
            frames.append(frame if done else None)
    video.release()
    return frames
