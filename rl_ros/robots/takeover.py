"""Who acts at each tick: the policy, or a person who takes over. No ROS: bytes and a steady clock go in.

Each tick has one actor, decided when the tick is first heard of. What the policy proposes is passed on as it came;
where a person acts, it is not passed on at all, and the person's action has the tick's stamp instead.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rl_ros.contract import ACTOR_TOPIC, Contract
from rl_ros.episodes import messages
from rl_ros.errors import UserError

KEPT = 64
"""Ticks whose actor is remembered."""
PROPOSED = "/proposed"
"""What goes before the names of the policy's topics."""


@dataclass(frozen=True)
class Devices:
    """What a person has in hand."""

    speed: float
    """m/s along each axis at full deflection."""
    dead_zone: float
    axes: tuple[int, ...]
    """Of the joystick, for x, y and z."""
    takeover_button: int
    gripper_button: int
    begin_button: int
    release: float
    """s of silence, or of a spacenav without a deflection, until the policy goes on."""

    @classmethod
    def of(cls, settings: dict) -> "Devices":
        """From the parameters of `operator`.

        Raises:
            UserError: `axes` are not three whole numbers.
        """
        texts = settings["axes"].split()
        if len(texts) != 3 or not all(text.isdecimal() for text in texts):
            raise UserError(f"node operator: axes: expected three numbers such as '1 0 4', got '{settings['axes']}'.")
        return cls(
            settings["speed"],
            settings["dead_zone"],
            tuple(int(text) for text in texts),
            settings["takeover_button"],
            settings["gripper_button"],
            settings["begin_button"],
            settings["release"],
        )


class Person:
    """What the person does with the devices. Silence is a hand that has let go."""

    def __init__(self, devices: Devices) -> None:
        self.devices = devices
        self.velocity = np.zeros(3)
        """m/s."""
        self.until = {"joystick": -math.inf, "spacenav": -math.inf}
        """Steady clock, s, until which the person has taken over, by device: an idle one does not end the other's."""
        self.begins = False
        """Whether the begin button was pressed, until someone asks."""
        self.toggled = False
        """Whether the gripper button was pressed, until someone asks."""
        self._buttons: tuple[int, ...] = ()

    def on_joy(self, cdr: bytes, now: float) -> None:
        """A joystick: the person acts while the take-over button is held."""
        joy = messages.decode("sensor_msgs/msg/Joy", cdr)
        axes, buttons = [float(axis) for axis in joy.axes], tuple(int(button) for button in joy.buttons)
        pressed = [b and not (i < len(self._buttons) and self._buttons[i]) for i, b in enumerate(buttons)]
        self._buttons = buttons

        def at(values: Sequence[object], index: int) -> bool:
            return index < len(values) and bool(values[index])

        self.begins |= at(pressed, self.devices.begin_button)
        if not at(buttons, self.devices.takeover_button):
            self.until["joystick"] = -math.inf
            return
        self.toggled |= at(pressed, self.devices.gripper_button)
        deflection = [axes[index] if index < len(axes) else math.nan for index in self.devices.axes]
        self._take("joystick", np.array(deflection), now)

    def on_twist(self, cdr: bytes, now: float) -> None:
        """A spacenav: the person acts while it is deflected, and a little longer."""
        linear = messages.decode("geometry_msgs/msg/Twist", cdr).linear
        deflection = np.array([linear.x, linear.y, linear.z], np.float64)
        if np.isfinite(deflection).all() and np.max(np.abs(deflection)) > self.devices.dead_zone:
            self._take("spacenav", deflection, now)
        elif self.until["joystick"] < now <= self.until["spacenav"]:
            self.velocity = np.zeros(3)

    def acts(self, now: float) -> bool:
        """Whether the person has taken over."""
        return now <= max(self.until.values())

    def _take(self, device: str, deflection: np.ndarray, now: float) -> None:
        if not np.isfinite(deflection).all():  # a device that is broken, or has no such axis, moves nothing
            deflection = np.zeros(3)
        beyond = np.where(np.abs(deflection) > self.devices.dead_zone, deflection, 0.0)
        self.velocity = self.devices.speed * np.clip(beyond, -1.0, 1.0)
        self.until[device] = now + self.devices.release


class Sent(NamedTuple):
    """A message to be sent."""

    topic: str
    cdr: bytes


class Takeover:
    """Passes on what the policy proposes, or what a person does instead.

    Args:
        contract: what an action is made of.
        person: who may take over. Their devices move the tool and the gripper; meanwhile the tool does not turn, and
            no episode is ended by an action.

    Raises:
        UserError: the contract has an action that no device gives.
    """

    LEFT = ("yaw_velocity", "terminate")
    """Entries of an action that no device gives, and that are 0 while a person acts."""

    def __init__(self, contract: Contract, person: Person) -> None:
        unknown = [name for name in contract.action if name not in ("linear_velocity", "gripper", *self.LEFT)]
        if unknown:
            raise UserError(
                f"a person cannot give the action '{unknown[0]}' of contract {contract.name}; leave out operator:=true."
            )
        self.contract, self.person = contract, person
        self.gripper = 1.0
        """What the gripper was last told, 0 closed to 1 open."""
        self.human: dict[int, bool] = {}
        """By the stamp of a tick, whether the person acts there."""
        self.newest = -1
        """Stamp of the newest tick that was answered, ns."""

    def restart(self) -> None:
        """An episode is about to begin."""
        self.human, self.newest, self.gripper = {}, -1, 1.0

    def on_tick(self, stamp: int, now: float) -> list[Sent]:
        """An observation: answers it where the person acts."""
        if stamp in self.human or stamp <= self.newest or not self._decide(stamp, now):
            return []
        self.newest = stamp
        if self.person.toggled:
            self.gripper = float(self.gripper < 0.5)
            self.person.toggled = False
        values = {"linear_velocity": self.person.velocity, "gripper": np.array([self.gripper])}
        values |= {name: np.zeros(1) for name in self.LEFT}
        action = np.concatenate([values[name] for name in self.contract.action]).astype(np.float32)
        bounded = np.clip(action, self.contract.action_low, self.contract.action_high)
        answer = messages.action_cdrs(self.contract, stamp, bounded)
        return [Sent(topic, cdr) for topic, cdr in answer.items()] + [
            Sent(ACTOR_TOPIC, messages.actor_cdr(stamp, "human"))
        ]

    def on_proposal(self, topic: str, cdr: bytes, now: float) -> list[Sent]:
        """Part of the policy's action on a topic of the contract: passed on as it is, where the policy acts.

        Bytes that tell no stamp are passed on as well: the guard says what is wrong with them.
        """
        try:
            stamp = messages.stamp_of(cdr)
        except messages.MessageError:
            return [Sent(topic, cdr)]
        if stamp not in self.human and stamp > self.newest:
            self._decide(stamp, now)
        if self.human.get(stamp, self.person.acts(now)):
            return []
        self.newest = max(self.newest, stamp)
        key = self.contract.action.get("gripper")
        if key is not None and key.topic == topic:
            with contextlib.suppress(messages.MessageError):  # the guard says so
                told = float(messages.value(key, cdr)[0])
                self.gripper = told if math.isfinite(told) else self.gripper
        return [Sent(topic, cdr)]

    def _decide(self, stamp: int, now: float) -> bool:
        self.human[stamp] = self.person.acts(now)
        while len(self.human) > KEPT:
            self.human.pop(next(iter(self.human)))
        return self.human[stamp]
