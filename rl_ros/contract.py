"""What a task's data mean: topics, fields, shapes, units, rates and limits, in one file.

The contract is read by the live nodes, by bag ingestion and by the trainer; it is embedded in every
bag and every policy bundle. This is the ground floor: it imports nothing but the reader of YAML.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import yaml

from rl_ros import schema
from rl_ros.errors import UserError
from rl_ros.resources import share_directory

FORMAT = 1
LARGEST = 1 << 28
"""Numbers of one key: more than any sensor gives, and few enough to be held."""

Alignment = Literal["latest", "exact", "held", "nearest", "next", "window"]
ACTORS = ("policy", "human", "scripted")
"""Who may have chosen an action."""
NOBODY = ""
"""Said instead of one of `ACTORS` where a tick is not answered: what it shows cannot be acted on."""
ACTOR_TOPIC = "/policy/actor"
"""Where each tick says whose action it is: a named vector with 1 for one of them and 0 for the others."""
IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


@dataclass(frozen=True)
class Field:
    """What one field of a message type can hold: its trailing shape (None: any) and its units."""

    shape: tuple[int, ...] | None
    units: tuple[str, ...]


FIELDS: dict[tuple[str, str], Field] = {
    ("sensor_msgs/msg/Image", "data"): Field(None, ("", "m")),
    ("sensor_msgs/msg/CompressedImage", "data"): Field(None, ("",)),
    ("sensor_msgs/msg/JointState", "position"): Field(None, ("rad", "m", "")),
    ("sensor_msgs/msg/JointState", "velocity"): Field(None, ("rad/s", "m/s")),
    ("sensor_msgs/msg/JointState", "effort"): Field(None, ("N*m", "N")),
    ("geometry_msgs/msg/PoseStamped", "pose.position"): Field((3,), ("m",)),
    ("geometry_msgs/msg/PoseStamped", "pose.orientation"): Field((4,), ("",)),
    ("geometry_msgs/msg/TwistStamped", "twist.linear"): Field((3,), ("m/s",)),
    ("geometry_msgs/msg/TwistStamped", "twist.angular"): Field((3,), ("rad/s",)),
    ("geometry_msgs/msg/TwistStamped", "twist.angular.z"): Field((1,), ("rad/s",)),
    ("geometry_msgs/msg/WrenchStamped", "wrench.force"): Field((3,), ("N",)),
    ("geometry_msgs/msg/WrenchStamped", "wrench.torque"): Field((3,), ("N*m",)),
}
"""Every message field that a contract may name."""


@dataclass(frozen=True)
class Key:
    """One entry of an observation: where it comes from and what it holds.

    `names` picks entries of a JointState by name, never by order. `alignment` says which message a
    tick takes: `latest` is the newest at or before the tick, no older than `max_age` seconds;
    `exact` is the one of the tick's own stamp; `held` is the newest at or before, however old; `nearest` is
    the closest before or after, no further than `max_age` (of two as close the earlier); `next` is the first at or
    after the tick, no later than `max_age`; `window` is the last n at or before, none older than `max_age`, as an
    array with the oldest first: its shape is [n, ...]. A tick waits for what comes after it, live as well.

    `simulated` is an auxiliary key that only a simulation knows, such as where everything is; a robot does without.

    `encoding` of an image is what the array holds: `rgb8`, `mono8`, or `depth` in float32 metres, where
    `invalid` is the number that stands for a pixel without a measurement. Larger images are reduced to the
    shape.
    """

    topic: str
    type: str
    field: str
    shape: tuple[int, ...]
    dtype: Literal["uint8", "float32", "float64"] = "float32"
    unit: str = ""
    names: tuple[str, ...] = ()
    encoding: Literal["", "rgb8", "mono8", "depth"] = ""
    alignment: Alignment = "latest"
    max_age: float = 0.2
    invalid: float | None = None
    simulated: bool = False

    @property
    def window(self) -> int:
        """How many messages a tick takes."""
        return self.shape[0] if self.alignment == "window" else 1

    @property
    def message_shape(self) -> tuple[int, ...]:
        """The shape of what one message gives."""
        return self.shape[1:] if self.alignment == "window" else self.shape

    def __post_init__(self) -> None:
        if not self.topic.startswith("/"):
            raise ValueError(f"topic: expected an absolute name such as /joint_states, got '{self.topic}'.")
        known = FIELDS.get((self.type, self.field))
        if known is None:
            options = sorted({t for t, _ in FIELDS})
            if self.type in options:
                options = sorted(f for t, f in FIELDS if t == self.type)
                raise ValueError(f"field: {self.type} offers {', '.join(options)}, got '{self.field}'.")
            raise ValueError(f"type: expected one of {', '.join(options)}, got '{self.type}'.")
        if self.unit not in known.units:
            raise ValueError(
                f"unit: {self.field} of {self.type} is in {' or '.join(u or 'no unit' for u in known.units)}, "
                f"got '{self.unit}'."
            )
        if self.alignment == "window" and len(self.shape) < 2:
            raise ValueError(f"shape: a window has shape [n, ...] for its last n messages, got {list(self.shape)}.")
        shape = self.message_shape
        if known.shape is not None and shape != known.shape:
            raise ValueError(f"shape: {self.field} of {self.type} has shape {list(known.shape)}, got {list(shape)}.")
        if self.type == "sensor_msgs/msg/JointState" and shape != (len(self.names),):
            raise ValueError(f"shape: expected [{len(self.names)}], one entry for each of names, got {list(shape)}.")
        if self.type in IMAGES:
            self._check_image(shape)
        elif self.invalid is not None:
            raise ValueError("invalid: only for images of encoding depth.")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"names: each may be there once, got {list(self.names)}.")
        if math.prod(self.shape) > LARGEST:
            raise ValueError(f"shape: expected at most {LARGEST} numbers, got {list(self.shape)}.")
        if min(self.shape, default=0) < 1:
            raise ValueError(f"shape: expected positive sizes, got {list(self.shape)}.")
        if self.max_age <= 0:
            raise ValueError(f"max_age: expected a positive number of seconds, got {self.max_age}.")

    def _check_image(self, shape: tuple[int, ...]) -> None:
        channels = {"rgb8": 3, "mono8": 1, "depth": 1}.get(self.encoding)
        if channels is None or (self.encoding == "depth" and self.type != "sensor_msgs/msg/Image"):
            raise ValueError("encoding: expected rgb8 or mono8 for an image (or depth, if it is not compressed).")
        dtype, unit = ("float32", "m") if self.encoding == "depth" else ("uint8", "")
        if self.dtype != dtype or len(shape) != 3 or shape[2] != channels:
            raise ValueError(
                f"shape: an image of encoding {self.encoding} is {dtype} of shape [height, width, {channels}], "
                f"got {self.dtype} {list(shape)}."
            )
        if self.unit != unit:
            raise ValueError(
                f"unit: an image of encoding {self.encoding} is in {unit or 'no unit'}, got '{self.unit}'."
            )
        if (self.invalid is None) == (self.encoding == "depth"):
            raise ValueError(
                "invalid: a depth image needs the number of metres that stands for a pixel without a measurement; "
                f"no other image has one; got {self.invalid}."
            )


@dataclass(frozen=True)
class ActionChannel(Key):
    """One part of the action vector, with its limits in the unit of the message field.

    A `discrete` channel takes one of its two limits and nothing between, such as an open or closed gripper.
    """

    alignment: Alignment = "exact"
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    discrete: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.type not in ("geometry_msgs/msg/TwistStamped", "sensor_msgs/msg/JointState"):
            raise ValueError(f"type: an action travels as a TwistStamped or a JointState, got '{self.type}'.")
        if len(self.shape) != 1:
            raise ValueError(f"shape: expected a vector, got {list(self.shape)}.")
        for name in ("low", "high"):
            if len(getattr(self, name)) != self.shape[0]:
                raise ValueError(f"{name}: expected {self.shape[0]} numbers, got {list(getattr(self, name))}.")
        if not all(lo < hi for lo, hi in zip(self.low, self.high, strict=True)):
            raise ValueError(f"low: expected each entry below high, got {list(self.low)} and {list(self.high)}.")


K = TypeVar("K", bound=Key)


@dataclass(frozen=True)
class Goal:
    """The desired goal, what the policy is asked for, and whether the policy sees it at all.

    `achieved_goal` names the observation or auxiliary key that says which goal a tick has achieved, in the same numbers
    as the desired goal; goals of hindsight come from it.

    `image` names the key of a camera, where goals are given as images: `achieved_goal` is then what an image encoder
    makes of that camera's images, and the desired goal what it makes of the goal's. Policies see latents where it is an
    observation, and images where the camera is one.
    """

    desired_goal: Key
    policy_input: bool = True
    achieved_goal: str = ""
    image: str = ""


@dataclass(frozen=True)
class Reward:
    """Where each tick's judgement travels: a named vector of `reward`, `success`, `terminated` and `truncated`.

    `unjudged` says what becomes of an episode that nobody has judged, such as one of another robot: `refuse` cuts
    all its transitions out; `zero` gives it reward 0 and ends it as truncated.
    """

    topic: str = "/reward"
    unjudged: Literal["refuse", "zero"] = "refuse"


@dataclass(frozen=True)
class Recorded:
    """A topic of a bag. `every_tick`: it carries a message for each tick, with the tick's stamp."""

    type: str
    every_tick: bool = False


