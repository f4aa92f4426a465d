"""What every node of rl_ros shares: parameters and topics come from `config/nodes.yaml`, and failures are told."""

import inspect
import sys
import time
import traceback
from collections.abc import Callable
from functools import cache, wraps
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

import rclpy.node
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.exceptions import ParameterUninitializedException
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.timer import Timer

from rl_ros.episodes import messages
from rl_ros.errors import UserError
from rl_ros.graph import QosName, Value, endpoints, node_contract, node_specs, qos

ACKNOWLEDGE = "episode/acknowledge"
"""Where a node says that it is ready for an episode."""
ACKNOWLEDGE_SECONDS = 0.05
"""How often a node that is not ready looks again."""
LAST_WORDS_SECONDS = 0.5
"""How long a node that has failed waits at most until its reason is heard."""
REPORT_SECONDS = 1.0
"""How often a node tells how long its work takes."""


T = TypeVar("T")


@cache
def message_class(message_type: str) -> Any:
    """The rclpy class of `package/msg/Name` or `package/srv/Name`.

    Raises:
        UserError: its package is not installed.
    """
    package, kind, name = message_type.split("/")
    try:
        return getattr(import_module(f"{package}.{kind}"), name)
    except ModuleNotFoundError as error:
        raise UserError(f"the message package {package} is not installed.") from error


class Polled(NamedTuple):
    """A message taken by `Node.poll`, and where it comes from."""

    cdr: bytes
    publisher: bytes
    """The publisher's global identity; empty where the middleware tells none."""
    sequence: int | None
    """The publisher's number of the message; None where the middleware tells none."""
    received: int
    """When it came, in nanoseconds of the system clock."""


