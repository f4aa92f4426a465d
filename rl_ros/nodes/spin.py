"""The one executor choice, and how a process of nodes begins and ends."""

import gc
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.signals import SignalHandlerOptions

from rl_ros.errors import UserError
from rl_ros.interruptions import interruptions
from rl_ros.nodes.base import Node

SPIN_TIMEOUT = 0.2
"""s. Without a timeout the events executor of these wheels runs nothing and burns a core."""


def node_class(name: str) -> Callable[[], Node]:
    """The class of a node by its name in `config/nodes.yaml`."""
    module = import_module(f"rl_ros.nodes.{name}")
    found: Callable[[], Node] = getattr(module, "".join(part.capitalize() for part in name.split("_")))
    return found


@contextmanager
def ros(**options: Any) -> Iterator[None]:
    """rclpy from `rclpy.init(**options)` to its shutdown. (In ROS 2 Jazzy `init` itself is no context manager.)"""
    rclpy.init(**options)
    try:
        yield
    finally:
        rclpy.try_shutdown()


def spin(nodes: Sequence[Node], interrupted: Callable[[], bool]) -> int:
    """Run nodes until one sets its exit code, or there was an interruption between callbacks; returns the exit code.

    Raises:
        UserError: this rclpy has no events executor.
    """
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError as error:
        raise UserError(
            "this rclpy has no events executor; rl_ros needs rclpy 7.1.4 (ROS 2 Jazzy, from April 2025) or newer."
        ) from error
    executor = EventsExecutor()
    for node in nodes:
        executor.add_node(node)
    try:
        return _spin(executor, nodes, interrupted)
    finally:
        executor.shutdown()


def _spin(executor: Any, nodes: Sequence[Node], interrupted: Callable[[], bool]) -> int:
    # What start-up made stays for good: without this each full collection walks through all of it again.
    gc.collect()
    gc.freeze()
    while rclpy.ok() and not interrupted():
        executor.spin_once(timeout_sec=SPIN_TIMEOUT)
        codes = [node.exit_code for node in nodes if node.exit_code is not None]
        if codes:
            return max(codes)
    return 0


def run(names: Sequence[str], arguments: Sequence[str] | None = None) -> int:
    """Run the named nodes in this process; returns its exit code.

    SIGINT and SIGTERM break in while nodes are made, and afterwards end the process between two callbacks, so that
    nodes can still say a last word. A mistake of the user's is one sentence on standard error and status 2.
    """
    nodes: list[Node] = []
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        given = list(sys.argv if arguments is None else arguments)
        with ros(args=given, signal_handler_options=SignalHandlerOptions.NO):
            try:
                for name in names:
                    nodes.append(node_class(name)())
                with interruptions() as interrupted:
                    return spin(nodes, interrupted)
            finally:
                for node in nodes:
                    node.close()
                    # Not left to the interpreter's end, which would leave shared memory behind.
                    node.destroy_node()
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
