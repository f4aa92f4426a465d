"""What a graph that has ended leaves behind."""

import fcntl
import mmap
from pathlib import Path

from rl_ros.bringup import clean_shared_memory


def segment(directory: Path, name: str, lock: str = "") -> Path:
    """Shared memory as Fast DDS makes it: the segment, its mutex, and a lock if somebody reads from it."""
    for each in (name, f"sem.{name}_mutex", *([name + lock] if lock else [])):
        (directory / each).write_bytes(b"x" * mmap.PAGESIZE)
    return directory / name


def test_only_shared_memory_that_nobody_uses_is_removed(tmp_path: Path) -> None:
    dead, dead_port = segment(tmp_path, "fastdds_0a1b", "_el"), segment(tmp_path, "fastdds_port7411", "_el")
    orphan, written = segment(tmp_path, "fastdds_port7413"), segment(tmp_path, "fastdds_port7415")
    heard, shared = segment(tmp_path, "fastdds_port7417", "_el"), segment(tmp_path, "fastdds_port7419", "_sl")
    alive, strange = segment(tmp_path, "fastdds_2c3d", "_el"), segment(tmp_path, "somebody_elses")
    kept = {each for path in (written, heard, shared, alive, strange) for each in tmp_path.glob(f"*{path.name}*")}
    with (
        written.open("r+b") as stream,
        mmap.mmap(stream.fileno(), 0),
        (tmp_path / f"{heard.name}_el").open() as port_lock,
        (tmp_path / f"{alive.name}_el").open() as segment_lock,
    ):
        fcntl.flock(port_lock, fcntl.LOCK_EX)
        fcntl.flock(segment_lock, fcntl.LOCK_EX)
        clean_shared_memory(tmp_path)
    assert set(tmp_path.iterdir()) == kept
    assert not any(path.exists() for path in (dead, dead_port, orphan))
