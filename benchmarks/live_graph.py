"""For the benchmarks of the live graph: a policy that keeps an arm moving, and a hand on every wire.

`Rig` brings up a graph as `rl_ros up` does, each node in a process of its own, with the topics between sensors, goal,
policy and guard led through this process. There each message passes a filter, which may change, drop, delay or repeat
it. What the guard and the arm publish is noted with the time at which it came.
"""

import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import rclpy.node
import torch
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.experimental.events_executor import EventsExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_srvs.srv import Trigger

from rl_ros.bringup import Supervisor
from rl_ros.contract import Contract
from rl_ros.episodes import messages
from rl_ros.graph import ResolvedGraph, load_graph, offered_profiles, qos, resolve
from rl_ros.nodes.base import message_class
from rl_ros.training.bundle import save_bundle

CENTRE, RADIUS, SPEED = (0.5, 0.0, 0.22), 0.1, 0.28
"""m and m/s of the circle that the policy moves the tool on."""
HEARTBEAT = 0.02
"""s between two heartbeats of the operator."""
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
STATE = "diagnostic_msgs/msg/DiagnosticArray"
RESET = "/episode/reset"
Filter = Callable[[bytes], Sequence[bytes]]
_STAMP = struct.Struct("<iI")


class Circle(torch.nn.Module):
    """Moves the tool on a circle for ever, with an open hand; the camera's picture goes through a small CNN that adds
    nothing. Where the goal is beyond reach it thinks for a long time: a policy that hangs."""

    def __init__(self, actions: int, thinking: int, centre: tuple[float, ...]) -> None:
        super().__init__()
        self.actions, self.thinking, self.centre = actions, thinking, centre
        self.see = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 5, 2), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3, 2), torch.nn.ReLU(),
            torch.nn.Conv2d(32, 32, 3, 2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(64),
            torch.nn.ReLU(), torch.nn.Linear(64, 3),
        )  # fmt: skip

    def forward(self, observation: dict[str, torch.Tensor], desired_goal: torch.Tensor) -> torch.Tensor:
        """Actions (batch, A)."""
        seen = self.see(observation["image"].permute(0, 3, 1, 2).float() / 255.0)
        if self.thinking:
            # A loop in ONNX forgets the shape of what comes out of it.
            seen = think(seen, (desired_goal[0, 0] > 10.0).long() * self.thinking).reshape(seen.shape)
        out = observation["tool_position"] - torch.tensor(self.centre)
        radius = torch.linalg.vector_norm(out[:, :2], dim=1, keepdim=True) + 1e-6
        x, y = out[:, :1] / radius, out[:, 1:2] / radius
        inwards = (RADIUS - radius) * 2.0
        velocity = torch.cat([-y * SPEED + x * inwards, x * SPEED + y * inwards, -2.0 * out[:, 2:]], 1)
        velocity = torch.clamp(velocity + 0.0 * torch.tanh(seen), -SPEED, SPEED)
        return torch.cat([velocity, torch.ones_like(velocity[:, :1])], 1)[:, : self.actions]


