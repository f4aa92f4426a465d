"""replay: plays a recording into the live graph, with its own clock."""

from collections.abc import Iterator
from pathlib import Path

from rclpy.duration import Duration
from std_srvs.srv import SetBool

from rl_ros.episodes import messages
from rl_ros.episodes.bags import RawMessage, read_bag
from rl_ros.episodes.ingest import EVENTS
from rl_ros.episodes.replay import Playback, as_played, played_topics, renamed, renames, with_events
from rl_ros.errors import UserError
from rl_ros.graph import offered_profiles, parse_arguments
from rl_ros.nodes.base import Node, steady

TIMER_SECONDS = 0.005
"""How often /clock moves and messages are looked at; a fraction of any control period."""
DELIVERY_SECONDS = 2.0
"""How long to wait at the end for reliable subscribers to have everything."""


class Replay(Node):
    """Each pass is an episode: `prepare` is announced, then come the recorded messages, events among them.

    Messages are published as the bytes that were recorded, with the QoS profile of the graph's own publisher.
    """

    def __init__(self) -> None:
        super().__init__("replay")
        settings = self.settings
        self.bag = read_bag(Path(settings["bag"]))
        held = {topic: kind for topic, (kind, _) in self.bag.topics.items()}
        self.names = renames(parse_arguments(settings["renames"].split(), "/from:=/to"), held, self.contract)
        self.topic_of = as_played(held, self.names)
        recorded = {name: held[topic] for name, topic in self.topic_of.items()}
        self.topics = played_topics(recorded, self.contract, settings["topics"].split(), settings["without"].split())
        profiles = offered_profiles(self.contract)
        for topic, kind in self.topics.items():
            if topic != EVENTS:
                self.offer(topic, kind, profiles.get(topic, "state"))
        self.makes_events = EVENTS not in recorded and not settings["topics"]
        latched = {EVENTS} | {topic for topic, profile in profiles.items() if profile == "latched"}
        self.playback = Playback(self.recording, settings["rate"], settings["start"], latched)
        self.waiting_for: set[str] = set()
        """Nodes that have not acknowledged this pass yet."""
        self.prepared_at: float | None = None
        """When the pass was announced, s; None once it plays."""
        self.serve(SetBool, "replay/pause", self.on_pause)
        self.listen("episode/acknowledge", self.on_acknowledge)
        self.steady_timer(TIMER_SECONDS, self.on_time)
        self.prepare()

    def recording(self) -> Iterator[RawMessage]:
        """The messages of one pass."""
        played = renamed(self.bag.read([self.topic_of[name] for name in self.topics]), self.names)
        return with_events(played, self.contract) if self.makes_events else played

    def prepare(self) -> None:
        """Announce a pass, so that live nodes forget the one before."""
        self.prepared_at = steady()
        if self.makes_events or EVENTS in self.topics:
            self.waiting_for = set(self.settings["wait_for"].split())
            values = {key: self.bag.metadata.get(key, "0") for key in ("episode", "seed")}
            self.send("episode/event", messages.status_cdr(0, "prepare", "", values))

    def on_acknowledge(self, cdr: bytes) -> None:
        """A node is ready for the pass."""
        self.waiting_for -= set(messages.decode("sensor_msgs/msg/JointState", cdr).name)

    def on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        """True stops recorded time, False lets it go on."""
        (self.playback.pause if request.data else self.playback.resume)(steady())
        response.success, response.message = True, "paused" if request.data else "playing"
        return response

    def on_time(self) -> None:
        """Publish the clock and what is due by it."""
        now = steady()
        if self.prepared_at is not None:
            waited = now - self.prepared_at
            if self.waiting_for and waited > self.settings["patience"]:
                raise UserError(f"waited {waited:.0f} s: no answer from: {', '.join(sorted(self.waiting_for))}.")
            if self.waiting_for or waited < self.settings["lead"]:
                return
            self.playback.begin(now)
            self.prepared_at = None
        if not self.playback.paused:
            self.send("clock", messages.clock_cdr(self.playback.time(now)))
        for message in self.playback.due(now):
            self.send("episode/event" if message.topic == EVENTS else message.topic, message.cdr)
        if self.playback.finished and self.settings["loop"]:
            self.prepare()
        elif self.playback.finished:
            for publisher in self.publishers:
                publisher.wait_for_all_acked(Duration(seconds=DELIVERY_SECONDS))
            self.exit_code = 0
