"""arm_guard: the only publisher on the controllers' topics. A process of its own, it outlives the policy."""

import math
from collections import Counter
from dataclasses import replace

from std_srvs.srv import Trigger

from rl_ros.episodes import messages
from rl_ros.episodes.timings import Timings
from rl_ros.nodes.base import REPORT_SECONDS, Node, steady
from rl_ros.robots.arm import Arm
from rl_ros.robots.homing import Homing
from rl_ros.robots.sentry import STOPPED, Answer, Sentry, Watch, parse_disabled
from rl_ros.robots.verdict import Code, Command, Limits

ARM, HAND = "arm_controller/joint_trajectory", "gripper_controller/joint_trajectory"
CONTROLLERS = {ARM: "controllers/arm", HAND: "controllers/gripper"}
"""Of a real arm, by the topic that is recorded."""
NOW = 0
"""The stamp of a trajectory that begins when the controller gets it. One of an observation would be over by the time it
arrives, and such a trajectory is rejected; so would be a hold, when joint states have stopped."""
SHOW = 1.0
"""s between two lines on the console of what a real arm would be told, in a dry run."""
OPENING = 1.0
"""s that the hand of an arm that has come home is given to open."""
LOOK, COUNT = 0.2, 0.5
"""Control periods between two looks at what does not arrive, and between two counts of publishers."""
OFTEN = 0.02
"""s of the first at most, and of the second at least: a count asks the middleware."""


