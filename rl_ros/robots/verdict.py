"""What the guard is asked, what it may allow, and what it answers. No ROS."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_ros.errors import UserError
from rl_ros.graph import node_specs

Vector = NDArray[np.float64]


class Code(Enum):
    """Why the guard did what it did; stable names, published as they are."""

    OK = "ok"
    SPEED_LIMITED = "speed_limited"
    RAMP_LIMITED = "ramp_limited"
    WORKSPACE_LIMITED = "workspace_limited"
    JOINT_POSITION_LIMITED = "joint_position_limited"
    JOINT_SPEED_LIMITED = "joint_speed_limited"
    ACCELERATION_LIMITED = "acceleration_limited"
    JERK_LIMITED = "jerk_limited"
    GRIPPER_LIMITED = "gripper_limited"
    BRAKED = "braked"
    NOT_FINITE = "not_finite"
    WRONG_SIZE = "wrong_size"
    MALFORMED = "malformed"
    WRONG_FRAME = "wrong_frame"
    INCOMPLETE = "incomplete"
    STALE_ACTION = "stale_action"
    FUTURE_ACTION = "future_action"
    REPLAYED_ACTION = "replayed_action"
    BURST = "burst"
    GOAL_MISSING = "goal_missing"
    GOAL_INVALID = "goal_invalid"
    OUT_OF_REACH = "out_of_reach"
    OUTSIDE_WORKSPACE = "outside_workspace"
    TABLE = "table"
    SELF_COLLISION = "self_collision"
    TOO_OFTEN = "too_often"
    SECOND_PUBLISHER = "second_publisher"
    JOINT_STATE_INVALID = "joint_state_invalid"
    JOINT_STATES_STALE = "joint_states_stale"
    JOINT_STATES_FROZEN = "joint_states_frozen"
    CLOCK_JUMP = "clock_jump"
    EMERGENCY_STOP = "emergency_stop"
    HEARTBEAT_LOST = "heartbeat_lost"
    NO_ACTION = "no_action"
    WATCHDOG = "watchdog"
    BETWEEN_EPISODES = "between_episodes"
    FAILED = "guard_failed"

    @property
    def rejected(self) -> bool:
        """Whether the command was replaced by holding still."""
        return self not in _PASSED


_PASSED = frozenset(code for code in Code if code.value.endswith("_limited")) | {Code.OK, Code.BRAKED}


@dataclass(frozen=True)
class Limits:
    """What the guard allows. Lengths in m, in the arm's base frame; and one number for each joint."""

    workspace_low: tuple[float, ...]
    workspace_high: tuple[float, ...]
    """Corners of where the tool may be, three numbers each; where two are the same, it is kept in that plane."""
    speed: float
    """m/s, of the tool, along each axis."""
    joint_margin: float
    """rad kept from each joint's position limits."""
    joint_speed_share: float
    """Share of each joint's velocity limit that may be used."""
    joint_acceleration: tuple[float, ...]
    """rad/s^2, from one control period to the next."""
    joint_jerk: tuple[float, ...]
    """rad/s^3, from one control period to the next."""
    action_age: float
    """s between the observation an action answers and the newest joint state, at most; and from its arrival."""
    table_height: float
    """m, of the table's top."""
    table_clearance: float
    """m that every link but the base keeps above it."""
    self_clearance: float
    """m that links which are no neighbours keep from each other."""
    ramp: float
    """s from a start to full speed; 0 begins with it."""
    yaw_speed: float = 2.5
    """rad/s, of the tool about the vertical."""
    reach_error: float = 0.01
    """m and rad together that inverse kinematics may miss by."""

    @classmethod
    def of(cls, settings: Mapping[str, Any], joints: int = 7) -> "Limits":
        """From the parameters of `arm_guard` by name; `config/nodes.yaml` holds their defaults, those of the Panda.

        Raises:
            UserError: a list has the wrong number of entries.
        """
        values = {entry.name: settings[entry.name] for entry in fields(cls) if entry.name in settings}
        sizes = {"workspace_low": 3, "workspace_high": 3, "joint_acceleration": joints, "joint_jerk": joints}
        for name, size in sizes.items():
            if len(values[name]) != size:
                raise UserError(f"node arm_guard: {name}: expected {size} numbers, got {len(values[name])}.")
        return cls(**values)

    @classmethod
    def shipped(cls, **changed: Any) -> "Limits":
        """The defaults of `config/nodes.yaml`, with changes by name.

        Raises:
            UserError: as `of`.
        """
        parameters = node_specs()["arm_guard"].parameters
        names = [entry.name for entry in fields(cls) if entry.name in parameters]
        return cls.of({name: parameters[name].read(parameters[name].default, name) for name in names} | changed)


@dataclass(frozen=True)
class Request:
    """One action, and what is known when it is judged."""

    stamp: int
    """ns, of the observation that it answers."""
    velocity: Vector
    """Of the tool, (3,) m/s in the base frame."""
    gripper: Vector
    """(1,), 0 closed to 1 open."""
    measured: Vector
    """Joint positions (N,) rad at that stamp; finite."""
    measured_stamp: int
    """ns, of the newest joint state."""
    held_gripper: float
    """What the gripper was last told, kept where the action is rejected."""
    goal: Vector | None = None
    """The desired goal, where the policy is given one."""
    newest: Vector | None = None
    """Joint positions (N,) rad of the newest joint state, to hold; None where that is the one measured."""
    waited: float = 0.0
    """s on a steady clock since the action came."""
    yaw_velocity: float = 0.0
    """Of the tool about the vertical, rad/s; 0 keeps its heading."""


@dataclass(frozen=True)
class Command:
    """What goes to the controllers: joint positions (N,) rad and the gripper, 0 closed to 1 open."""

    positions: Vector
    gripper: float
    codes: tuple[Code, ...]
    """Every intervention, in the order of the checks; empty where there was none."""
    detail: str = ""

    @property
    def code(self) -> Code:
        """The first intervention."""
        return self.codes[0] if self.codes else Code.OK
