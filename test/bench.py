"""A node in this process, and a peer that talks to it over real topics."""

from collections.abc import Callable

import pytest
from helpers import wait_for
from rclpy.experimental.events_executor import EventsExecutor
from rclpy.node import Node as RosNode
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from rl_ros.nodes.base import Node, message_class

RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Bench:
    """A node under test, and one that talks to it and listens."""

    def __init__(self) -> None:
        self.executor = EventsExecutor()
        self.peer = RosNode("peer")
        self.executor.add_node(self.peer)
        self.heard: dict[str, list[bytes]] = {}
        self.nodes: list[RosNode] = [self.peer]

    def add(self, make: Callable[[], Node]) -> Node:
        node = make()
        self.executor.add_node(node)
        self.nodes.append(node)
        return node

    def listen(self, topic: str, message_type: str) -> list[bytes]:
        heard = self.heard.setdefault(topic, [])
        self.peer.create_subscription(message_class(message_type), topic, heard.append, 10, raw=True)
        return heard

    def sender(self, topic: str, message_type: str) -> Callable[[bytes], None]:
        publisher = self.peer.create_publisher(message_class(message_type), topic, RELIABLE)
        assert self.until(lambda: publisher.get_subscription_count() > 0), f"nobody listens to {topic}"
        return publisher.publish

    def until(self, condition: Callable[[], object], seconds: float = 10.0) -> bool:
        def turn() -> object:
            self.executor.spin_once(timeout_sec=0.01)
            return condition()

        return wait_for(turn, seconds)


def with_parameters(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    """Parameters for every node made from now on, as a command line would give them."""
    original = RosNode.__init__

    def init(self: RosNode, *arguments: object, **keywords: object) -> None:
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        original(self, *arguments, **keywords, parameter_overrides=overrides)  # type: ignore[arg-type]

    monkeypatch.setattr("rclpy.node.Node.__init__", init)
