"""Starts a resolved graph: as supervised processes here, or as launch actions for `ros2 launch`."""

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import yaml

from rl_ros import gazebo
from rl_ros.errors import UserError
from rl_ros.graph import ResolvedGraph, ResolvedNode, absolute, load_graph, resolve
from rl_ros.resources import share_file

STOP_SECONDS = 5.0
"""s between SIGINT, SIGTERM and SIGKILL, as in ros2 launch."""
SEGMENTS = ("fastdds", "fastrtps")
"""How the names of its shared memory begin: from ROS 2 Kilted on, and in Jazzy."""
_PR_SET_PDEATHSIG = 1


def parameters_yaml(nodes: Sequence[ResolvedNode]) -> str:
    """The parameters of some nodes as a ROS parameter file."""
    data = {
        f"/**/{node.name}": {
            "ros__parameters": {k: list(v) if isinstance(v, tuple) else v for k, v in node.parameters.items()}
        }
        for node in nodes
    }
    return yaml.safe_dump(data, sort_keys=False)


def ros_arguments(nodes: Sequence[ResolvedNode], parameter_file: Path) -> list[str]:
    """What follows `--ros-args` for a process of these nodes."""
    arguments = ["--params-file", str(parameter_file)]
    if os.environ.get("ROS_SECURITY_ENABLE", "").lower() == "true":  # as in config/security; a file is a process
        arguments += ["--enclave", f"/rl_ros/{parameter_file.stem}"]
    for node in nodes:
        # Relative names: ROS puts the namespace before both.
        for old, new in node.remaps.items():
            arguments += ["-r", f"{node.name}:{old.lstrip('/')}:={new.lstrip('/')}"]
        if node.namespace:
            # rclpy takes time from /clock, whatever the namespace.
            arguments += ["-r", f"{node.name}:__ns:=/{node.namespace}"]
            arguments += ["-r", f"{node.name}:/clock:={absolute('clock', node.namespace)}"]
    return arguments


def profile_variable() -> str:
    """Where Fast DDS looks for its profile: Jazzy's version knows the old name only, and newer ones warn of it."""
    jazzy = os.environ.get("ROS_DISTRO") == "jazzy" or any(metadata.distributions(name="ros-jazzy-rclpy"))
    return "FASTRTPS_DEFAULT_PROFILES_FILE" if jazzy else "FASTDDS_DEFAULT_PROFILES_FILE"


def environment() -> dict[str, str]:
    """The environment of every process: this one's, and what Fast DDS and the numeric libraries need.

    Nobody beyond this machine is listened to, unless ROS_AUTOMATIC_DISCOVERY_RANGE or ROS_STATIC_PEERS say so.
    """
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    alone = reach in ("LOCALHOST", "OFF") and not os.environ.get("ROS_STATIC_PEERS")
    profile = "config/fastdds.xml" if alone else "config/fastdds_network.xml"
    defaults = {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        profile_variable(): str(share_file(profile)),
        "OMP_NUM_THREADS": "1",
    }
    return {**defaults, **os.environ, "PYTHONUNBUFFERED": "1"}


