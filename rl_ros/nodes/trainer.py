"""trainer: learns from the bags of a directory as they land, and gives the policy node what it has learned."""

import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.client import Client
from rclpy.task import Future

from rl_ros.episodes import messages
from rl_ros.errors import UserError
from rl_ros.graph import read_namespace
from rl_ros.nodes.base import Node, steady
from rl_ros.training.from_bags import BagTrainer, Event, Exported, Refused, Settings

TELL_SECONDS = 0.2
"""How often what the worker has done is told."""
METRICS_SECONDS = 1.0
"""How often metrics are published while they change."""
IDLE_SECONDS = 0.1
"""How long the worker waits where there is nothing to do."""
ANSWER_SECONDS = 5.0
"""How long the policy node may take to load a bundle; then it is asked again."""

SERVICE = "policy/set_parameters"
CATCH_UP_SECONDS = 5.0
"""How long an episode is held up at most for updates that are behind."""


@dataclass
class PolicyNode:
    """A policy node that is to run what was learned."""

    namespace: str
    """Empty for this node's own."""
    client: Client
    offered: Path | None = None
    """The newest bundle, until the policy node has answered for it."""
    answer: Future | None = None
    asked_at: float = 0.0

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.namespace}: " if self.namespace else ""


class Trainer(Node):
    """A worker thread of low priority learns; the node tells what it does, and swaps the policy of each robot.

    It needs no recorder of its own: any bag that lands in the directory is learned from, such as one that was recorded
    while `rl_ros replay` played another.
    """

    def __init__(self) -> None:
        super().__init__("trainer")
        if not self.settings["bags"]:
            raise UserError("node trainer: bags: must be given; it is the directory whose bags are learned from.")
        self.trainer = BagTrainer(self.learning(), self.contract)
        self.said: SimpleQueue[Event | Exception] = SimpleQueue()
        self.swaps = 0
        self.told: dict[str, float] = {}
        self.told_at = 0.0
        where = f"node trainer: fleet: {self.settings['fleet']}"
        robots = [read_namespace(each, where) for each in self.settings["fleet"].split()] or [""]
        self.robots = [
            PolicyNode(each, self.create_client(SetParameters, f"/{each}/{SERVICE}" if each else SERVICE))
            for each in robots
        ]
        self.stopping = threading.Event()
        self.worker = threading.Thread(target=self.work, name="training", daemon=True)
        self.worker.start()
        self.prepared_at = 0.0
        if self.settings["lossless"]:
            self.listen("episode/event", self.on_event)
        self.steady_timer(TELL_SECONDS, self.on_time)

    def learning(self) -> Settings:
        """The part of the parameters that is not about ROS."""
        given = self.settings
        try:
            overrides = json.loads(given["settings"])
        except ValueError as error:
            raise UserError(f'node trainer: settings: expected JSON such as {{"batch_size": 64}}: {error}.') from error
        bags = Path(given["bags"])
        return Settings(
            algorithm=given["algorithm"],
            bags=bags,
            run=Path(given["run"]) if given["run"] else bags.parent / "trainer",
            continue_from=Path(given["continue_from"]) if given["continue_from"] else None,
            updates_per_episode=given["updates_per_episode"],
            export_every=given["export_every"],
            start_after=given["start_after"],
            capacity=given["capacity"],
            old_share=given["old_share"],
            hindsight=given["hindsight"],
            encoder=Path(given["encoder"]) if given["encoder"] else None,
            seed=given["seed"],
            overrides=overrides,
            device=given["device"],
        )

    def work(self) -> None:
        """The worker thread: one small step after the other, with rests that leave it its share of a processor."""
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self.settings["niceness"])
        rest = 1.0 / self.settings["cpu_share"] - 1.0
        last = self.settings["updates"] or float("inf")
        try:
            while not self.stopping.is_set() and self.trainer.updates < last:
                began = steady()
                events = self.trainer.step()
                for event in events or ():
                    self.said.put(event)
                self.stopping.wait(IDLE_SECONDS if events is None else rest * (steady() - began))
            for event in self.trainer.close():
                self.said.put(event)
        except Exception as error:  # noqa: BLE001  (raised again by on_time)
            self.said.put(error)

    def on_event(self, cdr: bytes) -> None:
        """An episode is about to begin in lockstep, where the simulation waits so as not to run away from this node."""
        event = messages.status_of(cdr)
        if event.name == "prepare":
            self.prepared_at = steady()
            self.get_ready(int(event.values["episode"]))

    def lacks(self) -> str:
        """As for every node; and, for a while, updates of more episodes than lie between two bundles."""
        if self.trainer.behind and steady() - self.prepared_at < CATCH_UP_SECONDS:
            return f"{self.trainer.owed} updates still to be made"
        return super().lacks()

    def on_time(self) -> None:
        """Tell what the worker has done since the last time, and ask the policy node to swap."""
        ended = not self.worker.is_alive()  # before the queue is emptied: what it said at its end is in there
        while not self.said.empty():
            match self.said.get():
                case Exported(bundle):
                    for robot in self.robots:
                        robot.offered = bundle
                    done = f"{self.trainer.episodes} episodes, {self.trainer.updates} updates"
                    self.get_logger().info(f"{bundle}: {done}")
                case Refused(sentence):
                    self.report(sentence)
                case Exception() as error:
                    raise error
        self.tell_metrics()
        for robot in self.robots:
            self.swap(robot)
        if ended and not any(robot.offered and robot.client.service_is_ready() for robot in self.robots):
            self.exit_code = 0

    def swap(self, robot: PolicyNode) -> None:
        """Ask a policy node to run the newest bundle; if there is none now, as soon as there is."""
        if robot.answer is not None:
            if steady() - robot.asked_at < ANSWER_SECONDS:
                return
            robot.client.remove_pending_request(robot.answer)
        if robot.offered is None or not robot.client.service_is_ready():
            return
        bundle, robot.asked_at = robot.offered, steady()
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=str(bundle.resolve()))
        request = SetParameters.Request(parameters=[Parameter(name="bundle", value=value)])
        robot.answer = robot.client.call_async(request)
        robot.answer.add_done_callback(lambda future: self.on_answer(robot, bundle, future))

    def on_answer(self, robot: PolicyNode, bundle: Path, future: Future) -> None:
        """A policy node runs the bundle, or refuses it and keeps the old one."""
        robot.answer = None
        if robot.offered == bundle:
            robot.offered = None
        answer = future.result()
        assert answer is not None
        [result] = answer.results
        if result.successful:
            self.swaps += 1
            self.get_logger().info(f"{robot.name}the policy is now {bundle}")
        else:
            self.report(f"{robot.name}the policy node refuses {bundle}: {result.reason}")

    def report(self, text: str, level: int = messages.ERROR, values: dict[str, str] | None = None) -> None:
        """A problem, on /diagnostics and in the log."""
        self.get_logger().error(text)
        super().report(text, level, values)

    def tell_metrics(self) -> None:
        """How far it is, as a named vector."""
        figures = {**self.trainer.figures(), "swaps": self.swaps}
        if figures == self.told or steady() - self.told_at < METRICS_SECONDS:
            return
        self.told, self.told_at = figures, steady()
        now = self.get_clock().now().nanoseconds
        self.send("trainer/metrics", messages.joint_state_cdr(now, list(figures), list(figures.values())))

    def close(self) -> None:
        """Stop learning; what was learned since the newest bundle becomes one more."""
        self.stopping.set()
        self.worker.join()