@torch.jit.script
def think(values: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """The same values, some time later."""
    kept = values
    for _ in range(int(times)):
        values = torch.sin(values)
    return kept + 0.0 * values


def circling_bundle(directory: Path, contract: Contract, thinking: int = 0, centre: tuple[float, ...] = CENTRE) -> Path:
    """A policy bundle of `Circle`."""
    torch.manual_seed(0)
    policy = Circle(len(contract.action_low), thinking, centre)
    policy.see(torch.zeros(1, 3, *contract.observation["image"].shape[:2]))
    normalisation = {"tool_position": {"mean": list(CENTRE), "std": [0.1] * 3}}
    return save_bundle(
        directory, contract=contract, algorithm_name="circle", configuration={}, policy_module=policy,
        state_tensors=policy.state_dict(), normalisation=normalisation, metrics={}, source_episodes=[],
    )  # fmt: skip


def restamped(cdr: bytes, change: int) -> bytes:
    """The same message with a stamp that differs by so many nanoseconds."""
    second, nanosecond = _STAMP.unpack_from(cdr, 4)
    return (
        cdr[:4] + _STAMP.pack(*divmod(max(0, second * 1_000_000_000 + nanosecond + change), 1_000_000_000)) + cdr[12:]
    )


def profile_of(name: Any) -> QoSProfile:
    """A profile of `config/nodes.yaml` as rclpy takes it."""
    chosen = qos(name, False)
    return QoSProfile(
        depth=chosen.depth,
        reliability=ReliabilityPolicy.RELIABLE if chosen.reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if chosen.transient_local else DurabilityPolicy.VOLATILE,
    )


@dataclass(frozen=True)
class Heard:
    """One message of the guard, the arm or the episodes."""

    at: float
    """When it came, s of the steady clock."""
    what: Any


class Rig:
    """A running graph with a hand on its wires.

    Args:
        work: where bags, bundles and the log go.
        contract: a file; its policy must see `image` and `tool_position`.
        policy: directory of a bundle.
        graph: arguments of the graph `pick_and_place` beside those set here.
        guard: parameters of `arm_guard` to change.
        recorder: the same of `recorder`.
    """

    def __init__(
        self, work: Path, contract: Path, policy: Path, graph: dict[str, str], guard: dict, recorder: dict
    ) -> None:
        self.contract, self.bags = Contract.load(str(contract)), work / "bags"
        given = {"contract": str(contract), "policy": str(policy), "bags": str(self.bags), "composition": "separate"}
        given |= {"episode_length": "1000000", "patience": "60", **graph}
        resolved = resolve(load_graph("pick_and_place"), given)
        self.filters: dict[str, Filter] = {}
        """By topic; a topic without one passes as it is."""
        self.states: list[Heard] = []
        """Statuses of the guard."""
        self.commands: list[Heard] = []
        """Positions (7,) of each command."""
        self.speeds: list[Heard] = []
        """The fastest joint at each joint state, rad/s, as the arm itself measures it."""
        self.events: list[Heard] = []
        self.closed: list[int] = []
        """Numbers of the episodes whose bags are closed."""
        self.beating = True
        self.held: list[bytes] = []
        """Resets that wait."""
        self.last: dict[str, bytes] = {}
        """The newest message of each wire."""
        self.node = rclpy.node.Node("rig")
        self.wires = self._wires()
        self.senders: dict[str, Any] = {}
        for topic, (kind, profile) in self.wires.items():
            self._lay(topic, kind, profile)
        self._listen("/arm_guard/state", STATE, "event", lambda cdr: self._note(self.states, messages.status_of(cdr)))
        self._listen(
            "/arm_controller/joint_trajectory", "trajectory_msgs/msg/JointTrajectory", "command", self._on_command
        )
        self._listen("/episode/event", STATE, "event", lambda cdr: self._note(self.events, messages.status_of(cdr)))
        self._listen("/recorder/state", STATE, "event", self._on_recorder)
        self.beat = self._sender("/operator/heartbeat", "std_msgs/msg/Empty", "command")
        self.stop_button = self._sender("/emergency_stop", "std_msgs/msg/Bool", "command")
        self.rearm_service: Any = self.node.create_client(Trigger, "/arm_guard/rearm")
        self.parameters: Any = self.node.create_client(SetParameters, "/policy/set_parameters")
        self.node.create_timer(HEARTBEAT, self._on_beat, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.executor = EventsExecutor()
        self.executor.add_node(self.node)
        self._running = True
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._log = (work / "graph.log").open("w", buffering=1)
        self.supervisor = Supervisor(self._wired(resolved, guard, recorder), lambda line: print(line, file=self._log))

    def __enter__(self) -> "Rig":
        self._thread.start()
        self.supervisor.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.supervisor.stop()
        self._running = False
        self._thread.join()
        self.executor.remove_node(self.node)
        self.node.destroy_node()
        self.executor.shutdown()
        self._log.close()

    def until(self, condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        """Wait for something.

        Raises:
            TimeoutError: it did not come.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:.0f} s for {what}; see graph.log")
            time.sleep(0.005)

    def wait_until_it_moves(self) -> None:
        """Re-arm, should the graph have been too slow for its operator, and wait for the arm to move."""
        looked = 0.0

        def moving() -> bool:
            nonlocal looked
            if self.episode() is None and time.monotonic() - looked > 1.0:
                self.rearm()
                looked = time.monotonic()
            return self.moves()

        self.until(moving, "the arm to move")

    def episode(self) -> int | None:
        """Number of the episode that runs."""
        events = [heard.what for heard in self.events]
        return int(events[-1].values["episode"]) if events and events[-1].name == "start" else None

    def moves(self, seconds: float = 0.5) -> bool:
        """Whether an episode has been running for so long without any rejection, and the arm moves."""
        now = time.monotonic()
        if self.episode() is None or now - self.events[-1].at < 2 * seconds:
            return False
        rejected = [heard.at for heard in self.states if heard.what.level == messages.ERROR]
        return (not rejected or now - rejected[-1] > seconds) and bool(self.speeds) and self.speeds[-1].what > 0.1

    def hold_resets(self) -> None:
        """From now on no episode begins, and the arm stays where it is, until `release_resets`."""
        self.filters[RESET] = self._hold

    def _hold(self, cdr: bytes) -> tuple[bytes, ...]:
        """Nothing comes through."""
        self.held.append(cdr)
        return ()

    def release_resets(self) -> None:
        """Episodes begin again."""
        self.filters.pop(RESET)
        held, self.held = self.held, []
        for cdr in held:
            self.send(RESET, cdr)

    def press_stop(self) -> None:
        """The emergency stop."""
        told = messages.message("std_msgs/msg/Bool", data=True)
        self.stop_button.publish(messages.encode("std_msgs/msg/Bool", told))

    def rearm(self) -> None:
        """Let the next episode begin."""
        self._call(self.rearm_service, Trigger.Request())

    def swap(self, bundle: Path) -> tuple[bool, str]:
        """Ask the policy to run another bundle; whether it does, and why not."""
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=str(bundle))
        answer = self._call(self.parameters, SetParameters.Request(parameters=[Parameter(name="bundle", value=value)]))
        return answer.results[0].successful, answer.results[0].reason

    def signal(self, process: str, number: int) -> None:
        """Send a signal to a process of the graph."""
        self.supervisor.processes[process].send_signal(number)

    def send(self, topic: str, cdr: bytes) -> None:
        """A message on a wire, past its filter."""
        self.senders[topic].publish(cdr)

    def stranger(self, topic: str, message_type: str) -> Callable[[], None]:
        """Another node that publishes on a topic; returns what takes it away."""
        node = rclpy.node.Node("stranger", start_parameter_services=False, enable_rosout=False)
        node.create_publisher(message_class(message_type), topic, profile_of("command"))
        return node.destroy_node

    def _wires(self) -> dict[str, tuple[str, Any]]:
        """Type and profile of every topic that is led through here."""
        recorded, offered = self.contract.recorded_topics(), offered_profiles(self.contract)
        keys = [*self.contract.observation.values(), *self.contract.auxiliary.values(), *self.contract.action.values()]
        topics = dict.fromkeys([key.topic for key in keys] + [self.contract.goal.desired_goal.topic, "/joint_states"])
        found = {topic: (recorded[topic].type, offered[topic]) for topic in topics}
        return found | {"/clock": ("rosgraph_msgs/msg/Clock", "state"), RESET: ("sensor_msgs/msg/JointState", "event")}

    def _wired(self, graph: ResolvedGraph, guard: dict, recorder: dict) -> ResolvedGraph:
        """The graph whose publishers of the wires publish here."""
        changed: dict[str, dict] = {"arm_guard": guard, "recorder": recorder}
        processes = {}
        for name, nodes in graph.processes.items():
            processes[name] = tuple(
                replace(
                    node,
                    parameters=node.parameters | changed.get(node.name, {}),
                    remaps={e.topic: f"/wire/{e.topic.lstrip('/')}" for e in node.publishes if self._is_wire(e.topic)},
                )
                for node in nodes
            )
        return replace(graph, processes=processes)

    def _is_wire(self, topic: str) -> bool:
        return f"/{topic.lstrip('/')}" in self.wires

    def _lay(self, topic: str, kind: str, profile: str) -> None:
        sender = self.senders[topic] = self._sender(topic, kind, profile)
        joints = topic == "/joint_states"

        def carry(cdr: bytes) -> None:
            if joints:
                velocities = messages.decode(kind, cdr).velocity[:7]
                self._note(self.speeds, float(np.max(np.abs(velocities))))
            self.last[topic] = cdr
            change = self.filters.get(topic)
            for each in (cdr,) if change is None else change(cdr):
                sender.publish(each)

        self._listen(f"/wire{topic}", kind, profile, carry)

    def _on_command(self, cdr: bytes) -> None:
        positions = messages.decode(TRAJECTORY, cdr).points[0].positions
        self._note(self.commands, np.array(positions))

    def _on_recorder(self, cdr: bytes) -> None:
        state = messages.status_of(cdr)
        if state.name == "bag":
            self.closed.append(int(state.values["episode"]))

    def _on_beat(self) -> None:
        if self.beating:
            self.beat.publish(b"\x00\x01\x00\x00\x00")

    def _note(self, heard: list[Heard], what: Any) -> None:
        heard.append(Heard(time.monotonic(), what))

    def _sender(self, topic: str, kind: str, profile: str) -> Any:
        return self.node.create_publisher(message_class(kind), topic, profile_of(profile))

    def _listen(self, topic: str, kind: str, profile: str, callback: Callable[[bytes], None]) -> None:
        self.node.create_subscription(message_class(kind), topic, callback, profile_of(profile), raw=True)

    def _call(self, client: Any, request: Any) -> Any:
        assert client.wait_for_service(10.0)
        answer = client.call_async(request)
        self.until(answer.done, client.srv_name)
        return answer.result()

    def _spin(self) -> None:
        while self._running:
            self.executor.spin_once(timeout_sec=0.1)