class Node(rclpy.node.Node):
    """A node that `config/nodes.yaml` describes.

    Messages go in and out as CDR bytes: `listen` hands over what arrived, `send` publishes what
    rl_ros.episodes.messages encodes.

    Every callback goes through `guarded`: an exception makes the node safe (`make_safe`), is told on `/diagnostics`,
    and ends the process with a status that is not zero. No node goes on with half of its work done.

    Raises:
        UserError: a parameter is missing, unknown, of the wrong type or out of bounds.
    """

    def __init__(self, name: str) -> None:
        self._silent: rclpy.node.Node | None = None
        super().__init__(name, automatically_declare_parameters_from_overrides=False)
        self._spec = node_specs()[name]
        unknown = sorted(key for key in self._parameter_overrides if key not in self._spec.parameters)
        if unknown:
            raise UserError(
                f"node {name}: no such parameter: {', '.join(unknown)}; it has: {', '.join(self._spec.parameters)}."
            )
        self.settings: dict[str, Any] = {key: self._declare(key) for key in self._spec.parameters}
        self.contract = node_contract(self.settings)
        self._senders = {
            topic: self.create_publisher(message_class(e.type), _within(topic), self._profile(e.qos))
            for topic, e in endpoints(self._spec.publishes, self.contract, self.settings).items()
        }
        self.listening: dict[str, Subscription] = {}
        """The node's subscriptions by topic."""
        self._listenable = endpoints(self._spec.subscribes, self.contract, self.settings)
        self.exit_code: int | None = None
        """Set to end the process this node lives in."""
        self.failed = False
        """Whether a callback has failed; none is called any more."""
        self.preparing: int | None = None
        """Number of the episode that is to be acknowledged."""
        if ACKNOWLEDGE in self._senders:
            self.steady_timer(ACKNOWLEDGE_SECONDS, self._acknowledge)

    def send(self, topic: str, cdr: bytes) -> None:
        """Publish CDR bytes on one of the node's topics."""
        self._senders[topic].publish(cdr)

    def offer(self, topic: str, message_type: str, profile: QosName) -> None:
        """A topic to send on that `config/nodes.yaml` cannot name, such as one of a bag."""
        self._senders[topic] = self.create_publisher(
            message_class(message_type), _within(topic), self._profile(profile)
        )

    def sender(self, topic: str) -> Publisher:
        """The publisher of one of the node's topics."""
        return self._senders[topic]

    def listen(self, topic: str, callback: Callable[[bytes], None]) -> None:
        """Subscribe to one of the node's topics."""
        endpoint = self._listenable[topic]
        self.listening[topic] = self.create_subscription(
            message_class(endpoint.type), _within(topic), self.guarded(callback), self._profile(endpoint.qos), raw=True
        )

    def serve(self, service_type: Any, service: str, answer: Callable[[Any, Any], Any]) -> None:
        """Serve a service; a failure of it is one of the node."""
        guarded = self.guarded(answer)
        self.create_service(service_type, service, lambda request, response: guarded(request, response) or response)

    def guarded(self, callback: Callable[..., T]) -> Callable[..., T | None]:
        """The callback, whose failure is the node's; see the class."""

        @wraps(callback)  # rclpy looks at how many arguments a callback takes
        def call(*arguments: Any) -> T | None:
            if self.failed:
                return None
            try:
                return callback(*arguments)
            except Exception as error:  # noqa: BLE001  (whatever it is, the arm must not go on without it)
                self._fail(error)
                return None

        return call

    def afterwards(self, callback: Callable[[], None]) -> None:
        """Call this after the callbacks of everything that has arrived until now."""
        assert self.executor is not None
        self.executor.create_task(self.guarded(callback))

    def make_safe(self) -> None:
        """What is still to be done when a callback has failed, such as to hold the arm still."""

    def stamp_now(self) -> int:
        """Stamp in ns of what is told beside the observations; on their clock, or it is in no bag."""
        return 0

    def report(self, text: str, level: int = messages.ERROR, values: dict[str, str] | None = None) -> None:
        """A problem, or that there is none any more, on `/diagnostics`; `values` say more of it."""
        self.send("diagnostics", messages.status_cdr(self.stamp_now(), self.get_name(), text, values or {}, level))

    def report_timings(self, values: dict[str, str], level: int, text: str) -> None:
        """How long the node's work takes, on `/diagnostics` under a name of its own."""
        name = f"{self.get_name()}: timing"
        self.send("diagnostics", messages.status_cdr(self.stamp_now(), name, text, values, level))

    def _fail(self, error: Exception) -> None:
        self.failed = True
        mistake = isinstance(error, UserError)
        self.exit_code = 2 if mistake else 1
        if mistake:
            print(f"error: {error}", file=sys.stderr, flush=True)
        else:
            traceback.print_exception(error)
        text = str(error) if mistake else f"failed: {type(error).__name__}: {error}"
        try:
            self.make_safe()
        finally:
            self.get_logger().error(f"{text} - this process ends")
            if "diagnostics" in self._senders:
                self.report(text)
                self.sender("diagnostics").wait_for_all_acked(Duration(seconds=LAST_WORDS_SECONDS))

    def poll(self, topic: str) -> Callable[[], Polled | None]:
        """Subscribe to one of the node's topics without a callback; the function returned takes the next message.

        For a consumer of many messages that can wait a few milliseconds: no thread is woken for each of them.
        """
        if self._silent is None:
            # A node in no executor: nothing waits on its subscriptions.
            self._silent = rclpy.node.Node(
                f"{self.get_name()}_intake", start_parameter_services=False, enable_rosout=False
            )
        endpoint = self._listenable[topic]
        kind = message_class(endpoint.type)
        name = self.resolve_topic_name(_within(topic))  # the graph's remaps are this node's, not the silent one's
        subscription = self._silent.create_subscription(
            kind, name, _never_called, self._profile(endpoint.qos), raw=True
        )
        self.listening[topic] = subscription

        def take() -> Polled | None:
            with subscription.handle:
                taken = subscription.handle.take_message(kind, True)
            if taken is None:
                return None
            cdr, information = taken
            # ROS 2 Jazzy does not tell who sent it: losses of several publishers on a topic are then partly overlooked.
            publisher = information.get("publisher_gid")
            return Polled(
                cdr,
                publisher["data"] if publisher else b"",
                information["publication_sequence_number"],
                information["received_timestamp"],
            )

        return take

    def get_ready(self, number: int) -> None:
        """Acknowledge the episode of this number as soon as the node is ready for it."""
        self.preparing = number
        self._acknowledge()

    def lacks(self) -> str:
        """What the node still waits for before an episode, such as a topic without a publisher; empty when ready.

        A publisher found later would lose its first messages.
        """
        silent = [
            topic
            for topic, subscription in self.listening.items()
            if not self._listenable[topic].optional and not subscription.get_publisher_count()
        ]
        return f"no publisher on {', '.join(silent)}" if silent else ""

    def _acknowledge(self) -> None:
        if self.preparing is None:
            return
        if lacking := self.lacks():
            # Between two episodes, and so in the bag of none.
            self.send("diagnostics", messages.status_cdr(0, self.get_name(), lacking, {}, messages.ERROR))
            return
        self.send(ACKNOWLEDGE, messages.joint_state_cdr(0, [self.get_name()], [self.preparing]))
        self.preparing = None

    def steady_timer(self, period: float, callback: Callable[[], None]) -> Timer:
        """A timer that fires every `period` s whatever ROS time does."""
        fire = self.guarded(callback)
        fire.__signature__ = _TAKES_NOTHING  # type: ignore[attr-defined]
        return self.create_timer(period, fire, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def destroy_node(self) -> None:
        """Take the node off the graph, with the subscriptions that are polled."""
        if self._silent is not None:
            self._silent.destroy_node()
        super().destroy_node()

    def close(self) -> None:
        """Let go of what the node holds; called once before the process ends."""

    def _declare(self, key: str) -> Value:
        spec = self._spec.parameters[key]
        where = f"node {self.get_name()}: {key}"
        if not self.has_parameter(key):  # use_sim_time is declared by rclpy itself
            kind = {
                "string": Parameter.Type.STRING,
                "bool": Parameter.Type.BOOL,
                "integer": Parameter.Type.INTEGER,
                "double": Parameter.Type.DOUBLE,
                "double_array": Parameter.Type.DOUBLE_ARRAY,
            }[spec.type]
            # What would change nothing is refused: whoever lowers the speed of an arm must not be told that it is done.
            descriptor = ParameterDescriptor(description=spec.description, read_only=not spec.settable)
            self.declare_parameter(key, spec.default if spec.default is not None else kind, descriptor)
        try:
            value = self.get_parameter(key).value
        except ParameterUninitializedException as error:
            raise UserError(f"{where}: must be given; it is the {spec.description}.") from error
        return spec.read(list(value) if spec.type == "double_array" else value, where)

    def _profile(self, name: Any) -> QoSProfile:
        chosen = qos(name, self.settings["lossless"])
        return QoSProfile(
            depth=chosen.depth,
            reliability=ReliabilityPolicy.RELIABLE if chosen.reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if chosen.transient_local else DurabilityPolicy.VOLATILE,
        )


_TAKES_NOTHING = inspect.Signature()
"""What rclpy would otherwise find out anew each time that a timer fires."""


def _within(topic: str) -> str:
    """The name of a topic relative to the node's namespace: a contract's, too, are those within a graph."""
    return topic.lstrip("/")


def _never_called(cdr: bytes) -> None:
    raise AssertionError("a polled subscription must not be in an executor")


def steady() -> float:
    """Seconds on a clock that neither stops nor jumps."""
    return time.monotonic()