@dataclass(frozen=True)
class Contract:
    """One task's contract. See `config/contracts/` for examples, and the parts above for each entry."""

    format: int
    name: str
    task: str
    control_rate: float
    episode_length: int
    frame: str
    reference: str
    observation: dict[str, Key]
    action: dict[str, ActionChannel]
    goal: Goal
    auxiliary: dict[str, Key] = field(default_factory=dict)
    reward: Reward = field(default_factory=Reward)
    record: dict[str, Recorded] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format: this version of rl_ros reads contracts of format {FORMAT}, got {self.format}.")
        if self.control_rate <= 0:
            raise ValueError(f"control_rate: expected a positive number of Hz, got {self.control_rate}.")
        if self.episode_length < 1:
            raise ValueError(f"episode_length: expected at least 1 tick, got {self.episode_length}.")
        if self.reference not in self.observation:
            raise ValueError(
                f"reference: expected an observation key ({', '.join(self.observation)}), got '{self.reference}'."
            )
        if not self.action:
            raise ValueError("action: expected at least one channel.")
        types: dict[str, str] = {}
        for key in (*self.observation.values(), *self.auxiliary.values(), *self.action.values()):
            if types.setdefault(key.topic, key.type) != key.type:
                raise ValueError(f"topic: {key.topic} is both a {types[key.topic]} and a {key.type}.")
        if self.goal.achieved_goal:
            achieved = (self.observation | self.auxiliary).get(self.goal.achieved_goal)
            if achieved is None or achieved.shape != self.goal.desired_goal.shape:
                raise ValueError(
                    f"goal.achieved_goal: expected an observation or auxiliary key of shape "
                    f"{list(self.goal.desired_goal.shape)}, as the desired goal has, got '{self.goal.achieved_goal}'."
                )
        known = self.observation | self.auxiliary
        if self.goal.image and (
            self.goal.image not in known
            or known[self.goal.image].type not in IMAGES
            or self.goal.achieved_goal not in known
        ):
            raise ValueError(
                f"goal.image: expected a key of a camera, and goal.achieved_goal one that is made of its images; got "
                f"'{self.goal.image}' and '{self.goal.achieved_goal}'."
            )
        for name, key in self.observation.items():
            if key.simulated:
                raise ValueError(f"observation: {name} is simulated: a policy that sees it could not run on a robot.")
        for name in self.auxiliary:
            if name in self.observation:
                raise ValueError(f"auxiliary: {name} is an observation key as well; it can be only one of them.")

    @property
    def period(self) -> float:
        """Seconds between ticks."""
        return 1.0 / self.control_rate

    @property
    def period_ns(self) -> int:
        """Nanoseconds between ticks."""
        return round(1e9 / self.control_rate)

    @property
    def action_low(self) -> np.ndarray:
        """Lower limits of the whole action vector, float32 (A,)."""
        return np.concatenate([np.asarray(c.low, np.float32) for c in self.action.values()])

    @property
    def action_high(self) -> np.ndarray:
        """Upper limits of the whole action vector, float32 (A,)."""
        return np.concatenate([np.asarray(c.high, np.float32) for c in self.action.values()])

    @property
    def action_discrete(self) -> np.ndarray:
        """Which entries of the action vector take one of two values, bool (A,)."""
        return np.concatenate([np.full(c.shape, c.discrete) for c in self.action.values()])

    @property
    def reward_keys(self) -> dict[str, Key]:
        """The entries of a judgement as keys of their topic."""
        return {
            name: Key(
                self.reward.topic, "sensor_msgs/msg/JointState", "position", (1,), names=(name,), alignment="exact"
            )
            for name in ("reward", "success", "terminated", "truncated")
        }

    @property
    def actor_key(self) -> Key:
        """Who chose the action of a tick: 1 for one of `ACTORS`."""
        return Key(
            ACTOR_TOPIC,
            "sensor_msgs/msg/JointState",
            "position",
            (len(ACTORS),),
            names=ACTORS,
            alignment="exact",
        )

    def recorded_topics(self) -> dict[str, Recorded]:
        """Every topic that belongs in a bag of this contract, by name, in a fixed order."""
        topics: dict[str, Recorded] = {}
        for key in (*self.observation.values(), *self.auxiliary.values(), *self.reward_keys.values()):
            topics[key.topic] = Recorded(key.type, every_tick=True)
        goal = self.goal.desired_goal
        topics[goal.topic] = Recorded(goal.type, every_tick=goal.alignment != "held")
        for channel in self.action.values():
            topics[channel.topic] = Recorded(channel.type, every_tick=True)
        return topics | self.record

    def remapped(self, topics: Mapping[str, str]) -> "Contract":
        """The contract with other topics: by the name of an observation, auxiliary or action key, `desired_goal`
        or `reward`.

        Raises:
            UserError: there is no key of that name, or the topic is taken by another type.
        """
        known = [*self.observation, *self.auxiliary, *self.action, "desired_goal", "reward"]
        for name in topics:
            if name not in known:
                raise UserError(f"{name}:=: no key of contract {self.name}; there are: {', '.join(known)}.")

        def moved(keys: dict[str, K]) -> dict[str, K]:
            return {name: replace(key, topic=topics.get(name, key.topic)) for name, key in keys.items()}

        goal = self.goal.desired_goal
        try:
            return replace(
                self,
                observation=moved(self.observation),
                auxiliary=moved(self.auxiliary),
                action=moved(self.action),
                goal=replace(self.goal, desired_goal=replace(goal, topic=topics.get("desired_goal", goal.topic))),
                reward=replace(self.reward, topic=topics.get("reward", self.reward.topic)),
            )
        except ValueError as error:
            raise UserError(f"contract {self.name} with other topics: {error}") from error

    @property
    def latent(self) -> Key:
        """The key of what an image encoder makes of the camera's images; only where goals are images.

        Raises:
            UserError: they are not.
        """
        return self._pictured(self.goal.achieved_goal)

    @property
    def camera(self) -> Key:
        """The key of the camera whose images goals are; only where they are.

        Raises:
            UserError: they are not.
        """
        return self._pictured(self.goal.image)

    def _pictured(self, name: str) -> Key:
        if not self.goal.image:
            raise UserError(f"contract {self.name}: its goals are not given as images (goal.image is empty).")
        return (self.observation | self.auxiliary)[name]

    def with_latent(self, size: int) -> "Contract":
        """The contract with latents of another size, float32 (size,), where goals are images."""
        names = tuple(f"z{index}" for index in range(size))
        latent = replace(self.latent, names=names, shape=(size,))
        goal = replace(self.goal.desired_goal, names=names, shape=(size,))
        return self._with_key(self.goal.achieved_goal, latent, replace(self.goal, desired_goal=goal))

    def with_image(self, name: str, height: int, width: int) -> "Contract":
        """The contract with so many pixels in the image of that key."""
        image = (self.observation | self.auxiliary)[name]
        return self._with_key(name, replace(image, shape=(height, width, *image.shape[2:])), self.goal)

    def _with_key(self, name: str, key: Key, goal: Goal) -> "Contract":
        """The contract with another key of that name, wherever it has one, and a goal that goes with it."""
        return replace(
            self,
            observation={each: key if each == name else old for each, old in self.observation.items()},
            auxiliary={each: key if each == name else old for each, old in self.auxiliary.items()},
            goal=goal,
        )

    def with_discrete(self, names: Collection[str]) -> "Contract":
        """The contract with these channels of its action discrete; those that it has not are left out."""
        return replace(self, action={k: replace(c, discrete=True) if k in names else c for k, c in self.action.items()})

    def without_latent(self) -> "Contract":
        """The contract of what there is before any encoder: the camera's images take the place of their latents.

        The images are the reference, no policy is asked for a goal, and nobody need have judged anything. It is what
        recordings of any robot with such a camera are read by.
        """
        made = (self.goal.achieved_goal, self.goal.image)
        camera = self.observation.get(self.goal.image) or replace(self.camera, alignment="exact")
        observation = {self.goal.image: camera}
        observation |= {name: key for name, key in self.observation.items() if name not in made}
        return replace(
            self,
            reference=self.goal.image,
            observation=observation,
            auxiliary={name: key for name, key in self.auxiliary.items() if name not in made},
            goal=Goal(observation[self.goal.image], policy_input=False),
            reward=replace(self.reward, unjudged="zero"),
        )

    def without_simulated(self) -> "Contract":
        """The contract on a robot: without the auxiliary keys that only a simulation knows."""
        return replace(self, auxiliary={name: key for name, key in self.auxiliary.items() if not key.simulated})

    def split_action(self, action: np.ndarray) -> dict[str, np.ndarray]:
        """The action vector (A,) as one array per channel."""
        parts, start = {}, 0
        for name, channel in self.action.items():
            parts[name] = action[start : start + channel.shape[0]]
            start += channel.shape[0]
        return parts

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` turns back into an equal contract."""
        return asdict(self)

    def to_yaml(self) -> str:
        """YAML text that `from_yaml` turns back into an equal contract."""
        return yaml.safe_dump(_plain(self.to_dict()), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str, source: str) -> "Contract":
        """Parse a contract; `source` names it in errors.

        Raises:
            UserError: a wrong key, type, shape or unit, with its place and what was expected.
        """
        if text not in _PARSED:
            _PARSED[text] = schema.parse(cls, text, source)
        return _PARSED[text]

    @classmethod
    def from_dict(cls, data: Any, source: str) -> "Contract":
        """Parse plain data, as `from_yaml`."""
        contract: Contract = schema.convert(cls, data, source)
        return contract

    @classmethod
    def load(cls, name_or_path: str | Path) -> "Contract":
        """Read a contract by path, or by the name of one in `config/contracts/`.

        Raises:
            UserError: there is none of that name, or it is wrong.
        """
        path = Path(name_or_path)
        if path.suffix not in (".yaml", ".yml"):
            path = share_directory() / "config" / "contracts" / f"{name_or_path}.yaml"
            if not path.is_file():
                known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
                raise UserError(
                    f"no contract is named '{name_or_path}'; there are: {known}, or give a path to a .yaml."
                )
        return schema.load(cls, path)


_PARSED: dict[str, Contract] = {}
"""Contracts by their text: hundreds of bags embed the same one, and YAML is slow to read."""


def difference(trained: Contract, live: Contract) -> str | None:
    """The first field in which a policy's contract differs from the live one, in words; None if they agree.

    What is only recorded (auxiliary keys and extra topics), the episode length and what counts as achieved may differ:
    the policy never sees them; and so may goals that neither asks it to see. A discrete channel of the policy's is at
    home where everything between its limits is possible, too.
    """
    ignored = ("auxiliary", "record", "episode_length", "name", "reward", "task")
    a = {k: v for k, v in trained.to_dict().items() if k not in ignored}
    b = {k: v for k, v in live.to_dict().items() if k not in ignored}
    for contract in (a, b):
        contract["goal"].pop("achieved_goal")
        contract["goal"].pop("image")
        if not (trained.goal.policy_input or live.goal.policy_input):
            contract["goal"].pop("desired_goal")
    for name in a["action"].keys() & b["action"].keys():
        a["action"][name]["discrete"] &= b["action"][name]["discrete"]
    return _difference(_plain(a), _plain(b), "")


def _difference(a: Any, b: Any, where: str) -> str | None:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(k for k in b if k not in a)]:
            place = f"{where}.{key}" if where else str(key)
            if key not in a or key not in b:
                return f"{place} is only in the {'live' if key not in a else 'trained'} contract"
            found = _difference(a[key], b[key], place)
            if found:
                return found
        if list(a) != list(b):
            return f"{where or 'the keys'} are in another order"
        return None
    return None if a == b else f"{where} was {a!r} in training and is {b!r} here"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
