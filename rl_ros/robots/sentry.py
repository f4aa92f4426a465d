"""Between the messages and the guard: what arrives, when, and from whom. No ROS: bytes and a steady clock go in.

`CHECKS` judges each action as it arrives; those that pass are put together and go to `rl_ros/robots/guard.py`.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rl_ros.contract import Contract, Key
from rl_ros.episodes import messages
from rl_ros.episodes.assemble import Aligned, Assembler
from rl_ros.errors import UserError
from rl_ros.robots import guard as motion
from rl_ros.robots.arm import Arm
from rl_ros.robots.encoders import Encoders
from rl_ros.robots.guard import Guard
from rl_ros.robots.verdict import Code, Command, Limits, Request, Vector

JOINT_STATES = "/joint_states"
STOPPED = "stopped"
"""Why the guard takes no actions until it is armed again, among the values of its state."""
NEEDED = ("finite", "size")
"""Checks that cannot be turned off: all that follows computes with the numbers."""
WATCHDOG, JOINT_STATE_AGE, FROZEN = 1.7, 1.5, 1.2
"""Control periods that `Watch` allows where nothing else is said: with the time to notice and to tell, an arm is held
still within two of the last good message."""
FLOOD = 2.0
"""Control periods after a burst in which no action is accepted."""
FROZEN_SECONDS = 0.08
"""s of the same at least, in which any arm has begun to move."""


class Answer(NamedTuple):
    """A command, and the stamp in ns of the observation that it answers."""

    stamp: int
    command: Command


@dataclass(frozen=True)
class Watch:
    """When what arrives is too late or too much; seconds of a steady clock."""

    joint_state_age: float
    """s without joint states until the arm is held still."""
    watchdog: float
    """s without a valid action until the arm is held still."""
    burst: int
    """Actions that may come within one control period."""
    heartbeat: float
    """s of silence of the operator that stop the arm; 0 listens to none."""
    patient: bool
    """Lockstep: a slow simulation is no fault, so stamps alone tell what is late."""
    frozen: float
    """s of joint states that are the same to the last bit, while the arm is told to move, until it is held still."""

    @classmethod
    def of(cls, settings: Mapping[str, Any], period: float) -> "Watch":
        """From the parameters of `arm_guard` by name, where 0 stands for what follows from the control period in s."""
        return cls(
            joint_state_age=settings["joint_state_age"] or JOINT_STATE_AGE * period,
            watchdog=settings["watchdog"] or WATCHDOG * period,
            burst=settings["burst"],
            heartbeat=settings["heartbeat"],
            patient=settings["lossless"],
            frozen=settings["joint_state_frozen"] or max(FROZEN * period, FROZEN_SECONDS),
        )


class Arrival(NamedTuple):
    """One message of an action."""

    topic: str
    stamp: int
    now: float
    frame: str = ""
    """What its numbers are along the axes of; empty where it says nothing, or has none."""


class Check(NamedTuple):
    """One thing that can be wrong with a message before it is read."""

    name: str
    judge: "Callable[[Sentry, Arrival], motion.Rejection | None]"


class Sentry:
    """Answers every action: with a command within limits, or by holding still, with the reason.

    The same messages in the same order, at the same times, give the same commands.

    Args:
        contract: what actions are made of, and whether they need a goal.
        arm: the arm they move.
        limits: of its motion.
        watch: of what arrives.
        now: steady clock, s.
        disabled: names of checks to leave out.
    """

    def __init__(
        self, contract: Contract, arm: Arm, limits: Limits, watch: Watch, now: float, disabled: tuple[str, ...] = ()
    ) -> None:
        self.contract, self.arm, self.watch = contract, arm, watch
        self.guard = Guard(arm, limits, contract.period, disabled)
        self.encoders = Encoders(arm, watch.frozen)
        self.checks = [check for check in CHECKS if check.name not in disabled]
        self.disabled = disabled
        self.joints = Key(
            JOINT_STATES,
            "sensor_msgs/msg/JointState",
            "position",
            arm.home.shape,
            "float64",
            "rad",
            names=arm.joint_names,
        )
        keys: dict[str, Key] = {**contract.action, "joints": self.joints}
        if contract.goal.policy_input and "goal" not in disabled:
            keys["desired_goal"] = contract.goal.desired_goal
        self.actions = Assembler(keys, "linear_velocity")
        self.actor = contract.actor_key
        self.action_topics = {channel.topic for channel in contract.action.values()}
        self.in_space = {channel.topic for channel in contract.action.values() if channel.type in messages.IN_SPACE}
        self.measured: Vector | None = None
        """Joint positions (N,) rad; None until the first are heard."""
        self.measured_stamp = 0
        self.measured_at = now
        self.gripper = 1.0 if "gripper" in contract.action else 0.0
        """What the gripper was last told; where a contract leaves it out, the hand stays closed."""
        self.stopped: motion.Rejection | None = None
        """Why all actions are rejected until `rearm`."""
        self.intruders = ""
        """Who else publishes; empty where nobody does."""
        self.heartbeat_at = now
        self.last_action: float | None = None
        """When the last accepted action came, s; None once a hold has answered for it."""
        self.refused: dict[Code, float] = {}
        """When a message was last refused at its arrival, s, by the reason; since the last action that was accepted."""
        self.restart()

    def rest(self) -> list[Answer]:
        """No episode runs: hold still, and forget the last one. In lockstep nothing moves between two."""
        answers = [] if self.watch.patient or self.last_action is None else self._hold(Code.BETWEEN_EPISODES, "")
        self.restart()
        return answers

    def restart(self) -> None:
        """An episode is about to begin: forget the actions, and the goal, of the one before."""
        self.actions.restart()
        self.guard.restart()
        self.encoders.restart()
        self.newest: dict[str, int] = {}
        """Stamp of the newest message of an action that was let in, ns, by topic."""
        self.arrived: dict[str, deque[float]] = {topic: deque() for topic in self.action_topics}
        """When the messages of the last control period came, s."""
        self.came: dict[int, float] = {}
        """When each action came that is not judged yet, s, by its stamp."""
        self.jumped: motion.Rejection | None = None
        """Why all actions are rejected until the next episode: stamps of before and after cannot be compared."""
        self.flooded = -math.inf
        """When too many messages came last, s."""
        self.missed = -1
        """Stamp of the newest action whose missing parts were told, ns."""

    def on_message(self, topic: str, cdr: bytes, now: float) -> list[Answer]:
        """An action, or a goal, arrived."""
        try:
            stamp, frame = messages.stamp_of(cdr), messages.frame_of(cdr) if topic in self.in_space else ""
        except messages.MessageError as error:
            return self._refuse(self.measured_stamp, Code.MALFORMED, str(error), now)
        if topic in self.action_topics and self.measured is not None:
            arrival = Arrival(topic, stamp, now, frame)
            for check in self.checks:
                if rejection := check.judge(self, arrival):
                    return self._refuse(stamp, *rejection, now)
            self.newest[topic] = stamp
        if topic == self.actions.keys["linear_velocity"].topic:
            self.came[stamp] = now
        return self._judge_all(topic, cdr, now)

    def on_joints(self, cdr: bytes, now: float) -> list[Answer]:
        """Where the arm is; may complete an action that came first."""
        try:
            stamp, measured = messages.stamp_of(cdr), self.actions.value("joints", cdr)
        except messages.MessageError as error:
            return self._refuse(self.measured_stamp, Code.JOINT_STATE_INVALID, str(error), now)
        answers: list[Answer] = []
        if self.measured is not None:
            step = (stamp - self.measured_stamp) * 1e-9
            if -self.guard.limits.action_age <= step <= 0:
                return []  # overtaken on the way
            ahead = step - (now - self.measured_at)
            if step < 0 or (ahead > self.watch.joint_state_age and not self.watch.patient):
                how = f"went back in time by {-step:.3f} s" if step < 0 else f"are {ahead:.3f} s ahead of the clock"
                answers = self._refuse(self.measured_stamp, Code.CLOCK_JUMP, f"joint states {how}", now)
                moved = self.guard.accepted is not None  # before that, as when a world is reset, nothing depends on it
                self.restart()
                self.jumped = (Code.CLOCK_JUMP, f"joint states {how}; the episode cannot go on") if moved else None
        if rejection := self.encoders.judge(stamp, measured):
            return answers + self._refuse(self.measured_stamp, *rejection, now)
        first, self.measured, self.measured_stamp, self.measured_at = self.measured is None, measured, stamp, now
        if first and self.stopped:  # before anybody knew where the arm is
            answers += self._hold(*self.stopped)
        return answers + self._judge_all(JOINT_STATES, cdr, now)

    def on_actor(self, cdr: bytes, now: float) -> list[Answer]:
        """Who has chosen an action; where nobody has, the policy says so at once."""
        try:
            stamp, actor = messages.stamp_of(cdr), messages.value(self.actor, cdr)
        except messages.MessageError as error:
            return self._refuse(self.measured_stamp, Code.MALFORMED, f"who acts: {error}", now)
        answered = all(stamp <= self.newest.get(topic, -1) for topic in self.action_topics)
        if actor.any() or answered or self.last_action is None:
            return []
        return self._hold(Code.NO_ACTION, "the policy cannot act on what it is shown; see /diagnostics")

    def on_heartbeat(self, now: float) -> None:
        """The operator is there."""
        self.heartbeat_at = now

    def on_time(self, now: float) -> list[Answer]:
        """Call it often: notices what does not arrive."""
        if 0 < self.watch.heartbeat < now - self.heartbeat_at and not self.stopped:
            return self.stop(Code.HEARTBEAT_LOST, f"nothing on operator/heartbeat for {self.watch.heartbeat:g} s")
        if missing := self._missing(now):
            return self._hold(*missing)
        if self.last_action is None:
            return []
        if "joint_states" not in self.disabled and (rejection := _joint_states(self, Arrival("", 0, now))):
            return self._hold(*rejection)
        if now - self.last_action > self.watch.watchdog:
            return self._hold(Code.WATCHDOG, f"no valid action for {self.watch.watchdog:g} s")
        return []

    def on_publishers(self, counts: Mapping[str, int]) -> list[Answer]:
        """How many publishers there are of each topic that should have one."""
        intruders = "; ".join(f"{count} publishers on {topic}" for topic, count in counts.items() if count > 1)
        if "publishers" in self.disabled or intruders == self.intruders:
            return []
        self.intruders = intruders
        return self._hold(Code.SECOND_PUBLISHER, intruders) if intruders else []

    def stop(self, code: Code, reason: str) -> list[Answer]:
        """Hold still until `rearm`."""
        self.stopped = code, f"{reason}; call arm_guard/rearm"
        return self._hold(*self.stopped)

    def rearm(self, now: float) -> tuple[bool, str]:
        """Take actions again after a stop; whether it is so, and a sentence."""
        if not self.stopped:
            return False, "there was no stop"
        if 0 < self.watch.heartbeat < now - self.heartbeat_at:
            return False, "operator/heartbeat is silent"
        self.stopped = None
        self.guard.restart()
        return True, "actions are taken again"

    def _missing(self, now: float) -> motion.Rejection | None:
        """What an action waits for in vain, once for each."""
        late = [s for s, at in self.came.items() if s > self.missed and now - at > self.guard.limits.action_age]
        if self.watch.patient or not late:
            return None
        self.missed, topics = late[-1], self.actions.missing()
        goal = self.contract.goal.desired_goal.topic
        return Code.GOAL_MISSING if goal in topics else Code.INCOMPLETE, f"nothing recent on {', '.join(topics)}"

    def _judge_all(self, topic: str, cdr: bytes, now: float) -> list[Answer]:
        aligned = self.actions.align(topic, cdr)
        if self.measured is None:
            return []  # the arm is not known, and so many actions waited for it that the first are given up
        return [self._judge(each, self.measured, now) for each in aligned]

    def _judge(self, aligned: Aligned, measured: Vector, now: float) -> Answer:
        """The answer to an action whose parts are there, or will not come any more."""
        came = self.came.pop(aligned.stamp, now)
        self.came = {stamp: at for stamp, at in self.came.items() if stamp > aligned.stamp}
        if now - self.flooded < FLOOD * self.contract.period:  # none of a flood is the one that was meant
            command = self.guard.hold(measured, self.gripper, Code.BURST, "too many messages came a moment ago")
        else:
            command = self._command(aligned, measured, 0.0 if self.watch.patient else now - came)
        if command.code.rejected:
            self.last_action = None
            self.encoders.commanded(aligned.stamp, None)
        else:
            self.last_action, self.gripper, self.refused = now, command.gripper, {}
            self.encoders.commanded(aligned.stamp, command.positions - measured)
        return Answer(aligned.stamp, command)

    def _command(self, aligned: Aligned, measured: Vector, waited: float) -> Command:
        if broken := self.stopped or self.jumped:
            return self.guard.hold(measured, self.gripper, *broken)
        tick = self.actions.read(aligned)
        absent = [name for name in self.actions.keys if name not in tick.values]
        if absent:
            missing = absent[0] in aligned.problems
            code = Code.INCOMPLETE if missing else Code.MALFORMED
            if absent == ["desired_goal"]:
                code = Code.GOAL_MISSING if missing else Code.GOAL_INVALID
            return self.guard.hold(measured, self.gripper, code, "; ".join(tick.problems))
        return self.guard.command(
            Request(
                tick.stamp,
                tick.values["linear_velocity"],
                tick.values.get("gripper", np.array([self.gripper])),
                tick.values["joints"],
                self.measured_stamp,
                self.gripper,
                tick.values.get("desired_goal"),
                measured,
                waited,
                float(tick.values.get("yaw_velocity", np.zeros(1))[0]),
            )
        )

    def _refuse(self, stamp: int, code: Code, detail: str, now: float) -> list[Answer]:
        """Hold still; a flood of messages is not answered by one of commands."""
        if now - self.refused.get(code, -math.inf) < self.contract.period / 2:
            return []
        self.refused[code] = now
        stamp = min(stamp, self.measured_stamp + self.contract.period_ns)  # not one that is far ahead
        return [Answer(stamp, answer.command) for answer in self._hold(code, detail)]

    def _hold(self, code: Code, detail: str) -> list[Answer]:
        self.last_action = None
        self.encoders.commanded(self.measured_stamp, None)
        if self.measured is None:
            return []
        return [Answer(self.measured_stamp, self.guard.hold(self.measured, self.gripper, code, detail))]


def _publishers(sentry: Sentry, arrival: Arrival) -> motion.Rejection | None:
    return (Code.SECOND_PUBLISHER, sentry.intruders) if sentry.intruders else None


def _joint_states(sentry: Sentry, arrival: Arrival) -> motion.Rejection | None:
    age = arrival.now - sentry.measured_at
    if sentry.watch.patient or age <= sentry.watch.joint_state_age:
        return None
    return Code.JOINT_STATES_STALE, f"no joint states for {sentry.watch.joint_state_age:g} s"


def _frame(sentry: Sentry, arrival: Arrival) -> motion.Rejection | None:
    if arrival.frame in ("", sentry.contract.frame):
        return None
    return Code.WRONG_FRAME, f"{arrival.topic} is in frame '{arrival.frame}'; it is expected in {sentry.contract.frame}"


def _future(sentry: Sentry, arrival: Arrival) -> motion.Rejection | None:
    ahead = (arrival.stamp - sentry.measured_stamp) * 1e-9
    if ahead <= sentry.contract.period * (1 + 1e-6):
        return None
    return Code.FUTURE_ACTION, f"answers an observation {ahead:.3f} s newer than the newest joint state"


def _sequence(sentry: Sentry, arrival: Arrival) -> motion.Rejection | None:
    newest = sentry.newest.get(arrival.topic)
    if newest is None or arrival.stamp > newest:
        return None
    what = "the same action again" if arrival.stamp == newest else "an action older than the last one"
    return Code.REPLAYED_ACTION, f"{what} on {arrival.topic}"


def _burst(sentry: Sentry, arrival: Arrival) -> motion.Rejection | None:
    """By the steady clock, and in lockstep, where it tells nothing, not at all: there the stamps say how often."""
    arrived, period = sentry.arrived[arrival.topic], sentry.contract.period
    arrived.append(arrival.now)
    while arrived[0] <= arrival.now - period:
        arrived.popleft()
    if sentry.watch.patient or len(arrived) <= sentry.watch.burst:
        return None
    sentry.flooded = arrival.now
    return Code.BURST, f"{len(arrived)} messages on {arrival.topic} within {period:g} s"


CHECKS: tuple[Check, ...] = (
    Check("publishers", _publishers),
    Check("joint_states", _joint_states),
    Check("frame", _frame),
    Check("future", _future),
    Check("sequence", _sequence),
    Check("burst", _burst),
)


def parse_disabled(text: str) -> tuple[str, ...]:
    """Names of checks from a parameter, with spaces between.

    Raises:
        UserError: one of them is no check, or cannot be turned off.
    """
    every = [*(check.name for check in CHECKS), *(check.name for check in motion.CHECKS)]
    known = [name for name in every if name not in NEEDED]
    for name in text.split():
        if name not in known:
            raise UserError(
                f"node arm_guard: disabled_checks: '{name}' cannot be turned off; expected some of: {', '.join(known)}."
            )
    return tuple(text.split())
