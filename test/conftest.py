"""Every test has a ROS domain of its own, and leaves nothing behind on it."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import Bench

from rl_ros.bringup import SEGMENTS, clean_shared_memory
from rl_ros.nodes.spin import ros

LOCK_PORT = 21_400
DOMAINS = range(1, 100)
FAST_DDS_PORTS = 7400, 250
"""First port of domain 0, and ports per domain."""


def _free_domain() -> tuple[int, socket.socket]:
    for domain in DOMAINS:
        lock = socket.socket()
        try:
            lock.bind(("127.0.0.1", LOCK_PORT + domain))
        except OSError:
            lock.close()
            continue
        return domain, lock
    raise RuntimeError("every ROS domain is taken by another test run")


def marked_processes(mark: str) -> list[int]:
    """Processes other than this one whose environment holds `mark`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if mark.encode() in environment.split(b"\0") and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


@pytest.fixture(autouse=True)
def ros_domain(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[int]:
    """A ROS domain that no other test hears; checks afterwards that no process or shared memory is left."""
    domain, lock = _free_domain()
    mark = f"RL_ROS_TEST={os.getpid()}-{domain}"
    monkeypatch.setenv(*mark.split("="))
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with lock:
        yield domain
        left = marked_processes(mark)
        for process in left:
            os.kill(process, signal.SIGKILL)
        assert not left, f"processes left behind: {left}"
        base, per_domain = FAST_DDS_PORTS
        ports = [base + per_domain * domain + port for port in range(per_domain)]
        names = [f"{name}_port{port}" for name in SEGMENTS for port in ports]
        clean_shared_memory()  # killed processes leave ports; a graph that ends removes them
        segments = [name for name in names if (Path("/dev/shm") / name).exists()]
        for name in segments:
            (Path("/dev/shm") / name).unlink()
        assert not segments, f"shared memory left behind: {segments}"


@pytest.fixture
def bench(ros_domain: int) -> Iterator[Bench]:
    """A peer for nodes in this process; see `bench.py`."""
    with ros():
        made = Bench()
        yield made
        for node in made.nodes:
            made.executor.remove_node(node)
            node.destroy_node()
        made.executor.shutdown()
