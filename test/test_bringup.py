"""What a graph that has ended leaves behind."""

import fcntl
import mmap
import os
import stat
import tempfile
from pathlib import Path

import pytest

from rl_ros.bringup import clean_shared_memory, domain_is_taken


def segment(directory: Path, name: str, lock: str = "") -> Path:
    """Shared memory as Fast DDS makes it: the segment, its mutex, and a lock if somebody reads from it."""
    for each in (name, f"sem.{name}_mutex", *([name + lock] if lock else [])):
        (directory / each).write_bytes(b"x" * mmap.PAGESIZE)
    return directory / name


def test_every_user_of_a_machine_can_see_that_a_domain_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = os.umask(0o077)
    try:
        assert not domain_is_taken("alone")
    finally:
        os.umask(before)
    [lock] = tmp_path.iterdir()
    assert stat.S_IMODE(lock.stat().st_mode) == 0o644
    assert not domain_is_taken("alone")  # one that has been there before
    with lock.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert domain_is_taken("alone")


@pytest.mark.parametrize("fast_dds", ["fastdds", "fastrtps"])
def test_only_shared_memory_that_nobody_uses_is_removed(fast_dds: str, tmp_path: Path) -> None:
    dead, dead_port = segment(tmp_path, f"{fast_dds}_0a1b", "_el"), segment(tmp_path, f"{fast_dds}_port7411", "_el")
    orphan, written = segment(tmp_path, f"{fast_dds}_port7413"), segment(tmp_path, f"{fast_dds}_port7415")
    heard, shared = segment(tmp_path, f"{fast_dds}_port7417", "_el"), segment(tmp_path, f"{fast_dds}_port7419", "_sl")
    alive, strange = segment(tmp_path, f"{fast_dds}_2c3d", "_el"), segment(tmp_path, "somebody_elses")
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