def _in_child() -> None:
    """Runs between fork and exec: an interrupt reaches the child, and it does not outlive its supervisor."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Supervisor:
    """The processes of one graph, on one ROS domain and in one namespace.

    Args:
        graph: what to start.
        output: receives each line that a process prints, with the process's name in front.
        alone: refuse to start beside another graph of rl_ros.

    Raises:
        UserError: another graph runs there, or rclpy is not installed.
    """

    def __init__(self, graph: ResolvedGraph, output: Callable[[str], None] = print, alone: bool = True) -> None:
        self.graph, self.output = graph, output
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self._readers: list[threading.Thread] = []
        self._lock = _lock_domain(graph.namespace) if alone else None
        self._directory = Path(tempfile.mkdtemp(prefix="rl_ros_"))

    def __enter__(self) -> "Supervisor":
        try:
            for number, (name, nodes) in enumerate(self.graph.processes.items(), start=1):
                self._start(number, name, nodes)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def wait(self, poll: Callable[[], None] = lambda: None, every: float = 0.1) -> int:
        """Wait until the graph ends by itself; returns 0, or the status of the process that failed.

        Args:
            poll: called about `every` s while waiting.
        """
        while True:
            poll()
            for name, process in self.processes.items():
                status = process.poll()
                if status is None:
                    continue
                ends_well = status == 0 and any(node.stops_graph for node in self.graph.processes[name])
                if not ends_well:
                    self.output(f"[{name}] ended with status {status}, so the graph is stopped")
                return status if status else (0 if ends_well else 1)
            try:
                next(iter(self.processes.values())).wait(every)
            except subprocess.TimeoutExpired:
                continue

    def restart(self, name: str) -> None:
        """Start a process of the graph again, once it has ended."""
        self.processes[name].wait()
        clean_shared_memory()
        self._start(list(self.graph.processes).index(name) + 1, name, self.graph.processes[name])

    def stop(self) -> None:
        """End every process: SIGINT, then SIGTERM, then SIGKILL; clean up what Fast DDS leaves behind."""
        for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            alive = [process for process in self.processes.values() if process.poll() is None]
            for process in alive:
                os.killpg(process.pid, sent)
            deadline = time.monotonic() + STOP_SECONDS
            for process in alive:
                try:
                    process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    continue
        for reader in self._readers:
            reader.join()
        clean_shared_memory()
        shutil.rmtree(self._directory, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    def _start(self, number: int, name: str, nodes: Sequence[ResolvedNode]) -> None:
        parameter_file = self._directory / f"{name}.yaml"
        parameter_file.write_text(parameters_yaml(nodes))
        names = [node.name for node in nodes]
        process = subprocess.Popen(
            [sys.executable, "-m", "rl_ros.nodes", *names, "--ros-args", *ros_arguments(nodes, parameter_file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment(),
            start_new_session=True,
            preexec_fn=_in_child,
        )
        self.processes[name] = process
        assert process.stdout is not None
        reader = threading.Thread(target=self._read, args=(f"[{name}-{number}]", process.stdout), daemon=True)
        reader.start()
        self._readers.append(reader)

    def _read(self, prefix: str, stream: IO[str]) -> None:
        for line in stream:
            self.output(f"{prefix} {line.rstrip()}")


def domain_is_taken(namespace: str = "") -> bool:
    """Whether a graph of rl_ros runs on this ROS domain, in this namespace."""
    try:
        _lock_domain(namespace).close()
    except UserError:
        return True
    return False


def _lock_domain(namespace: str) -> IO[str]:
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    name = "_".join([domain, *namespace.split("/")]) if namespace else domain
    path = Path(tempfile.gettempdir()) / f"rl_ros_domain_{name}.lock"
    lock = _open_for_all(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UserError(
            f"a graph of rl_ros already runs on ROS domain {domain}{f' as {namespace}' if namespace else ''}; stop it, "
            "choose another domain with ROS_DOMAIN_ID=1 in front of the command, or namespace:=arm_2 for another robot."
        ) from error
    return lock


def _open_for_all(path: Path) -> IO[str]:
    """A file that every user of the machine can lock; none can create one in /tmp that is another's already."""
    with contextlib.suppress(FileExistsError):
        made = os.open(path, os.O_CREAT | os.O_EXCL, 0o644)
        os.fchmod(made, 0o644)  # whatever the umask
        os.close(made)
    return path.open()


