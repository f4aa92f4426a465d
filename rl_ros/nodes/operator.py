"""operator: between the policy and the guard. A person takes over at the next tick, and lets go again."""

from std_srvs.srv import Trigger

from rl_ros.contract import ACTOR_TOPIC
from rl_ros.episodes import messages
from rl_ros.nodes.base import Node, steady
from rl_ros.robots.takeover import PROPOSED, Devices, Person, Sent, Takeover

ACTOR = ACTOR_TOPIC.lstrip("/")
LOOK = 0.05
"""s between two looks at who acts."""


class Operator(Node):
    """The only publisher of actions where it runs: the policy's are remapped to topics under /proposed.

    If this node dies, no action comes any more, and the guard holds the arm still.
    """

    def __init__(self) -> None:
        super().__init__("operator")
        self.person = Person(Devices.of(self.settings))
        self.takeover = Takeover(self.contract, self.person)
        self.acted = False
        self.confirmed = not self.settings["confirm"]
        for topic in {key.topic for key in self.contract.action.values()}:
            self.listen(PROPOSED + topic, lambda cdr, topic=topic: self.on_proposal(topic, cdr))  # type: ignore[misc]
        self.listen(f"proposed/{ACTOR}", lambda cdr: self.on_proposal(ACTOR_TOPIC, cdr))
        self.listen(self.contract.observation[self.contract.reference].topic, self.on_tick)
        self.listen("joy", lambda cdr: self.person.on_joy(cdr, steady()))
        self.listen("spacenav/twist", lambda cdr: self.person.on_twist(cdr, steady()))
        self.listen("episode/event", self.on_event)
        self.create_service(Trigger, "operator/begin", self.on_begin)
        self.steady_timer(LOOK, self.on_time)
        self.running = False

    def on_tick(self, cdr: bytes) -> None:
        """An observation, which a person may answer."""
        if self.running:
            self.give(self.takeover.on_tick(messages.stamp_of(cdr), steady()))

    def on_proposal(self, topic: str, cdr: bytes) -> None:
        """What the policy would do."""
        self.give(self.takeover.on_proposal(topic, cdr, steady()))

    def give(self, messages_to_send: list[Sent]) -> None:
        """Send what Takeover decided."""
        for topic, cdr in messages_to_send:
            self.send(ACTOR if topic == ACTOR_TOPIC else topic, cdr)

    def on_event(self, cdr: bytes) -> None:
        """Episodes begin and end."""
        event = messages.status_of(cdr)
        if event.name == "prepare":
            self.running, self.confirmed, self.person.begins = False, not self.settings["confirm"], False
            self.takeover.restart()
            self.get_ready(int(event.values["episode"]))
            if not self.confirmed:
                self.get_logger().info("the next episode begins with the begin button, or the service operator/begin")
        elif event.name == "start":
            self.running = True

    def on_begin(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """A person says that the scene is ready."""
        response.success = self.preparing is not None and not self.confirmed
        response.message = "the episode begins" if response.success else "no episode waits for it"
        self.confirmed = True
        return response

    def lacks(self) -> str:
        """As for every node; and a person's word, where it is asked for."""
        self.confirmed |= self.person.begins
        return super().lacks() or ("" if self.confirmed else "a person is to say when: operator/begin")

    def on_time(self) -> None:
        """Say when a person takes over, and when they let go."""
        acts = self.person.acts(steady())
        if acts != self.acted:
            self.get_logger().info("a person has taken over" if acts else "the policy goes on")
        self.acted = acts
