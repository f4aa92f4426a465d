"""recorder: the contract's topics, as received, into one MCAP bag per episode."""

import json
from pathlib import Path

from rl_ros.episodes import messages
from rl_ros.episodes.allocation import keep_freed_memory
from rl_ros.episodes.record import DISK, EVENTS, EpisodeRecorder, FinishedEpisode
from rl_ros.episodes.recover import RecoveredBag, recover_bags
from rl_ros.errors import UserError
from rl_ros.nodes.base import Node, Polled, steady

POLL_SECONDS = 0.01
"""How often messages are taken; far less than what the queues of 1000 messages hold."""
HEARING_SECONDS = 1.0
"""How long sensors that have publishers may stay silent before an episode is recorded all the same."""
REPEAT_SECONDS = 1.0
"""How often faults that last are raised again."""
KEPT_BYTES = 64 << 20
"""Of freed memory, for the messages to come."""


class Recorder(Node):
    """Hands raw bytes to the writer thread; nothing is decoded but the episode events."""

    def __init__(self) -> None:
        super().__init__("recorder")
        keep_freed_memory(KEPT_BYTES)
        if not self.settings["directory"]:
            raise UserError("node recorder: directory: must be given; it is where the bags go.")
        directory = Path(self.settings["directory"])
        for bag in recover_bags(directory):
            self.announce_recovered(bag)
        self.episodes = EpisodeRecorder(
            directory,
            self.contract,
            disk_reserve=round(self.settings["disk_reserve"] * 1e9),
            real_time=not self.settings["lossless"],
        )
        # Events last: what came before the end of an episode is then taken before it.
        topics = [topic for topic in self.episodes.topics if topic != EVENTS]
        self.sources = {topic: self.poll(topic) for topic in [*topics, EVENTS]}
        self.announced: int | None = None
        """Number of the last episode that was announced."""
        self.prepared_at = 0.0
        keys = self.contract.observation | self.contract.auxiliary
        self.sensors = {key.topic for key in keys.values()}
        self.unheard = set() if self.settings["lossless"] else set(self.sensors)
        """Sensors, in real time, that nothing has come from yet."""
        self.faults: dict[str, str] = {}
        self.newest = 0
        self.raised = steady()
        self.steady_timer(POLL_SECONDS, self.on_poll)
        self.steady_timer(0.05, self.on_time)

    def on_poll(self) -> None:
        """Take what has come on each topic."""
        known = self.announced
        for topic, take in self.sources.items():
            while (message := take()) is not None:
                if topic in self.episodes.topics:
                    self.receive(topic, message)
                if topic == EVENTS:
                    self.on_event(message.cdr, known)
        if self.announced is not None and self.announced != known:
            self.get_ready(self.announced)

    def receive(self, topic: str, message: Polled) -> None:
        """One message of any topic."""
        self.unheard.discard(topic)
        stamp = messages.stamp_of(message.cdr)
        self.newest = max(self.newest, stamp) if topic in self.sensors else self.newest
        if self.settings["log_time_from_stamp"]:
            logged = stamp
        elif self.settings["use_sim_time"]:
            logged = self.get_clock().now().nanoseconds
        else:
            logged = message.received
        self.episodes.receive(topic, stamp, logged, message.cdr, message.publisher, message.sequence)

    def on_event(self, cdr: bytes, known: int | None) -> None:
        """Episodes begin and end. One that begins together with its announcement is over: the event is an old one.

        Args:
            cdr: the event.
            known: number of the last episode announced when the events were last looked at.
        """
        event = messages.status_of(cdr)
        if event.name not in ("prepare", "start", "end"):
            return
        number = int(event.values["episode"])
        if event.name == "prepare":
            self.announced = number
        elif event.name == "start" and number == known:
            self.episodes.begin(number, event.stamp, {"seed": event.values["seed"]})
        elif event.name == "end":
            self.episodes.end(number, event.stamp, event.values["outcome"])

    def on_time(self) -> None:
        """Say which bags are closed, and what is wrong with those that are not."""
        try:
            finished = self.episodes.finished()
        except OSError as error:
            raise UserError(f"node recorder: cannot write to {self.settings['directory']}: {error}.") from error
        for episode in finished:
            self.announce(episode)
        self.raise_faults()

    def stamp_now(self) -> int:
        """Of the newest message of the contract."""
        return self.newest

    def get_ready(self, number: int) -> None:
        """As for every node; remembers when."""
        self.prepared_at = steady()
        super().get_ready(number)

    def lacks(self) -> str:
        """As for every node; and room on the disk, and a sensor that is there but not heard yet, for a while: a replay
        waits for us."""
        if full := self.episodes.disk_fault():
            return full
        if self.unheard and steady() - self.prepared_at < HEARING_SECONDS:
            return f"nothing yet on {', '.join(sorted(self.unheard))}"
        return super().lacks()

    def raise_faults(self) -> None:
        """One diagnostic with all that is wrong: when that changes, and again while it lasts."""
        faults, now = dict(self.episodes.faults), steady()
        # Looked at each time: the episode is ended for it, and the arm stops.
        if self.episodes.recording and (full := self.episodes.disk_fault()):
            faults[DISK] = full
        if faults.keys() == self.faults.keys() and not (faults and now - self.raised > REPEAT_SECONDS):
            return
        for fault in faults.keys() - self.faults.keys():
            self.get_logger().error(faults[fault])
        self.faults, self.raised = faults, now
        level = messages.ERROR if faults else messages.OK
        text = "; ".join(faults.values()) or "recording is sound"
        values = {DISK: faults[DISK]} if DISK in faults else {}
        self.send("diagnostics", messages.status_cdr(self.stamp_now(), "recorder", text, values, level))

    def announce(self, episode: FinishedEpisode) -> None:
        """One status for each closed bag; an error where messages or whole topics are missing."""
        texts = [f"incomplete: {', '.join(episode.missing)}"] if episode.missing else []
        texts += [f"lost: {count} on {topic}" for topic, count in episode.lost.items()]
        values = {
            "episode": str(episode.number),
            "path": str(episode.path),
            "lost": str(sum(episode.lost.values())),
            "topics": json.dumps(episode.topics),
            "faults": json.dumps(episode.faults),
        }
        level = messages.ERROR if texts else messages.OK
        self.send("recorder/state", messages.status_cdr(0, "bag", "; ".join(texts) or "complete", values, level))

    def announce_recovered(self, bag: RecoveredBag) -> None:
        """One status for each bag that a killed recorder has left; an error where it could not be recovered."""
        level = messages.ERROR if bag.problem else messages.OK
        (self.get_logger().error if bag.problem else self.get_logger().warning)(bag.text)
        values = {"episode": bag.number, "path": str(bag.path), "topics": json.dumps(bag.topics)}
        self.send("recorder/state", messages.status_cdr(0, "recovered", bag.text, values, level))

    def close(self) -> None:
        """Finish what is open: an episode cut short by a person is kept, and says so."""
        self.episodes.close("operator")