def clean_shared_memory(directory: Path = Path("/dev/shm")) -> None:
    """Remove the shared memory of Fast DDS processes that are gone: segments of 64 MiB, and the ports they heard by.

    As `fastdds shm clean` does, which needs a package that its wheel does not bring; and also ports that no process
    uses any more, which stay after one that used them was killed.
    """
    for lock in (lock for name in SEGMENTS for lock in directory.glob(f"{name}_*_el")):
        with contextlib.suppress(FileNotFoundError, BlockingIOError, PermissionError), lock.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            segment = lock.name.removesuffix("_el")
            for name in (segment, f"sem.{segment}_mutex", lock.name):
                lock.with_name(name).unlink(missing_ok=True)
    unheard = [
        port
        for name in SEGMENTS
        for port in directory.glob(f"{name}_port*")
        if port.name[-1].isdigit() and not any(port.with_name(port.name + lock).exists() for lock in ("_el", "_sl"))
    ]
    mapped = _mapped("_port") if unheard else set()
    for port in unheard:
        if str(port) not in mapped:
            with contextlib.suppress(PermissionError):  # another user's
                port.unlink(missing_ok=True)
                port.with_name(f"sem.{port.name}_mutex").unlink(missing_ok=True)


def _mapped(word: str) -> set[str]:
    """Paths with a word in them that this user's processes have in their memory."""
    found = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            found |= {line.split(maxsplit=5)[5] for line in maps.read_text().splitlines() if word in line}
    return found


def gazebo_actions(world: str) -> list[Any]:
    """Gazebo with a world, the arm, its controllers and the bridge, as actions of `ros2 launch`."""
    from launch.actions import ExecuteProcess
    from launch_ros.actions import Node

    actions: list[Any] = []
    for name, process in gazebo.processes(world).items():
        if process.command:
            actions.append(ExecuteProcess(cmd=list(process.command), name=name, output="screen"))
        else:
            actions.append(
                Node(
                    package=process.package,
                    executable=process.executable,
                    arguments=list(process.arguments),
                    parameters=[process.parameters] if process.parameters else [],
                    output="screen",
                )
            )
    return actions


def gazebo_description() -> Any:
    """Gazebo alone, for `ros2 launch`, with an argument for the world."""
    from launch.actions import DeclareLaunchArgument, OpaqueFunction

    from launch import LaunchDescription  # type: ignore[attr-defined]

    world = DeclareLaunchArgument(
        "world", default_value=gazebo.DEFAULT_WORLD, description="what is on the table", choices=gazebo.worlds()
    )
    start = OpaqueFunction(function=lambda context: gazebo_actions(context.launch_configurations["world"]))
    return LaunchDescription([world, start])


def launch_description(graph_name: str) -> Any:
    """The same graph for `ros2 launch`: one launch argument per graph argument, one action per process."""
    from launch.actions import (
        DeclareLaunchArgument,
        EmitEvent,
        OpaqueFunction,
        RegisterEventHandler,
        SetEnvironmentVariable,
    )
    from launch.event_handlers import OnProcessExit
    from launch.events import Shutdown
    from launch_ros.actions import Node

    from launch import LaunchDescription  # type: ignore[attr-defined]

    graph = load_graph(graph_name)

    def start(context: Any) -> list[Any]:
        given = {key: context.launch_configurations[key] for key in graph.arguments}
        resolved = resolve(graph, given)
        directory = Path(tempfile.mkdtemp(prefix="rl_ros_"))
        actions: list[Any] = []
        if given.get("robot") == "gazebo":
            actions += gazebo_actions(gazebo.world_of(given.get("scene", "")))
        for name, nodes in resolved.processes.items():
            parameter_file = directory / f"{name}.yaml"
            parameter_file.write_text(parameters_yaml(nodes))
            process = Node(
                package="rl_ros",
                executable="compose",
                arguments=[node.name for node in nodes],
                ros_arguments=ros_arguments(nodes, parameter_file),
                output="screen",
            )
            ends = OnProcessExit(target_action=process, on_exit=[EmitEvent(event=Shutdown(reason=f"{name} ended"))])
            actions += [RegisterEventHandler(ends), process]
        return actions

    return LaunchDescription(
        [
            *(SetEnvironmentVariable(name, value) for name, value in environment().items() if name not in os.environ),
            *(
                DeclareLaunchArgument(
                    key,
                    default_value=argument.default,
                    description=argument.description,
                    choices=list(argument.choices) or None,
                )
                for key, argument in graph.arguments.items()
            ),
            OpaqueFunction(function=start),
        ]
    )
