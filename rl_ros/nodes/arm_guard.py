"""arm_guard: the only publisher on the controllers' topics. A process of its own, it outlives the policy."""

import dataclasses

import numpy as np
from std_srvs.srv import Trigger

from rl_ros.contract import Key
from rl_ros.episodes import messages
from rl_ros.episodes.assemble import Assembler, Tick
from rl_ros.nodes.base import Node, steady
from rl_ros.robots.arm import Arm
from rl_ros.robots.guard import Code, Command, Guard, Limits


class ArmGuard(Node):
    """Every action is answered: with a command within limits, or by holding still, with the reason.

    The watchdog runs on the steady clock. An emergency stop holds until `arm_guard/rearm` is called.
    """

    def __init__(self) -> None:
        super().__init__("arm_guard")
        names = {field.name for field in dataclasses.fields(Limits)}
        self.arm = Arm()
        self.guard = Guard(
            self.arm,
            Limits(**{name: value for name, value in self.settings.items() if name in names}),
            self.contract.period,
        )
        self.joints = Key(
            topic="/joint_states",
            type="sensor_msgs/msg/JointState",
            field="position",
            shape=(7,),
            dtype="float64",
            unit="rad",
            names=self.arm.joint_names,
        )
        self.actions = Assembler(self.contract.action | {"joints": self.joints}, "linear_velocity")
        self.measured: np.ndarray | None = None
        self.measured_stamp = 0
        self.gripper = 1.0
        self.stopped = False
        self.said: Code | None = None
        self.last_action: float | None = None
        """When the last accepted action came, s; None once the watchdog has answered for it."""
        for topic in {channel.topic for channel in self.contract.action.values()}:
            self.listen(topic, lambda cdr, topic=topic: self.answer(self.actions.push(topic, cdr)))  # type: ignore[misc]
        self.listen("joint_states", self.on_joints)
        self.listen("emergency_stop", self.on_emergency_stop)
        self.listen("episode/event", self.on_event)
        self.create_service(Trigger, "arm_guard/rearm", self.on_rearm)
        self.steady_timer(self.settings["watchdog"] / 4, self.on_watchdog)

    def on_joints(self, cdr: bytes) -> None:
        """Where the arm is; may complete an action that came first."""
        joints = messages.value(self.joints, cdr)
        if np.isfinite(joints).all():
            self.measured, self.measured_stamp = joints, messages.stamp_of(cdr)
            self.answer(self.actions.push(self.joints.topic, cdr))

    def answer(self, ticks: list[Tick]) -> None:
        """Judge each action and pass on what is allowed."""
        for tick in ticks:
            if self.measured is None:
                continue
            if self.stopped:
                command = self.guard.hold(self.measured, self.gripper, Code.EMERGENCY_STOP, "call arm_guard/rearm")
            elif len(tick.values) < len(self.actions.keys):
                command = self.guard.hold(self.measured, self.gripper, Code.INCOMPLETE, "; ".join(tick.problems))
            else:
                command = self.guard.command(
                    tick.values["linear_velocity"],
                    tick.values["gripper"],
                    (self.measured_stamp - tick.stamp) * 1e-9,
                    tick.values["joints"],
                    self.gripper,
                )
            if not command.code.rejected:
                self.last_action, self.gripper = steady(), command.gripper
            self.publish(tick.stamp, command)

    def on_watchdog(self) -> None:
        """No valid action for too long: hold still, once, and say so."""
        late = self.last_action is not None and steady() - self.last_action > self.settings["watchdog"]
        if late and self.measured is not None:
            self.last_action = None
            detail = f"no valid action for {self.settings['watchdog']:g} s"
            self.publish(self.measured_stamp, self.guard.hold(self.measured, self.gripper, Code.WATCHDOG, detail))

    def on_event(self, cdr: bytes) -> None:
        """An episode is about to begin."""
        event = messages.status_of(cdr)
        if event.name == "prepare":
            self.get_ready(int(event.values["episode"]))

    def lacks(self) -> str:
        """As for every node; and to know where the arm is."""
        return super().lacks() or (
            "" if self.measured is not None or self.settings["lossless"] else "nothing yet on /joint_states"
        )

    def on_emergency_stop(self, cdr: bytes) -> None:
        """True stops at once; False does not start again, re-arming does."""
        if messages.decode("std_msgs/msg/Bool", cdr).data and not self.stopped:
            self.stopped = True
            if self.measured is not None:
                command = self.guard.hold(self.measured, self.gripper, Code.EMERGENCY_STOP, "call arm_guard/rearm")
                self.publish(self.measured_stamp, command)

    def on_rearm(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Take actions again after an emergency stop."""
        response.success, self.stopped = self.stopped, False
        response.message = "actions are taken again" if response.success else "there was no emergency stop"
        return response

    def publish(self, stamp: int, command: Command) -> None:
        """The command to both controllers; the reason when it changes, and with each rejection."""
        opening = command.gripper * self.settings["gripper_opening"]
        period, fingers = self.contract.period, self.arm.finger_joint_names
        arm = messages.trajectory_cdr(stamp, self.arm.joint_names, command.positions, period)
        hand = messages.trajectory_cdr(stamp, fingers, [opening] * len(fingers), period)
        self.send("arm_controller/joint_trajectory", arm)
        self.send("gripper_controller/joint_trajectory", hand)
        if command.code is self.said and not command.code.rejected:
            return
        self.said = command.code
        level = messages.ERROR if command.code.rejected else messages.OK
        if level == messages.OK and command.code is not Code.OK:
            level = messages.WARN
        self.send("arm_guard/state", messages.status_cdr(stamp, command.code.value, command.detail, {}, level))
