"""policy: answers each observation with one action; it owns no clock."""

from pathlib import Path

from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from rl_ros.contract import NOBODY
from rl_ros.episodes import messages
from rl_ros.episodes.assemble import Assembler, EpisodeGate, Tick
from rl_ros.episodes.pace import Pace
from rl_ros.episodes.still import StillPictures
from rl_ros.episodes.trace import Trace
from rl_ros.errors import UserError
from rl_ros.nodes.base import REPORT_SECONDS, Node, steady
from rl_ros.tasks.task import make_task
from rl_ros.training.acting import Actor, BundleActor, CheckedActor, ExpertActor, ExploringActor

SILENT_PERIODS = 2.0
"""Control periods without a tick in a running episode before the node says which topics are silent."""
LOOK = 0.02
"""s between two looks at who is silent, at least."""
PATIENT_SILENCE = 1.0
"""s of the same in lockstep, where a slow simulation is no fault."""


class Policy(Node, LifecycleNodeMixin):
    """Runs a policy bundle, or the task's scripted expert; setting `bundle` swaps it between two ticks.

    A managed node: `configure` verifies the bundle and warms it up, and only an active node answers. With `autostart`
    it does both at once. A callback that fails deactivates it, and ends its process.

    In real time it answers the newest observation of those that have arrived. What came while it was busy is skipped
    and counted, never caught up. In lockstep every tick is answered.
    """

    def __init__(self) -> None:
        Node.__init__(self, "policy")
        LifecycleNodeMixin.__init__(self)
        self.actor: Actor | None = None
        self.active = False
        self.refusal: UserError | None = None
        self.seed = 0
        """Of the running episode."""
        self.patient: bool = self.settings["lossless"]
        self.silence = PATIENT_SILENCE if self.patient else SILENT_PERIODS * self.contract.period
        self.gate = EpisodeGate(Assembler(self.contract.observation, self.contract.reference))
        self.reference = self.contract.observation[self.contract.reference].topic
        self.latents = ""
        """Whose the newest latents are, of an observation or a goal; empty before any came."""
        self.still = StillPictures(self.contract.observation)
        self.pace = Pace(self.contract.period)
        self.due: Tick | None = None
        """The newest tick, until it is answered."""
        self.last_tick = steady()
        self.last_stamp = 0
        self.trace = Trace(Path(self.settings["trace"]) / "policy.jsonl") if self.settings["trace"] else None
        swap = self.guarded(self.on_parameters)
        failed = SetParametersResult(successful=False, reason="the node has failed")
        self.add_on_set_parameters_callback(lambda parameters: swap(parameters) or failed)
        if self.settings["autostart"]:
            if self.trigger_configure() != TransitionCallbackReturn.SUCCESS:
                raise self.refusal or UserError("node policy: it cannot be configured.")
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Verify and warm up what is to act, and listen; a bundle that does not fit is refused."""
        try:
            self.actor = self.make_actor(self.get_parameter("bundle").value)
        except UserError as error:
            self.refusal = error
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        keys = dict(self.contract.observation)
        if self.actor.privileged:
            keys |= self.contract.auxiliary
        keys["desired_goal"] = self.contract.goal.desired_goal
        self.gate = EpisodeGate(Assembler(keys, self.contract.reference))
        for topic in self.gate.assembler.types:
            self.listen(topic, lambda cdr, topic=topic: self.hear(topic, cdr))  # type: ignore[misc]
        self.listen("episode/event", self.on_event)
        self.timers_of_ours = [self.steady_timer(max(self.silence / 4, LOOK), self.on_silence)]
        if not self.patient:
            self.timers_of_ours.append(self.steady_timer(REPORT_SECONDS, self.on_report))
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Answer from the next episode on."""
        self.active = True
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Answer nothing any more; the guard's watchdog holds the arm still."""
        self.rest()
        self.active = False
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As before it was configured."""
        for subscription in self.listening.values():
            self.destroy_subscription(subscription)
        for timer in self.timers_of_ours:
            self.destroy_timer(timer)
        self.listening.clear()
        self.actor = None
        return TransitionCallbackReturn.SUCCESS

    def make_actor(self, bundle: str) -> Actor:
        """What acts: a bundle, refused if it is not what was exported for the live contract, or the expert."""
        actor: Actor
        if bundle:
            learned = BundleActor(bundle, self.contract, 0.0 if self.patient else self.contract.period)
            if learned.bundle.sample is None:
                self.get_logger().warning(f"{bundle}: made without a sample, so only its hashes were compared")
            actor = learned
        else:
            task = make_task(self.contract.task)
            if unknown := set(task.expert_needs) - {*self.contract.observation, *self.contract.auxiliary}:
                raise UserError(
                    f"node policy: bundle: must be given: the scripted expert of {task.name} needs to know "
                    f"{', '.join(sorted(unknown))}, which only the simulation tells."
                )
            actor = ExpertActor(task.expert(self.settings["expert_noise"]))
        if share := self.settings["exploration"]:
            actor = ExploringActor(actor, self.contract, share)
        routine = make_task(self.contract.task).routine()
        return actor if routine is None else CheckedActor(actor, routine)

    def hear(self, topic: str, cdr: bytes) -> None:
        """A message of an observation or a goal; latents of another image encoder than the policy's are not taken."""
        if topic == self.reference:
            self.pace.arrived(messages.stamp_of(cdr), steady())
        if self.contract.goal.image and topic in (self.contract.latent.topic, self.contract.goal.desired_goal.topic):
            self.latents = messages.frame_of(cdr) or "no encoder"
            if self.actor is not None and (text := self.other_encoder(self.actor)):
                self.get_logger().error(text, once=True)
                self.report(text)
                return
        self.take(self.gate.push(topic, cdr))

    def other_encoder(self, actor: Actor) -> str:
        """What is wrong where the newest latents are not of the encoder that an actor needs; empty where they are."""
        if not actor.frame or self.latents in ("", actor.frame):
            return ""
        return f"latents are of {self.latents}, the policy was trained with {actor.frame}"

    def take(self, ticks: list[Tick]) -> None:
        """Ticks that are complete now."""
        for tick in ticks:
            self.last_tick = steady()
            if self.patient:
                self.answer(tick)
            elif self.due is None:
                self.due = tick
                self.afterwards(self.answer_newest)
            else:
                self.pace.skipped += 1
                self.due = tick

    def answer_newest(self) -> None:
        """One action for the newest tick; nobody waits for the others any more."""
        tick, self.due = self.due, None
        if tick is not None:
            self.answer(tick)

    def answer(self, tick: Tick) -> None:
        """One action for a valid tick. None for one that lacks anything, or that is not what the camera sees now: the
        guard is told at once, and need not wait for its watchdog."""
        self.last_stamp = tick.stamp
        if not self.gate.running or self.actor is None:
            return
        problems = tick.problems or self.still.judge(tick)
        waited = self.pace.waited(tick.stamp, steady())
        if not self.patient and not problems and waited > self.contract.observation[self.contract.reference].max_age:
            problems = (f"{self.contract.reference}: {waited:.3f} s old when its turn came",)
        if problems:
            self.pace.invalid += 1
            self.report("; ".join(problems))
            if not self.patient:  # in lockstep the arm waits for an action anyway
                self.send("policy/actor", messages.actor_cdr(tick.stamp, NOBODY))
            return
        began = steady()
        action = self.actor.act(tick)
        inferred = steady()
        if self.trace:
            self.trace.note(tick.stamp, {**tick.values, "action": action})
        for topic, cdr in messages.action_cdrs(self.contract, tick.stamp, action).items():
            self.send(topic, cdr)
        self.send("policy/actor", messages.actor_cdr(tick.stamp, self.actor.name))
        self.pace.answered(tick, waited, inferred - began, steady() - inferred)

    def on_event(self, cdr: bytes) -> None:
        """Episodes begin and end."""
        event = messages.status_of(cdr)
        if event.name == "prepare":
            self.rest()
            number, self.seed = int(event.values["episode"]), int(event.values["seed"])
            if self.actor is not None:
                self.actor.reset(self.seed)
            self.get_ready(number)
        elif event.name == "start" and self.active:
            self.last_tick, self.last_stamp = steady(), event.stamp
            self.take(self.gate.begin(event.stamp))

    def rest(self) -> None:
        """Answer nothing until an episode starts."""
        self.gate.prepare()
        self.still.restart()
        self.pace.restart()
        self.due = None

    def lacks(self) -> str:
        """As for every node; and to be active."""
        return super().lacks() if self.active else "not active"

    def on_silence(self) -> None:
        """Say which topics keep an episode waiting."""
        if self.gate.running and steady() - self.last_tick > self.silence:
            # Where no tick waits for anything, what makes ticks is silent itself.
            missing = self.gate.assembler.missing() or [self.reference]
            self.report(f"nothing recent on {', '.join(missing)}")

    def on_report(self) -> None:
        """What an action takes, and what was not answered in time, once a second of an episode."""
        if self.gate.running:
            values, late = self.pace.report()
            level = messages.WARN if late else messages.OK
            self.report_timings(values, level, late or "every observation was answered in time")

    def stamp_now(self) -> int:
        """Of the newest tick."""
        return self.last_stamp

    def make_safe(self) -> None:
        """Silence: the guard holds the arm still."""
        self.rest()
        if self.active:
            self.trigger_deactivate()

    def on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        """Swap the policy without a restart; a bundle that does not fit is refused and the old one stays."""
        for parameter in parameters:
            if parameter.name == "bundle" and self.actor is not None:
                try:
                    actor = self.make_actor(parameter.value)
                    if actor.privileged and not self.actor.privileged:
                        raise UserError("the expert needs a restart of this node")
                    if wrong := self.other_encoder(actor):
                        raise UserError(f"{wrong}; start the graph with policy:={parameter.value}, which brings it")
                except UserError as error:
                    self.report(f"refused, and the old policy stays: {error}")
                    return SetParametersResult(successful=False, reason=str(error))
                actor.succeed(self.actor, self.seed)
                self.actor = actor
                self.report(f"runs {parameter.value or 'the expert'}", messages.OK)
        return SetParametersResult(successful=True)

    def destroy_node(self) -> None:
        """Take the node off the graph; rclpy leaves out the state machine, whose publisher would keep it there."""
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    def close(self) -> None:
        """Write out the trace."""
        if self.trace:
            self.trace.close()
