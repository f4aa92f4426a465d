"""The cache of decoded bags: what is decoded again, what is not, and that nothing broken is trusted."""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import PERIOD, START, episode_messages, small_contract
from rosbags.rosbag2 import StoragePlugin, Writer

from rl_ros.cli import main
from rl_ros.commands.ingest import count_reasons
from rl_ros.contract import Contract
from rl_ros.episodes.bags import read_bag
from rl_ros.episodes.cache import INDEX, Dataset, load_columns
from rl_ros.episodes.ingest import Cuts, read_episodes
from rl_ros.episodes.memory import Columns, ReplayMemory
from rl_ros.episodes.messages import TYPESTORE
from rl_ros.episodes.record import EpisodeRecorder
from rl_ros.errors import UserError


@pytest.fixture
def contract() -> Contract:
    return small_contract()


def record(directory: Path, contract: Contract, number: int, ticks: int = 5) -> Path:
    recorder = EpisodeRecorder(directory, contract, patience=0.0)
    recorder.begin(number, START - 1, {"seed": str(number)})
    for topic, stamp, cdr in episode_messages(contract, ticks):
        recorder.receive(topic, stamp, stamp, cdr)
    recorder.end(number, START + 1000 * PERIOD, "success")
    return recorder.close()[0].path


@pytest.fixture
def bags(tmp_path: Path, contract: Contract) -> list[Path]:
    return [record(tmp_path / "bags", contract, number, ticks=4 + number) for number in range(3)]


def load(bags: list[Path], contract: Contract) -> Dataset:
    return load_columns(bags, contract, bags[0].parent / "cache")


def arrays(columns: Columns) -> dict[str, np.ndarray]:
    named = {f.name: getattr(columns, f.name) for f in dataclasses.fields(columns)}
    return named.pop("observation") | named.pop("auxiliary") | named


def assert_equals_bags(dataset: Dataset, bags: list[Path], contract: Contract) -> None:
    episodes, refused = read_episodes(bags, contract)
    expected = arrays(Columns.of(episodes))
    found = arrays(dataset.columns)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].tobytes()) == (array.dtype, array.tobytes()), name
    np.testing.assert_array_equal(dataset.stamps, np.concatenate([episode.stamps for episode in episodes]))
    assert [(e.outcome, e.seed, e.source) for e in dataset.episodes] == [
        (e.outcome, e.seed, e.source) for e in episodes
    ]
    assert dataset.refused == refused


def test_the_second_time_nothing_is_decoded_and_everything_is_the_same(bags: list[Path], contract: Contract) -> None:
    seen: list[bool] = []
    first = load_columns(bags, contract, bags[0].parent / "cache", None, lambda: seen.append(True))
    assert (first.decoded, len(seen)) == (3, 3)
    assert_equals_bags(first, bags, contract)
    second = load(bags, contract)
    assert second.decoded == 0
    assert_equals_bags(second, bags, contract)
    assert not second.columns.observation["image"].flags.owndata  # mapped, not read
    assert len(ReplayMemory(second.columns)) == 3 + 4 + 5


def test_only_new_and_changed_bags_are_decoded_and_the_order_is_that_of_the_bags(
    bags: list[Path], contract: Contract
) -> None:
    load(bags[1:], contract)
    dataset = load(bags, contract)
    assert dataset.decoded == 1
    assert_equals_bags(dataset, bags, contract)
    dataset = load([bags[2], bags[0]], contract)
    assert dataset.decoded == 0
    assert_equals_bags(dataset, [bags[2], bags[0]], contract)
    other = record(bags[0].parent / "other", contract, 7, ticks=9)
    file = next(bags[0].glob("*.mcap"))
    file.write_bytes(next(other.glob("*.mcap")).read_bytes())
    dataset = load([bags[2], bags[0]], contract)
    assert dataset.decoded == 1
    assert_equals_bags(dataset, [bags[2], bags[0]], contract)


def test_another_contract_or_other_cuts_have_a_cache_of_their_own(bags: list[Path], contract: Contract) -> None:
    load(bags, contract)
    longer = dataclasses.replace(contract, episode_length=99)
    assert load(bags, longer).decoded == 3
    cut = load_columns(bags, contract, bags[0].parent / "cache", Cuts(seconds=(0.2,)))
    assert (cut.decoded, len(cut.episodes)) == (3, 6)
    assert load(bags, contract).decoded == 0


