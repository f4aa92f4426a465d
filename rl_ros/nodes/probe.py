"""probe: looks at what is there before a graph is started."""

import base64
import json
from pathlib import Path
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo

from rl_ros.episodes import messages
from rl_ros.nodes.base import Node, message_class, steady

ANY = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)
"""Matches every publisher."""
LARGE = 1 << 16
"""Bytes of a message beyond which it is not passed on."""
IMAGE = "preflight/image_raw"


class Probe(Node):
    """Writes `result` and ends: who publishes and subscribes where, how often, and with what stamps; or how many of
    sample_camera's images came."""

    def __init__(self) -> None:
        super().__init__("probe")
        self.kinds = dict(text.split("=") for text in self.settings["topics"].split())
        self.found: dict[str, dict[str, Any]] = {topic: {"messages": 0} for topic in self.kinds}
        self.frames = 0
        if self.settings["frames"]:
            self.listen(IMAGE, self.on_frame)
        for topic, kind in self.kinds.items():
            self.create_subscription(
                message_class(kind), topic, lambda cdr, topic=topic: self.on_message(topic, cdr), ANY, raw=True
            )
        self.began = self.newest = steady()
        self.listens = bool(self.settings["frames"])
        """Whether whoever is to be found has been found, or has had the time to be."""
        self.steady_timer(0.05, self.on_time)

    def on_frame(self, cdr: bytes) -> None:
        """An image of sample_camera's."""
        self.frames, self.newest = self.frames + 1, steady()

    def on_message(self, topic: str, cdr: bytes) -> None:
        """A message on one of the topics."""
        if not self.listens:
            return
        found, now = self.found[topic], self.get_clock().now().nanoseconds
        stamp = messages.stamp_of(cdr) if messages.is_stamped(self.kinds[topic]) else now
        found.setdefault("first", steady())
        found.update(messages=found["messages"] + 1, last=steady())
        found["ages"] = [*found.get("ages", [])[-99:], (now - stamp) * 1e-9]
        if len(cdr) <= LARGE:
            found["cdr"] = base64.b64encode(cdr).decode()

    def on_time(self) -> None:
        """Write what was found once the time is over, or once no image came for half a second."""
        if not self.listens:
            there = [self.count_publishers(topic) or self.count_subscribers(topic) > 1 for topic in self.kinds]
            self.listens = all(there) or steady() - self.began > self.settings["patience"]
            self.began = steady() if self.listens else self.began
            return
        wanted, waited = self.settings["frames"], steady() - self.newest
        over = steady() - self.began > self.settings["seconds"]
        if wanted:
            over = self.frames >= wanted or (over and (not self.frames or waited > 0.5))
        if not over:
            return
        for topic, found in self.found.items():
            found["publishers"] = [_endpoint(each) for each in self.get_publishers_info_by_topic(topic)]
            ours = self.get_name()
            subscribers = self.get_subscriptions_info_by_topic(topic)
            found["subscribers"] = [_endpoint(each) for each in subscribers if each.node_name != ours]
        result = {"frames": self.frames, "topics": self.found}
        Path(self.settings["result"]).write_text(json.dumps(result))
        self.exit_code = 0


def _endpoint(info: TopicEndpointInfo) -> dict[str, Any]:
    return {
        "node": info.node_name,
        "type": info.topic_type,
        "reliable": info.qos_profile.reliability == ReliabilityPolicy.RELIABLE,
        "transient_local": info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL,
    }
