"""arm_guard: the only publisher on the controllers' topics. A process of its own, it outlives the policy."""

import math

from std_srvs.srv import Trigger

from rl_ros.episodes import messages
from rl_ros.nodes.base import Node, steady
from rl_ros.robots.arm import Arm
from rl_ros.robots.homing import Homing
from rl_ros.robots.sentry import Answer, Sentry, Watch, parse_disabled
from rl_ros.robots.verdict import Code, Command, Limits

ARM, HAND = "arm_controller/joint_trajectory", "gripper_controller/joint_trajectory"
CONTROLLERS = {ARM: "controllers/arm", HAND: "controllers/gripper"}
"""Of a real arm, by the topic that is recorded."""
NOW = 0
"""The stamp of a trajectory that begins when the controller gets it. One of an observation would be over by the time it
arrives, and such a trajectory is rejected; so would be a hold, when joint states have stopped."""
SHOW = 1.0
"""s between two lines on the console of what a real arm would be told, in a dry run."""
LOOK = 0.02
"""s between two looks at what does not arrive."""
COUNT = 0.1
"""s between two counts of publishers."""


class ArmGuard(Node):
    """Every action is answered: with a command within limits, or by holding still, with the reason.

    What is late is told by the steady clock. A stop holds until `arm_guard/rearm` is called.
    """

    def __init__(self) -> None:
        super().__init__("arm_guard")
        settings, self.arm = self.settings, Arm(self.settings["arm"])
        disabled = parse_disabled(settings["disabled_checks"])
        watch = Watch(
            settings["joint_state_age"], settings["watchdog"], settings["burst"], settings["heartbeat"],
            patient=settings["lossless"],
        )  # fmt: skip
        limits = Limits.of(settings, len(self.arm.joint_names))
        self.sentry = Sentry(self.contract, self.arm, limits, watch, steady(), disabled)
        self.told = {
            "disabled_checks": " ".join(disabled),
            "heartbeat": f"{settings['heartbeat']:g} s" if settings["heartbeat"] else "off",
        }
        """In every state, and thus in every bag."""
        self.dry = settings["brings_home"] and not settings["controllers"]
        """Whether there is a real arm that is told nothing."""
        if self.dry:
            self.told["dry_run"] = "true"
            self.get_logger().warning("dry run: the controllers are told nothing; see /arm_guard/arm_command")
        self.shown_at = 0.0
        self.homing = Homing(self.arm, limits, self.contract.period, settings["home_speed"])
        self.resetting: int | None = None
        """Number of the episode for which the arm is on its way home."""
        if disabled:
            self.get_logger().warning(f"turned off by disabled_checks: {', '.join(disabled)}")
        if not settings["heartbeat"]:
            self.get_logger().info("heartbeat is off: silence of the operator does not stop the arm")
        self.said: tuple[Code, ...] | None = None
        topics = set(self.sentry.actions.types) - {self.sentry.joints.topic}
        for topic in sorted(topics):
            self.listen(topic, lambda cdr, topic=topic: self.give(self.sentry.on_message(topic, cdr, steady())))  # type: ignore[misc]
        self.listen("joint_states", self.on_joints)
        self.listen("emergency_stop", self.on_emergency_stop)
        self.listen("operator/heartbeat", lambda cdr: self.sentry.on_heartbeat(steady()))
        self.listen("episode/event", self.on_event)
        if settings["brings_home"]:
            self.listen("episode/reset", self.on_reset)
        self.create_service(Trigger, "arm_guard/rearm", self.on_rearm)
        self.alone = [self.listening[topic].topic_name for topic in sorted(self.sentry.action_topics)]
        """Topics that one node should publish on."""
        there = CONTROLLERS.values() if settings["controllers"] else ()
        self.alone += [self.sender(topic).topic_name for topic in (ARM, HAND, *there)]
        self.steady_timer(LOOK, lambda: self.give(self.sentry.on_time(steady())))
        self.steady_timer(COUNT, self.on_count)

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
        elif self.dry or self.homing.arrived(measured):
            self.send("episode/reset_done", messages.joint_state_cdr(stamp, ["episode"], [self.resetting]))
            self.resetting = None
        else:
            step = self.homing.step(stamp, measured)
            if isinstance(step, tuple):
                code, reason = step
                self.resetting = None
                self.get_logger().error(reason)
                self.send("diagnostics", messages.status_cdr(0, "arm_guard", reason, {}, messages.ERROR))
                self.give([Answer(stamp, self.sentry.guard.hold(measured, self.sentry.gripper, code, reason))])
            elif step is not None:
                opening = 1.0 if "gripper" in self.contract.action else 0.0
                self.give([Answer(stamp, Command(step, opening, ()))])

    def on_count(self) -> None:
        """Who else publishes."""
        self.give(self.sentry.on_publishers({topic: self.count_publishers(topic) for topic in self.alone}))

    def on_event(self, cdr: bytes) -> None:
        """An episode is about to begin."""
        event = messages.status_of(cdr)
        if event.name == "prepare":
            self.sentry.restart()
            self.said = None  # so that each bag begins with the state
            self.get_ready(int(event.values["episode"]))

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
        return response

    def give(self, answers: list[Answer]) -> None:
        """Each command to both controllers; the reason when it changes, and with each rejection."""
        gripper = self.arm.robot.gripper
        for stamp, command in answers:
            fingers = [gripper.position(command.gripper)] * len(gripper.joints)
            for topic, names, positions in (
                (ARM, self.arm.joint_names, command.positions),
                (HAND, gripper.joints, fingers),
            ):
                self.send(topic, messages.trajectory_cdr(stamp, names, positions, self.contract.period))
                if self.settings["controllers"]:
                    begun = messages.trajectory_cdr(NOW, names, positions, self.contract.period)
                    self.send(CONTROLLERS[topic], begun)
            if self.dry:
                self.show(command)
            if command.code.rejected or command.codes != self.said:
                self.tell(stamp, command)

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
        level = messages.ERROR if command.code.rejected else messages.WARN if command.codes else messages.OK
        values = {"interventions": " ".join(code.value for code in command.codes), **self.told}
        self.send("arm_guard/state", messages.status_cdr(stamp, command.code.value, command.detail, values, level))
