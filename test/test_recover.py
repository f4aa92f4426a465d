"""Bags of recorders that were killed."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import START, episode_messages, small_contract, wait_for
from rosbags.highlevel import AnyReader

from rl_ros.contract import Contract
from rl_ros.episodes.bags import find_bags, mcap_file, read_bag
from rl_ros.episodes.record import EpisodeFile, EpisodeRecorder
from rl_ros.episodes.recover import recover_bags
from rl_ros.errors import UserError

TICKS = 5

KILLED_RECORDER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from helpers import START, episode_messages, small_contract
from rl_ros.episodes.record import EpisodeRecorder
recorder = EpisodeRecorder(Path(sys.argv[1]), small_contract())
recorder.begin(7, START, {"seed": "17"})
for topic, stamp, cdr in episode_messages(small_contract(), 5)[1:]:
    recorder.receive(topic, stamp, stamp, cdr)
print("received", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def contract() -> Contract:
    return small_contract()


def unfinished(directory: Path, contract: Contract, name: str = "episode_000007") -> Path:
    """What a killed recorder leaves; of the last tick, nothing has reached the disk."""
    metadata = {"contract": contract.to_yaml(), "episode": "7", "seed": "17", "start": str(START)}
    file = EpisodeFile(directory, name, contract.recorded_topics(), metadata)
    for number, (topic, stamp, cdr) in enumerate(episode_messages(contract, TICKS)[1:]):
        if number == 7 * (TICKS - 1):
            file.flush()
        file.write(topic, stamp, cdr)
    held = file.path.read_bytes()
    file.discard()
    (directory / f"{name}.unfinished").mkdir()
    (directory / f"{name}.unfinished" / f"{name}_0.mcap").write_bytes(held)
    return directory / f"{name}.unfinished"


def test_what_a_killed_recorder_wrote_is_recovered_and_told(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED_RECORDER, str(tmp_path), str(Path(__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        file = tmp_path / "episode_000007.unfinished" / "episode_000007_0.mcap"
        assert process.stdout is not None
        assert process.stdout.readline() == "received\n"
        everything = 7 * TICKS

        def all_written() -> bool:
            try:
                return len(read_bag(file).messages) == everything
            except UserError:  # not there yet, or only just begun
                return False

        assert wait_for(all_written)
        # It is being recorded: not ours to recover.
        assert recover_bags(tmp_path) == []
        process.send_signal(signal.SIGKILL)
    [recovered] = recover_bags(tmp_path)
    assert recovered.path == tmp_path / "episode_000007_interrupted"
    assert recovered.text == f"{recovered.path}: recovered {everything} messages of an interrupted episode"
    assert recovered.number == "7"
    assert recovered.topics["/tool/pose"] == {"count": TICKS, "rate": 10.0, "worst_gap": 0.1, "lost": 0}
    bag = read_bag(recovered.path)
    assert bag.damage == ""
    assert len(bag.messages) == everything
    assert (bag.outcome["outcome"], bag.outcome["episode"], bag.outcome["seed"]) == ("interrupted", "7", "17")
    assert [path.name for path in tmp_path.iterdir()] == ["episode_000007_interrupted"]


def test_a_recovered_bag_is_a_complete_one(tmp_path: Path, contract: Contract) -> None:
    unfinished(tmp_path, contract)
    [recovered] = recover_bags(tmp_path)
    bag = read_bag(recovered.path)
    expected = [(topic, stamp, cdr) for topic, stamp, cdr in episode_messages(contract, TICKS - 1)[1:]]
    # The last tick of the shorter episode would end it; this one is of the longer.
    assert [(m.topic, m.log_time) for m in bag.messages] == [(topic, stamp) for topic, stamp, _ in expected]
    assert bag.contract == contract
    assert bag.outcome["end"] == str(expected[-1][1])
    assert json.loads(bag.outcome["faults"])[-1] == f"interrupted: cut off after {len(expected)} messages"
    assert find_bags(tmp_path) == [recovered.path]
    with AnyReader([recovered.path]) as reader:
        assert reader.message_count == len(expected)
    information = yaml.safe_load((recovered.path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert information["relative_file_paths"] == [mcap_file(recovered.path).name]
    assert information["custom_data"]["outcome"] == "interrupted"


def test_a_recovered_bag_leaves_its_number_to_new_episodes(tmp_path: Path, contract: Contract) -> None:
    for _ in range(2):
        unfinished(tmp_path, contract)
        recover_bags(tmp_path)
    recorder = EpisodeRecorder(tmp_path, contract)
    recorder.begin(7, START, {})
    recorder.close()
    names = ["episode_000007", "episode_000007_interrupted", "episode_000007_interrupted_2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_a_bag_with_nothing_in_it_is_left_and_named_and_hinders_nobody(tmp_path: Path, contract: Contract) -> None:
    broken = tmp_path / "episode_000000.unfinished"
    broken.mkdir()
    (broken / "episode_000000_0.mcap").touch()
    unfinished(tmp_path, contract)
    left, recovered = recover_bags(tmp_path)
    assert left.path == broken
    assert left.text.startswith(f"{broken}: not recovered: ")
    assert "the file is empty" in left.problem
    assert not recovered.problem
    recorder = EpisodeRecorder(tmp_path, contract)
    recorder.begin(0, START, {})
    assert [each.path.name for each in recorder.close()] == ["episode_000000"]
    assert (broken / "episode_000000_0.mcap").exists()


def test_a_recovery_that_was_killed_itself_is_carried_on(tmp_path: Path, contract: Contract) -> None:
    other = tmp_path / "other"
    kept = unfinished(other, contract)
    [recovered] = recover_bags(other)
    name = recovered.path.name
    for stage in ("writing", "written", "original removed"):
        directory = tmp_path / stage
        again = unfinished(directory, contract)
        if stage == "writing":
            (again / f"{name}.unfinished").mkdir()
            (again / f"{name}.unfinished" / f"{name}_0.mcap").write_bytes(b"\x89MCAP0\r\n")
        else:
            shutil.copytree(recovered.path, again / name)
        if stage == "original removed":
            (again / f"{kept.name.removesuffix('.unfinished')}_0.mcap").unlink()
        [told] = recover_bags(directory)
        assert told.path == directory / name, stage
        assert read_bag(told.path).messages == read_bag(recovered.path).messages
        assert [path.name for path in directory.iterdir()] == [name]