class ArmGuard(Node):
    """Every action is answered: with a command within limits, or by holding still, with the reason.

    What is late is told by the steady clock. A stop holds until `arm_guard/rearm` is called.
    """

    def __init__(self) -> None:
        super().__init__("arm_guard")
        settings, self.arm = self.settings, Arm(self.settings["arm"])
        disabled = parse_disabled(settings["disabled_checks"])
        self.dry = settings["brings_home"] and not settings["controllers"]
        """Whether there is a real arm that is told nothing."""
        watch = Watch.of(settings, self.contract.period)
        if self.dry:  # an arm that is told nothing stands still and is none the worse for it
            watch = replace(watch, frozen=math.inf)
        limits = Limits.of(settings, len(self.arm.joint_names))
        self.sentry = Sentry(self.contract, self.arm, limits, watch, steady(), disabled)
        self.told = {
            "disabled_checks": " ".join(disabled),
            "heartbeat": f"{settings['heartbeat']:g} s" if settings["heartbeat"] else "off",
        }
        """In every state, and thus in every bag."""
        if self.dry:
            self.told["dry_run"] = "true"
            self.get_logger().warning("dry run: the controllers are told nothing; see /arm_guard/arm_command")
        self.shown_at = 0.0
        self.homing = Homing(self.arm, limits, self.contract.period, settings["home_speed"])
        self.resetting: int | None = None
        """Number of the episode for which the arm is on its way home."""
        self.opened: int | None = None
        """Stamp of the joint state at which the hand was last told to be as episodes begin, ns; None before that."""
        if disabled:
            self.get_logger().warning(f"turned off by disabled_checks: {', '.join(disabled)}")
        if not settings["heartbeat"]:
            self.get_logger().info("heartbeat is off: silence of the operator does not stop the arm")
        self.said: tuple[Code, ...] | None = None
        self.warm_up()
        self.timings = Timings()
        self.commands: Counter[str] = Counter()
        """How many commands of each reason, since the last report."""
        topics = set(self.sentry.actions.types) - {self.sentry.joints.topic}
        for topic in sorted(topics):
            self.listen(topic, lambda cdr, topic=topic: self.on_message(topic, cdr))  # type: ignore[misc]
        self.listen("joint_states", self.on_joints)
        self.listen("policy/actor", lambda cdr: self.give(self.sentry.on_actor(cdr, steady())))
        self.listen("emergency_stop", self.on_emergency_stop)
        self.listen("operator/heartbeat", lambda cdr: self.sentry.on_heartbeat(steady()))
        self.listen("episode/event", self.on_event)
        if settings["brings_home"]:
            self.listen("episode/reset", self.on_reset)
        self.serve(Trigger, "arm_guard/rearm", self.on_rearm)
        self.alone = [self.listening[topic].topic_name for topic in sorted(self.sentry.action_topics)]
        """Topics that one node should publish on."""
        there = CONTROLLERS.values() if settings["controllers"] else ()
        self.alone += [self.sender(topic).topic_name for topic in (ARM, HAND, *there)]
        self.steady_timer(min(OFTEN, LOOK * self.contract.period), lambda: self.give(self.sentry.on_time(steady())))
        self.steady_timer(max(OFTEN, COUNT * self.contract.period), self.on_count)
        if not settings["lossless"]:
            self.steady_timer(REPORT_SECONDS, self.on_report)

    def on_message(self, topic: str, cdr: bytes) -> None:
        """An action, or a goal, arrived."""
        began = steady()
        answers = self.sentry.on_message(topic, cdr, began)
        self.give(answers)
        if answers:
            self.timings.note("command", steady() - began)

    def on_joints(self, cdr: bytes) -> None:
        """Where the arm is."""
        stamp = self.sentry.measured_stamp
        self.give(self.sentry.on_joints(cdr, steady()))
        if self.resetting is not None and self.sentry.measured_stamp != stamp:
            self.come_home()

    def on_reset(self, cdr: bytes) -> None:
        """An episode is about to begin: a real arm comes home."""
        self.resetting = int(messages.decode("sensor_msgs/msg/JointState", cdr).position[0])
        self.homing.restart()
        self.sentry.last_action = None  # the last episode's: no watchdog waits for another

    def come_home(self) -> None:
        """One step on the way home; a stop interrupts it until the arm is armed again."""
        measured, stamp = self.sentry.measured, self.sentry.measured_stamp
        assert measured is not None and self.resetting is not None
        if self.sentry.stopped or self.sentry.intruders:
            self.homing.restart()
        elif self.dry or (self.homing.arrived(measured) and self.hand_is_ready(stamp)):
            self.send("episode/reset_done", messages.joint_state_cdr(stamp, ["episode"], [self.resetting]))
            self.resetting = None
        else:  # also at home, while the hand opens: controllers give up on silence
            step = self.homing.step(stamp, measured)
            if isinstance(step, tuple):
                code, reason = step
                self.resetting = None
                self.get_logger().error(reason)
                self.send("diagnostics", messages.status_cdr(0, "arm_guard", reason, {}, messages.ERROR))
                self.give([Answer(stamp, self.sentry.guard.hold(measured, self.sentry.gripper, code, reason))])
            elif step is not None:
                self.give([Answer(stamp, Command(step, self.sentry.gripper, ()))])

    def hand_is_ready(self, stamp: int) -> bool:
        """Whether the hand of an arm that is home has had time to be as episodes begin; from here on it is told to.

        Only here, where a person can take what it holds. From then on a hold leaves it as it was told to be.
        """
        opening = 1.0 if "gripper" in self.contract.action else 0.0
        if self.opened is None or stamp < self.opened or self.sentry.gripper != opening:
            self.opened, self.sentry.gripper = stamp, opening
        return stamp - self.opened >= OPENING * 1e9

    def on_count(self) -> None:
        """Who else publishes."""
        self.give(self.sentry.on_publishers({topic: self.count_publishers(topic) for topic in self.alone}))

    def on_event(self, cdr: bytes) -> None:
        """An episode is over, and the next one about to begin."""
        event = messages.status_of(cdr)
        if event.name == "prepare":
            self.give(self.sentry.rest())
            self.said = None  # so that each bag begins with the state
            self.get_ready(int(event.values["episode"]))

    def on_report(self) -> None:
        """What a command takes, and how many there were for which reason, once a second in which there were any."""
        counts, self.commands = self.commands, Counter()
        if counts:
            values = {code: str(count) for code, count in sorted(counts.items())} | self.timings.report()
            good = all(code == Code.OK.value or code.endswith("_limited") for code in counts)
            self.report_timings(values, messages.OK if good else messages.WARN, f"{counts.total()} commands")

    def stamp_now(self) -> int:
        """Of the newest joint state."""
        return self.sentry.measured_stamp

    def make_safe(self) -> None:
        """Hold the arm still."""
        self.give(self.sentry.stop(Code.FAILED, "the guard itself has failed"))

    def lacks(self) -> str:
        """As for every node; and to know where the arm is, that nobody else moves it, and not to be stopped."""
        heard = self.sentry.measured is not None or self.settings["lossless"]
        reason = f"stopped: {self.sentry.stopped[1]}" if self.sentry.stopped else self.sentry.intruders
        return super().lacks() or reason or ("" if heard else "nothing yet on /joint_states")

    def on_emergency_stop(self, cdr: bytes) -> None:
        """True stops at once; False does not start again, re-arming does."""
        if messages.decode("std_msgs/msg/Bool", cdr).data and not self.sentry.stopped:
            self.give(self.sentry.stop(Code.EMERGENCY_STOP, "emergency_stop was told"))

    def on_rearm(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Take actions again after a stop."""
        response.success, response.message = self.sentry.rearm(steady())
        if response.success and self.sentry.measured is not None:
            self.tell(self.stamp_now(), Command(self.sentry.measured, self.sentry.gripper, (), response.message))
        return response

    def give(self, answers: list[Answer]) -> None:
        """Each command to both controllers; the reason when it changes, and with each rejection."""
        for stamp, command in answers:
            self.commands[command.code.value] += 1
            for topic, cdr in self.written(stamp, command).items():
                self.send(topic, cdr)
            if self.dry:
                self.show(command)
            if command.code.rejected or command.codes != self.said:
                self.tell(stamp, command)

    def written(self, stamp: int, command: Command) -> dict[str, bytes]:
        """What a command tells the arm and the hand, by topic; a real arm's controllers have topics of their own."""
        gripper, period = self.arm.robot.gripper, self.contract.period
        fingers = [gripper.position(command.gripper)] * len(gripper.joints)
        told: dict[str, bytes] = {}
        for topic, names, positions in (
            (ARM, self.arm.joint_names, command.positions),
            (HAND, gripper.joints, fingers),
        ):
            told[topic] = messages.trajectory_cdr(stamp, names, positions, period)
            if self.settings["controllers"]:
                told[CONTROLLERS[topic]] = messages.trajectory_cdr(NOW, names, positions, period)
        return told

    def warm_up(self) -> None:
        """Answer a few actions aside: the first one takes fifty times as long as those after it."""
        sentry = Sentry(self.contract, self.arm, self.sentry.guard.limits, self.sentry.watch, steady())
        for tick in range(1, 4):
            stamp = tick * self.contract.period_ns
            sentry.on_joints(messages.joint_state_cdr(stamp, self.arm.joint_names, self.arm.home), steady())
            action = (self.contract.action_low + self.contract.action_high) / 2
            for topic, cdr in messages.action_cdrs(self.contract, stamp, action).items():
                for answer in sentry.on_message(topic, cdr, steady()):
                    self.written(*answer)

    def show(self, command: Command) -> None:
        """A dry run's line on the console."""
        if steady() - self.shown_at < SHOW or self.sentry.measured is None:
            return
        self.shown_at = steady()
        moves = ", ".join(f"{math.degrees(step):+.2f}" for step in command.positions - self.sentry.measured)
        self.get_logger().info(
            f"would move the joints by {moves} deg, gripper {command.gripper:.2f} open ({command.code.value})"
        )

    def tell(self, stamp: int, command: Command) -> None:
        """The state: its name is the first intervention."""
        self.said = command.codes
        rejected = command.code.rejected and command.code is not Code.BETWEEN_EPISODES  # which is no fault
        level = messages.ERROR if rejected else messages.WARN if command.codes else messages.OK
        values = {"interventions": " ".join(code.value for code in command.codes), **self.told}
        if self.sentry.stopped:
            values[STOPPED] = self.sentry.stopped[1]
        self.send("arm_guard/state", messages.status_cdr(stamp, command.code.value, command.detail, values, level))
