"""policy: answers each observation with one action; it owns no clock."""

from pathlib import Path

from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter

from rl_ros.episodes import messages
from rl_ros.episodes.assemble import Assembler, EpisodeGate, Tick
from rl_ros.episodes.trace import Trace
from rl_ros.errors import UserError
from rl_ros.nodes.base import Node, steady
from rl_ros.tasks.task import make_task
from rl_ros.training.acting import Actor, BundleActor, CheckedActor, ExpertActor, ExploringActor

SILENCE = 1.0
"""s without a tick in a running episode before the node says which topics are silent."""


class Policy(Node):
    """Runs a policy bundle, or the task's scripted expert; setting `bundle` swaps it between two ticks."""

    def __init__(self) -> None:
        super().__init__("policy")
        self.actor = self.make_actor(self.settings["bundle"])
        keys = dict(self.contract.observation)
        if self.actor.privileged:
            keys |= self.contract.auxiliary
        keys["desired_goal"] = self.contract.goal.desired_goal
        self.gate = EpisodeGate(Assembler(keys, self.contract.reference))
        self.last_tick = steady()
        self.trace = Trace(Path(self.settings["trace"]) / "policy.jsonl") if self.settings["trace"] else None
        for topic in self.gate.assembler.types:
            self.listen(topic, lambda cdr, topic=topic: self.answer(self.gate.push(topic, cdr)))  # type: ignore[misc]
        self.listen("episode/event", self.on_event)
        self.steady_timer(SILENCE / 2, self.on_silence)
        self.add_on_set_parameters_callback(self.on_parameters)

    def make_actor(self, bundle: str) -> Actor:
        """What acts: a bundle, refused if its contract differs from the live one, or the expert."""
        actor: Actor
        if bundle:
            actor = BundleActor(bundle, self.contract)
        else:
            actor = ExpertActor(make_task(self.contract.task).expert(self.settings["expert_noise"]))
        if share := self.settings["exploration"]:
            actor = ExploringActor(actor, self.contract, share)
        routine = make_task(self.contract.task).routine()
        return actor if routine is None else CheckedActor(actor, routine)

    def answer(self, ticks: list[Tick]) -> None:
        """One action per valid tick; nothing for a tick that lacks anything."""
        for tick in ticks:
            self.last_tick = steady()
            if not tick.valid:
                self.report("; ".join(tick.problems))
                continue
            action = self.actor.act(tick)
            if self.trace:
                self.trace.note(tick.stamp, {**tick.values, "action": action})
            for topic, cdr in messages.action_cdrs(self.contract, tick.stamp, action).items():
                self.send(topic, cdr)

    def on_event(self, cdr: bytes) -> None:
        """Episodes begin and end."""
        event = messages.status_of(cdr)
        if event.name == "prepare":
            self.gate.prepare()
            number, seed = int(event.values["episode"]), int(event.values["seed"])
            self.actor.reset(seed)
            self.get_ready(number)
        elif event.name == "start":
            self.last_tick = steady()
            self.answer(self.gate.begin(event.stamp))

    def on_silence(self) -> None:
        """Say which topics keep an episode waiting."""
        if self.gate.running and steady() - self.last_tick > SILENCE:
            missing = self.gate.assembler.missing()
            if missing:
                self.report(f"nothing recent on {', '.join(missing)}")

    def report(self, text: str) -> None:
        """A problem, on /diagnostics."""
        self.send("diagnostics", messages.status_cdr(0, "policy", text, {}, messages.ERROR))

    def on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        """Swap the policy without a restart; a bundle that does not fit is refused and the old one stays."""
        for parameter in parameters:
            if parameter.name == "bundle":
                try:
                    actor = self.make_actor(parameter.value)
                except UserError as error:
                    return SetParametersResult(successful=False, reason=str(error))
                if actor.privileged and not self.actor.privileged:
                    return SetParametersResult(successful=False, reason="the expert needs a restart of this node")
                self.actor = actor
        return SetParametersResult(successful=True)

    def close(self) -> None:
        """Write out the trace."""
        if self.trace:
            self.trace.close()