def test_channels_in_another_order_are_decoded_in_that_order(bags: list[Path], contract: Contract) -> None:
    # Somebody else's bags, which tell of no order themselves.
    foreign = []
    for bag in bags:
        foreign.append(bag.parent.with_name("foreign") / bag.name)
        with Writer(foreign[-1], version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
            topics = {
                t: writer.add_connection(t, kind, typestore=TYPESTORE) for t, (kind, _) in read_bag(bag).topics.items()
            }
            for message in read_bag(bag):
                writer.write(topics[message.topic], message.log_time, message.cdr)
    swapped = dataclasses.replace(contract, action=dict(reversed(contract.action.items())))
    as_given, other = load(foreign, contract), load(foreign, swapped)
    assert other.decoded == 3
    np.testing.assert_array_equal(other.columns.action[:, 1:], as_given.columns.action[:, :3])
    np.testing.assert_array_equal(other.columns.action[:, 0], as_given.columns.action[:, 3])
    assert_equals_bags(other, foreign, swapped)


def overwrite(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 255
    file.write_bytes(content)


def shorten(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


@pytest.mark.parametrize("damage", [overwrite, shorten, Path.unlink, lambda file: file.write_bytes(b"")])
@pytest.mark.parametrize("name", [INDEX, "reward.npy", "observation%2Fimage.npy"])
def test_a_broken_cache_is_decoded_again(
    bags: list[Path], contract: Contract, name: str, damage: Callable[[Path], object]
) -> None:
    first = load(bags, contract)
    before = (first.directory / name).stat().st_mtime_ns
    damage(first.directory / name)
    if (first.directory / name).exists():  # the clock of files may be too coarse to show the change
        os.utime(first.directory / name, ns=(before + 10**9, before + 10**9))
    dataset = load(bags, contract)
    assert dataset.decoded == 3
    assert_equals_bags(dataset, bags, contract)
    assert load(bags, contract).decoded == 0


def test_a_cache_that_was_only_copied_is_used(bags: list[Path], contract: Contract) -> None:
    first = load(bags, contract)
    for file in first.directory.iterdir():
        os.utime(file, ns=(0, 0))
    assert load(bags, contract).decoded == 0


def test_what_was_left_of_an_interrupted_run_is_not_taken_for_a_cache(bags: list[Path], contract: Contract) -> None:
    first = load(bags, contract)
    first.directory.rename(first.directory.parent / "building")
    dataset = load(bags, contract)
    assert dataset.decoded == 3
    assert_equals_bags(dataset, bags, contract)


def test_bags_that_cannot_be_used_are_named_every_time_and_not_read_again(bags: list[Path], contract: Contract) -> None:
    empty = bags[0].parent / "empty.mcap"
    empty.touch()
    silent = record(bags[0].parent, contract, 8, ticks=0)
    for decoded in (5, 0):
        dataset = load([*bags, empty, silent], contract)
        assert dataset.decoded == decoded
        assert len(dataset.refused) == 2
        assert f"{empty}: the file is empty; delete the bag." in dataset.refused
        assert any(str(silent) in sentence for sentence in dataset.refused)
    with pytest.raises(UserError, match="none of 1 bags can be used: .*the file is empty"):
        load_columns([empty], contract, bags[0].parent / "cache")


def test_a_cache_that_cannot_be_written_is_one_sentence(bags: list[Path], contract: Contract) -> None:
    (bags[0].parent / "cache").write_text("a file")
    with pytest.raises(UserError, match="the cache cannot be written: .*; name another place with --cache"):
        load(bags, contract)


def test_a_hundred_thousand_frames_start_in_two_seconds(tmp_path: Path, contract: Contract) -> None:
    # A hundredth of the frames and of the time; the benchmark does all of them.
    bags = [record(tmp_path, contract, number, ticks=40) for number in range(25)]
    load(bags, contract)
    best = min(_seconds(lambda: ReplayMemory(load(bags, contract).columns)) for _ in range(3))
    assert best < 0.2


def _seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def test_the_command_says_what_became_of_the_bags(bags: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    broken = bags[0].parent / "broken.mcap"
    broken.write_bytes(b"nothing")
    assert main(["ingest", str(bags[0].parent)]) == 0
    out, error = capsys.readouterr()
    assert [line.split("\u2502")[2].strip() for line in out.splitlines() if "transitions" in line][:1] == ["12"]
    assert f"left out: {broken}: not an MCAP file" in error
    assert (bags[0].parent / ".rl_ros_cache").is_dir()
    assert main(["ingest", str(bags[0].parent), "arm:=/x"]) == 2
    assert "arm:=: no key of contract lift" in capsys.readouterr().err


def test_reasons_are_counted_without_the_figures_of_each_tick() -> None:
    counted = count_reasons(
        [
            "joints: 0.300 s old, at most 0.200 s allowed (2 times)",
            "joints: 0.400 s old, at most 0.200 s allowed (3 times)",
            "joints: not finite: [nan] (1 times)",
            "ticks 0.20 s apart (4 times)",
            "/a has 2 publishers, whose messages are mixed",
        ]
    )
    assert counted == {
        "joints: more than 0.200 s old": 5,
        "joints: not finite": 1,
        "ticks missing between": 4,
        "/a has 2 publishers, whose messages are mixed": 1,
    }
