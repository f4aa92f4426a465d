"""recorder: the contract's topics, as received, into one MCAP bag per episode."""

from pathlib import Path

from rl_ros.episodes import messages
from rl_ros.episodes.record import EpisodeRecorder, FinishedEpisode
from rl_ros.errors import UserError
from rl_ros.nodes.base import Node

EVENTS = "/episode/event"
POLL_SECONDS = 0.005
"""How often messages are taken; far less than what the queues of 1000 messages hold."""


class Recorder(Node):
    """Hands raw bytes to the writer thread; nothing is decoded but the episode events."""

    def __init__(self) -> None:
        super().__init__("recorder")
        if not self.settings["directory"]:
            raise UserError("node recorder: directory: must be given; it is where the bags go.")
        self.episodes = EpisodeRecorder(Path(self.settings["directory"]), self.contract)
        self.sources = {topic: self.poll(topic) for topic in self.episodes.topics}
        self.preparing: int | None = None
        """Number of the episode that is to be acknowledged once every topic has a publisher."""
        self.steady_timer(POLL_SECONDS, self.on_poll)
        self.steady_timer(0.05, self.on_time)

    def on_poll(self) -> None:
        """Take what has come on each topic."""
        for topic, take in self.sources.items():
            while (cdr := take()) is not None:
                if topic == EVENTS:
                    self.on_event(cdr)
                else:
                    self.receive(topic, cdr)

    def receive(self, topic: str, cdr: bytes) -> None:
        """One message of any topic."""
        stamp = messages.stamp_of(cdr)
        logged = stamp if self.settings["log_time_from_stamp"] else self.get_clock().now().nanoseconds
        self.episodes.receive(topic, stamp, logged, cdr)

    def on_event(self, cdr: bytes) -> None:
        """Episodes begin and end; the events are recorded like everything else."""
        self.receive(EVENTS, cdr)
        event = messages.status_of(cdr)
        if event.name == "prepare":
            self.preparing = int(event.values["episode"])
            self.acknowledge()
        elif event.name == "start":
            self.episodes.begin(int(event.values["episode"]), event.stamp, {"seed": event.values["seed"]})
        elif event.name == "end":
            self.episodes.end(int(event.values["episode"]), event.stamp, event.values["outcome"])

    def on_time(self) -> None:
        """Say which bags are closed, and whether all topics are there."""
        self.announce(self.episodes.finished())
        self.acknowledge()

    def acknowledge(self) -> None:
        """Ready for an episode once every topic has a publisher: one found later would lose messages."""
        if self.preparing is None:
            return
        silent = [topic for topic, subscription in self.listening.items() if not subscription.get_publisher_count()]
        if silent:
            text = f"no publisher on {', '.join(silent)}"
            self.send("diagnostics", messages.status_cdr(0, "recorder", text, {}, messages.ERROR))
            return
        self.send("episode/acknowledge", messages.joint_state_cdr(0, [self.get_name()], [self.preparing]))
        self.preparing = None

    def announce(self, finished: list[FinishedEpisode]) -> None:
        """One status for each closed bag; an error where topics are missing."""
        for episode in finished:
            level = messages.ERROR if episode.missing else messages.OK
            text = f"incomplete: {', '.join(episode.missing)}" if episode.missing else "complete"
            values = {"episode": str(episode.number), "path": str(episode.path)}
            self.send("recorder/state", messages.status_cdr(0, "bag", text, values, level))

    def close(self) -> None:
        """Finish what is open: an episode cut short by a person is kept, and says so."""
        self.episodes.close("operator")
