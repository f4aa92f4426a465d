"""Data sets of other libraries: what goes out comes back, and the real libraries read it."""

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers import PERIOD, START, episode_messages, small_contract

from rl_ros.cli import main
from rl_ros.contract import Contract
from rl_ros.episodes import messages
from rl_ros.episodes.bags import Bag, RawMessage, read_bag
from rl_ros.episodes.exchange import bags, d3rlpy, lerobot, minari
from rl_ros.episodes.exchange.pieces import CUT, pieces
from rl_ros.episodes.ingest import read_episode
from rl_ros.episodes.memory import Episode
from rl_ros.errors import UserError

h5py = pytest.importorskip("h5py", reason="Minari and d3rlpy files are HDF5, and h5py is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="LeRobot's files are parquet, and pyarrow is not installed")

BENCH_PYTHON = Path(__file__).parents[1] / ".venv-bench/bin/python"
"""Where the other libraries are, after `make bench-setup`."""
TICKS = 6


@pytest.fixture
def contract() -> Contract:
    return small_contract()


def made(contract: Contract, ticks: int, success: bool, seed: int) -> Episode:
    """An episode of random values."""
    rng = np.random.default_rng(seed)

    def column(key: object) -> np.ndarray:
        shape, dtype = (ticks, *key.shape), key.dtype  # type: ignore[attr-defined]
        return rng.integers(0, 256, shape).astype(dtype) if dtype == "uint8" else rng.normal(size=shape).astype(dtype)

    last, has = np.arange(ticks) == ticks - 2, np.arange(ticks) < ticks - 1
    action = rng.uniform(contract.action_low, contract.action_high, (ticks, len(contract.action_low)))
    return Episode(
        stamps=START + np.arange(ticks) * PERIOD,
        observation={name: column(key) for name, key in contract.observation.items()},
        auxiliary={name: column(key) for name, key in contract.auxiliary.items()},
        desired_goal=np.full((ticks, 1), 0.1, np.float32),
        action=np.where(has[:, None], action, 0.0).astype(np.float32),
        reward=np.where(has, rng.normal(size=ticks), 0.0).astype(np.float32),
        terminated=last & success,
        truncated=last & (not success),
        has_transition=has,
        outcome="success" if success else "timeout",
        seed=seed,
        source="",
    )


@pytest.fixture
def episodes(contract: Contract) -> list[Episode]:
    return [made(contract, TICKS, True, 3), made(contract, TICKS + 2, False, 4)]


def assert_equal(found: Episode, expected: Episode, but: tuple[str, ...] = ()) -> None:
    """Bit for bit, apart from where it came from."""
    for field in dataclasses.fields(Episode):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if field.name in ("source", "problems", *but):
            continue
        if isinstance(a, dict):
            assert list(a) == list(b)
            pairs = [(a[name], b[name]) for name in a if name not in but]
        else:
            pairs = [(a, b)]
        for one, other in pairs:
            if isinstance(one, np.ndarray):
                assert one.dtype == other.dtype, field.name
            np.testing.assert_array_equal(one, other, err_msg=field.name)


def test_an_episode_with_a_gap_becomes_two_without(contract: Contract) -> None:
    episode = made(contract, 8, True, 0)
    episode.has_transition[2] = False
    first, second = pieces([episode])
    assert len(first.stamps) == 3 and len(second.stamps) == 5
    np.testing.assert_array_equal(second.stamps, episode.stamps[3:])
    assert first.truncated.tolist() == [False, True, False] and not first.terminated.any()
    assert second.terminated.tolist() == [False, False, False, True, False] and not second.truncated.any()
    assert (first.outcome, second.outcome) == (CUT, "success")
    assert not episode.truncated.any(), "the episode itself is left as it is"


def test_imported_episodes_are_bags_like_any_other(contract: Contract, episodes: list[Episode], tmp_path: Path) -> None:
    written = bags.write_bags(episodes, contract, tmp_path / "bags")
    for path, expected in zip(written, episodes, strict=True):
        bag = read_bag(path)
        assert bag.contract == contract and not bag.damage
        assert_equal(read_episode(bag, contract), expected)


def test_a_recorded_episode_survives_the_way_through_bags(contract: Contract, tmp_path: Path) -> None:
    types = {topic: recorded.type for topic, recorded in contract.recorded_topics().items()}
    raw = [RawMessage(topic, types[topic], stamp, cdr) for topic, stamp, cdr in episode_messages(contract, TICKS)]
    recorded = read_episode(Bag(Path("foreign"), raw), contract)
    (path,) = bags.write_bags([recorded], contract, tmp_path)
    assert_equal(read_episode(read_bag(path), contract), recorded)


@pytest.mark.parametrize("library", [minari, lerobot])
def test_what_is_exported_is_imported_bit_for_bit(
    library: object, contract: Contract, episodes: list[Episode], tmp_path: Path
) -> None:
    assert library.write(episodes, contract, tmp_path / "out") == 2  # type: ignore[attr-defined]
    found = list(library.read(tmp_path / "out", contract))  # type: ignore[attr-defined]
    for one, other in zip(found, episodes, strict=True):
        assert_equal(one, other)


def test_minari_files_have_the_published_layout(contract: Contract, episodes: list[Episode], tmp_path: Path) -> None:
    minari.write(episodes, contract, tmp_path)
    metadata = json.loads((tmp_path / "data/metadata.json").read_text())
    assert (metadata["total_episodes"], metadata["total_steps"], metadata["data_format"]) == (2, 12, "hdf5")
    space = json.loads(metadata["observation_space"])
    assert space["type"] == "Dict" and space["subspaces"]["image"]["shape"] == [4, 4, 3]
    with h5py.File(tmp_path / "data/main_data.hdf5") as file:
        assert sorted(file) == ["episode_0", "episode_1"]
        group = file["episode_0"]
        assert group.attrs["total_steps"] == TICKS - 1
        assert sorted(group) == ["actions", "infos", "observations", "rewards", "terminations", "truncations"]
        # One observation more than there are actions.
        assert group["observations/image"].shape == (TICKS, 4, 4, 3)
        assert group["actions"].shape == (TICKS - 1, 4)
        assert group["terminations"][()].tolist() == [False] * (TICKS - 2) + [True]
        assert file["episode_1/truncations"][()].tolist() == [False] * TICKS + [True]


def test_lerobot_files_have_the_published_layout(contract: Contract, episodes: list[Episode], tmp_path: Path) -> None:
    lerobot.write(episodes, contract, tmp_path)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_frames"]) == ("v3.0", 10, 2 * TICKS + 2)
    assert info["features"]["observation.images.image"] == {
        "dtype": "image",
        "shape": [4, 4, 3],
        "names": ["height", "width", "channels"],
    }
    assert info["features"]["observation.state"]["shape"] == [5]
    table = parquet.read_table(tmp_path / "data/chunk-000/file-000.parquet").to_pydict()
    assert table.keys() == info["features"].keys()
    assert table["index"] == list(range(2 * TICKS + 2))
    assert table["frame_index"] == [*range(TICKS), *range(TICKS + 2)]
    np.testing.assert_allclose(table["timestamp"][:TICKS], 0.1 * np.arange(TICKS), atol=1e-6)
    assert table["observation.images.image"][0]["bytes"].startswith(b"\x89PNG")
    assert table["action"][TICKS - 1] == table["action"][TICKS - 2], "the last frame repeats an action"
    rows = parquet.read_table(tmp_path / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(r["dataset_from_index"], r["dataset_to_index"]) for r in rows] == [(0, TICKS), (TICKS, 2 * TICKS + 2)]
    statistics = json.loads((tmp_path / "meta/stats.json").read_text())
    images = np.concatenate([e.observation["image"] for e in episodes]) / 255.0
    np.testing.assert_allclose(np.ravel(statistics["observation.images.image"]["mean"]), images.mean(axis=(0, 1, 2)))
    goals = np.concatenate([e.reward for e in episodes]).astype(np.float64)
    assert statistics["next.reward"]["std"] == pytest.approx([goals.std()])


def test_lerobot_videos_come_back_about_as_they_were(contract: Contract, tmp_path: Path) -> None:
    image = dataclasses.replace(contract.observation["image"], shape=(64, 64, 3))
    contract = dataclasses.replace(contract, observation={**contract.observation, "image": image})
    episode = made(contract, TICKS, True, 0)
    # Smooth pictures, each of another brightness, as no video codec keeps noise.
    ramp = np.linspace(0, 100, 64).astype(np.uint8)
    pictures = np.stack([np.broadcast_to(ramp[:, None, None] + 20 * tick, (64, 64, 3)) for tick in range(TICKS)])
    episode.observation["image"] = pictures.astype(np.uint8)
    lerobot.write([episode], contract, tmp_path, video=True)
    assert (tmp_path / "videos/observation.images.image/chunk-000/file-000.mp4").is_file()
    (found,) = lerobot.read(tmp_path, contract)
    assert_equal(found, episode, but=("image",))
    difference = found.observation["image"].astype(int) - episode.observation["image"]
    assert np.abs(difference).mean() < 4


def test_a_lerobot_data_set_for_imitation_can_be_read(
    contract: Contract, episodes: list[Episode], tmp_path: Path
) -> None:
    lerobot.write(episodes, contract, tmp_path)
    file = tmp_path / "data/chunk-000/file-000.parquet"
    table = parquet.read_table(file)
    more = [n for n in table.column_names if n.startswith("next.")] + ["has_transition", "stamp", "desired_goal"]
    parquet.write_table(table.drop_columns(more), file)
    found = list(lerobot.read(tmp_path, contract))
    assert len(found) == 2
    np.testing.assert_array_equal(found[0].action, episodes[0].action)
    np.testing.assert_array_equal(np.diff(found[0].stamps), PERIOD)
    assert not found[0].reward.any() and not found[0].terminated.any()
    assert np.flatnonzero(found[0].truncated).tolist() == [TICKS - 2]


def test_d3rlpy_files_keep_what_a_truncated_episode_led_to(
    contract: Contract, episodes: list[Episode], tmp_path: Path
) -> None:
    assert d3rlpy.write(episodes, contract, tmp_path / "data.h5") == 2
    with h5py.File(tmp_path / "data.h5") as file:
        assert [name.decode() for name in file["columns"]] == ["observations", "actions", "rewards", "terminated"]
        assert (file["terminated_0"][()], file["terminated_1"][()]) == (True, False)
        # n transitions: n rows where the episode terminated, and one more where what follows has a value.
        assert (len(file["actions_0"]), len(file["actions_1"])) == (TICKS - 1, TICKS + 2)
        np.testing.assert_array_equal(
            file["observations_0_0"], np.moveaxis(episodes[0].observation["image"][:-1], 3, 1)
        )
        assert file["observations_0_1"].shape == (TICKS - 1, 5)


def real(script: str, module: str, *arguments: Path) -> dict:
    """What a script prints as JSON in the environment of the other libraries."""
    if not BENCH_PYTHON.exists():
        pytest.skip("the other libraries are not installed: `make bench-setup`")
    probe = subprocess.run([BENCH_PYTHON, "-c", f"import {module}"], capture_output=True, text=True, timeout=300)
    if probe.returncode:
        pytest.skip(f"{module} cannot be imported here: {probe.stderr.strip().splitlines()[-1]}")
    command = [str(BENCH_PYTHON), "-c", script, *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


READ_MINARI = """
import json, sys
import minari
data = minari.MinariDataset(sys.argv[1])
episodes = list(data.iterate_episodes())
print(json.dumps({
    "steps": data.total_steps,
    "space": sorted(data.observation_space.spaces),
    "lengths": [len(e.rewards) for e in episodes],
    "contained": [data.observation_space.contains({k: v[0] for k, v in e.observations.items()}) for e in episodes],
    "pixels": [int(e.observations["image"].sum()) for e in episodes],
    "ends": [[bool(e.terminations[-1]), bool(e.truncations[-1])] for e in episodes],
    "info": [e.infos["object_position"].shape[0] for e in episodes],
}))
"""

READ_D3RLPY = """
import json, sys
import d3rlpy
with open(sys.argv[1], "rb") as file:
    data = d3rlpy.dataset.ReplayBuffer.load(file, d3rlpy.dataset.InfiniteBuffer())
batch = data.sample_transition_batch(64)
print(json.dumps({
    "transitions": data.transition_count,
    "terminated": [bool(e.terminated) for e in data.episodes],
    "shapes": [list(o.shape[1:]) for o in batch.observations],
    "returns": [float(e.compute_return()) for e in data.episodes],
}))
"""

READ_LEROBOT = """
import json, sys
from lerobot.datasets.lerobot_dataset import LeRobotDataset
data = LeRobotDataset("rl_ros/test", root=sys.argv[1])
frames = [data[i] for i in range(len(data))]
print(json.dumps({
    "episodes": data.num_episodes,
    "frames": len(data),
    "task": frames[0]["task"],
    "pixels": float(sum(f["observation.images.image"].sum() for f in frames)),
    "state": frames[3]["observation.state"].tolist(),
    "reward": [float(f["next.reward"]) for f in frames],
}))
"""


def test_minari_itself_reads_the_export(contract: Contract, episodes: list[Episode], tmp_path: Path) -> None:
    minari.write(episodes, contract, tmp_path)
    assert real(READ_MINARI, "minari", tmp_path / "data") == {
        "steps": 2 * TICKS,
        "space": ["desired_goal", "finger_position", "image", "tool_position"],
        "lengths": [TICKS - 1, TICKS + 1],
        "contained": [True, True],
        "pixels": [int(e.observation["image"].sum()) for e in episodes],
        "ends": [[True, False], [False, True]],
        "info": [TICKS, TICKS + 2],
    }


def test_d3rlpy_itself_reads_the_export(contract: Contract, episodes: list[Episode], tmp_path: Path) -> None:
    d3rlpy.write(episodes, contract, tmp_path / "data.h5")
    found = real(READ_D3RLPY, "d3rlpy", tmp_path / "data.h5")
    assert found["transitions"] == sum(int(e.has_transition.sum()) for e in episodes)
    assert found["terminated"] == [True, False]
    assert found["shapes"] == [[3, 4, 4], [5]]
    np.testing.assert_allclose(found["returns"], [e.reward.sum() for e in episodes], rtol=1e-5)


def test_lerobot_itself_reads_the_export(contract: Contract, episodes: list[Episode], tmp_path: Path) -> None:
    lerobot.write(episodes, contract, tmp_path)
    found = real(READ_LEROBOT, "lerobot.datasets.lerobot_dataset", tmp_path)
    assert (found["episodes"], found["frames"], found["task"]) == (2, 2 * TICKS + 2, "lift")
    pixels = sum(int(e.observation["image"].sum()) for e in episodes) / 255.0
    assert found["pixels"] == pytest.approx(pixels, rel=1e-5)
    state = [*episodes[0].observation["tool_position"][3], *episodes[0].observation["finger_position"][3]]
    np.testing.assert_allclose(found["state"], state, rtol=1e-6)
    np.testing.assert_allclose(found["reward"], np.concatenate([e.reward for e in episodes]), rtol=1e-6)


def test_the_commands_go_there_and_back(contract: Contract, episodes: list[Episode], tmp_path: Path) -> None:
    (tmp_path / "contract.yaml").write_text(contract.to_yaml())
    bags.write_bags(episodes, contract, tmp_path / "bags")
    for name in ("minari", "lerobot"):
        out, back = tmp_path / name, tmp_path / f"{name}_bags"
        assert main(["export", str(tmp_path / "bags"), "--format", name, "--out", str(out)]) == 0
        arguments = ["--format", name, "--contract", str(tmp_path / "contract.yaml"), "--out", str(back)]
        assert main(["import", str(out), *arguments]) == 0
        for number, expected in enumerate(episodes):
            assert_equal(read_episode(read_bag(back / f"episode_{number:06d}"), contract), expected)
    file = tmp_path / "data.h5"
    assert main(["export", str(tmp_path / "bags"), "--format", "d3rlpy", "--out", str(file)]) == 0
    assert file.is_file()


def test_mistakes_are_named(contract: Contract, episodes: list[Episode], tmp_path: Path) -> None:
    full = tmp_path / "full"
    minari.write(episodes, contract, full)
    lerobot.write(episodes, contract, tmp_path / "lerobot")
    with pytest.raises(UserError, match="there is something already"):
        lerobot.write(episodes, contract, full)
    with pytest.raises(UserError, match="expected a Minari data set"):
        list(minari.read(tmp_path / "lerobot", contract))
    with pytest.raises(UserError, match="expected a LeRobotDataset, with meta/info.json"):
        list(lerobot.read(full, contract))
    key = contract.observation["tool_position"]
    other = dataclasses.replace(contract, observation={**contract.observation, "elbow_position": key})
    with pytest.raises(UserError, match="episode_0: holds no observations/elbow_position"):
        list(minari.read(full, other))
    with pytest.raises(UserError, match="observation.state has 5 entries, expected"):
        list(lerobot.read(tmp_path / "lerobot", other))
    (full / "data/main_data.hdf5").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not an HDF5 file"):
        list(minari.read(full, contract))
    info = tmp_path / "lerobot/meta/info.json"
    info.write_text(info.read_text().replace("v3.0", "v2.1"))
    with pytest.raises(UserError, match="expected a LeRobotDataset of v3.0, got v2.1"):
        list(lerobot.read(tmp_path / "lerobot", contract))


def test_a_library_that_is_missing_is_named(
    contract: Contract, episodes: list[Episode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(UserError, match="needs the package h5py: pip install h5py"):
        minari.write(episodes, contract, tmp_path)


def test_values_that_no_key_names_are_unknown_in_a_bag(
    contract: Contract, episodes: list[Episode], tmp_path: Path
) -> None:
    (path,) = bags.write_bags(episodes[:1], contract, tmp_path)
    cdr = next(m.cdr for m in read_bag(path).messages if m.topic == "/tool/pose")
    pose = messages.decode("geometry_msgs/msg/PoseStamped", cdr).pose
    assert pose.position.x == episodes[0].observation["tool_position"][0, 0]
    assert pose.orientation.w == 1.0
