"""Bin grasping: take anything out of a tray, as QT-Opt does (Kalashnikov et al. 2018, 1806.10293, section 5), or the
thing that a picture shows.

An episode has two parts. In the first the policy moves the hand until it says `terminate`, or until its ticks are
over. Then a routine checks the grasp, as on a real robot: it lifts the hand out of the tray and opens it. Something was
grasped if the fingers were apart although told to close, and the camera sees something fall back into the tray.
Both parts are ticks like any other, so that recordings hold what the check has seen.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rl_ros.episodes.decisions import FALL
from rl_ros.episodes.distance import same_thing
from rl_ros.tasks.task import Expert, Judgement, Values

if TYPE_CHECKING:
    from rl_ros.robots.bin import Bin

VELOCITY, YAW, GRIPPER, TERMINATE = slice(0, 3), 3, 4, 5
"""Where the parts of an action are."""
SPEED, YAW_SPEED = 0.4, 2.5
"""m/s along each axis and rad/s, the contract's limits."""
PERIOD = 0.2
"""s, the contract's."""
LONGEST = 20
"""Ticks of the first part, at most."""
STEP_COST = 0.02
"""What each tick before the last costs."""
CEILING = 0.25
"""m: no policy lifts the hand higher."""
PRESENT = (0.57, 0.045, 0.31)
"""m, where the check holds the hand: over the tray, and where the camera sees what it holds."""
PRESENT_YAW = 0.59
"""rad, its heading then: the fingers beside each other as the camera sees them."""
ALIGNED = 0.15
"""rad from there that will do."""
TURNING = 8
"""Ticks of the check that the hand has to turn, at most; it waits below `HIGH` for that. A wrist at its limit gives up.
"""
CLEAR = 0.12
"""m: a hand above this is out of the tray."""
HIGH = 0.29
"""m: a hand above this is being checked."""
LIFTED = 0.15
"""m: something whose centre is higher, in the simulator's truth, was lifted."""
APART = 0.003
"""m between closed fingers, at least, where there is something between them."""
HELD = 2
"""Ticks with the hand up before it opens."""
VIEW = (4, 24, 14, 16)
"""Top, left, height and width, in pixels, of where the camera sees it."""
CHANGED = 25
"""Of 255, by which a colour of a pixel differs that has changed."""
CHANGED_PIXELS = 5
"""Changed pixels at least, where something has fallen."""


class GraspCheck:
    """Success from what a robot sees: fingers that are kept apart, and the picture before and after they open."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget the episode before."""
        self.shown: Values | None = None
        """What there was to see before the hand opened."""
        self._high = 0
        """Ticks since the hand came up."""
        self.pixels = 0
        """Pixels that changed in the last check."""

    def see(self, values: Values) -> bool | None:
        """Whether something was grasped; None as long as that is not known."""
        if self._high or values["tool_position"][2] > HIGH:
            self._high += 1
        if self._high == HELD:
            self.shown = values
        if self.shown is None or self._high < HELD + FALL:
            return None
        self.pixels = changed_pixels(self.shown["image"], values["image"])
        return gap(self.shown) > APART and self.pixels >= CHANGED_PIXELS


def gap(values: Values) -> float:
    """m between the fingers."""
    return float(values["finger_position"].sum())


def changed_pixels(before: np.ndarray, after: np.ndarray) -> int:
    """How many pixels of two pictures, uint8 (height, width, 3), differ clearly in some colour."""
    difference = np.abs(before.astype(np.int16) - after.astype(np.int16)).max(axis=-1)
    return int((difference > CHANGED).sum())


class GraspRoutine:
    """Both parts of an episode: what a policy chooses, until the grasp is to be checked, then the check.

    One routine serves one episode at a time; `begin` starts another.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """An episode begins."""
        self.ticks = 0
        """Of the first part, so far."""
        self.checking = False
        self._rising = self._present = 0

    def act(self, values: Values, choose: Callable[[], np.ndarray]) -> np.ndarray:
        """The action, float32 (6,), in the units of the contract; `choose` is asked in the first part only."""
        if self.checking:
            return self._check(values)
        self.ticks += 1
        action = np.array(choose(), np.float32)
        if action[TERMINATE] > 0.5 or self.ticks >= LONGEST:
            self.checking = True
            return np.array([0.0, 0.0, 0.0, 0.0, 0.0, 1.0], np.float32)
        action[2] = min(action[2], max(0.0, (CEILING - float(values["tool_position"][2])) / PERIOD))
        return action

    def _check(self, values: Values) -> np.ndarray:
        error = np.array(PRESENT) - values["tool_position"]
        # Not half a turn from there, which is beyond what the wrist can do.
        turn = PRESENT_YAW - yaw_of(values["tool_orientation"])
        velocity = np.zeros(3)
        if values["tool_position"][2] <= HIGH and not self._present:
            self._rising += 1
            # Out of the tray first, then to where it is seen.
            if values["tool_position"][2] < CLEAR:
                error[:2] = 0.0
            if self._rising > TURNING:
                turn = 0.0
            elif abs(turn) > ALIGNED:
                error[2] = min(error[2], HIGH - 0.03 - values["tool_position"][2])
            velocity = np.clip(error / PERIOD, -SPEED, SPEED)
            turn = float(np.clip(turn / PERIOD, -YAW_SPEED, YAW_SPEED))
        else:
            self._present += 1
            turn = 0.0
        opening = 1.0 if self._present >= HELD else 0.0
        return np.array([*velocity, turn, opening, 1.0], np.float32)


class Grasp:
    """Observations hold `image`, `tool_position`, `tool_orientation` and `finger_position`.

    Rewards depend on what was seen before in the episode: `begin` starts another.
    """

    name: ClassVar[str] = "grasp"
    ends_with_success: ClassVar[bool] = True
    expert_needs: ClassVar[tuple[str, ...]] = ("objects_position", "objects_heading")

    def __init__(self) -> None:
        self.check = GraspCheck()

    def begin(self) -> None:
        """An episode begins."""
        self.check.begin()

    def routine(self) -> GraspRoutine:
        """See `GraspRoutine`."""
        return GraspRoutine()

    def goal_pose(self, seed: int) -> np.ndarray:
        """Above the tray's middle, at the height that counts as lifted."""
        return np.array([*PRESENT[:2], LIFTED])

    def goal_vector(self, position: np.ndarray) -> np.ndarray:
        """The height alone, float32 (1,) m."""
        return np.array([position[2]], np.float32)

    def judge(self, values: Values, desired_goal: np.ndarray) -> Judgement:
        """1 and success where the check has found something, and then the episode is over either way.

        Before that each tick costs a little.
        """
        grasped = self.check.see(values)
        if grasped is None:
            return Judgement(-STEP_COST, False)
        return Judgement(float(grasped), grasped, over=True)

    def expert(self, noise: float) -> Expert:
        """An explorer that grasps in about four of ten episodes at noise 1."""
        return Explorer(noise)


class GraspImage(Grasp):
    """Grasp the thing that a picture shows, held up as the check does. Observations also hold `latent`.

    Whether it was the right thing is judged as on a robot: by the latents of the picture and of what was held up.
    """

    name: ClassVar[str] = "grasp_image"

    def wanted(self, seed: int, things: int) -> int:
        """Which of the things in the tray the picture of the episode with this seed shows."""
        return int(np.random.default_rng([seed, 0x60A1]).integers(things))

    def arrange(self, world: "Bin", seed: int) -> None:
        """Arrange the world as it is in the picture."""
        world.reset(seed)
        world.hold_up(self.wanted(seed, len(world.shapes)), PRESENT, PRESENT_YAW, float(np.mean(Explorer.DEPTH)))

    def judge(self, values: Values, desired_goal: np.ndarray) -> Judgement:
        """As `Grasp.judge`; another thing than the one that was shown is worth no more than none."""
        judgement = super().judge(values, desired_goal)
        if judgement.success:
            assert self.check.shown is not None
            right = same_thing(self.check.shown["latent"], desired_goal)
            return Judgement(float(right), bool(right), over=True)
        return judgement


def lifted(tool_position: np.ndarray, objects_position: np.ndarray) -> np.ndarray:
    """The simulator's truth: which things were as high as they must be just before the hand opened, bool (n,).

    Args:
        tool_position: (T, 3) m, of an episode.
        objects_position: (T, 3n) m.
    """
    high = np.flatnonzero(tool_position[:, 2] > HIGH)
    if len(high) < HELD:
        return np.zeros(objects_position.shape[1] // 3, bool)
    return np.asarray(objects_position[high[HELD - 1], 2::3] > LIFTED)


class Explorer:
    """Scripted grasps with errors, so that what works and what does not are both in the recordings.

    It chooses one of the things, believes it to be a little elsewhere and turned a little, comes down over it, closes
    and lifts. Its errors are drawn once an episode; some ticks of an episode are random moves. A robot without a
    simulator's truth would be sent to random places instead.
    """

    GAIN = 4.0
    """1/s, from a position error to a velocity; with ticks of 0.2 s, four fifths of the way in one."""
    SLOPE = 2.0
    """m of height for each m of horizontal error beyond the tolerance."""
    TOLERANCE = 0.012
    """m from the believed place within which it comes down."""
    TURN_TOLERANCE = 0.25
    """rad of the same kind."""
    DEPTH = (0.012, 0.02)
    """m, range of heights to close the fingers at."""

    def __init__(self, noise: float) -> None:
        self.noise = noise
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Draw the episode's errors."""
        rng = self._rng = np.random.default_rng([seed, 0xE4])
        noise = self.noise
        self._chosen = int(rng.integers(2**31))
        self._error = noise * rng.normal(0.0, 0.015, 2)
        self._turn_error = noise * rng.normal(0.0, 0.3) if rng.random() > 0.25 * noise else rng.uniform(-1.6, 1.6)
        self._depth = rng.uniform(*self.DEPTH) if rng.random() > 0.15 * noise else rng.uniform(0.03, 0.09)
        self._restless = rng.random() < 0.35 * noise
        self._lift = rng.uniform(0.10, 0.18) if rng.random() > 0.2 * noise else rng.uniform(0.0, 0.1)
        self._closing = 0

    def act(self, values: Values, desired_goal: np.ndarray) -> np.ndarray:
        """See `Expert.act`."""
        rng = self._rng
        tool = values["tool_position"].astype(np.float64)
        things = values["objects_position"].reshape(-1, 3).astype(np.float64)
        number = self._chosen % len(things)
        velocity, turn, opening = np.zeros(3), 0.0, 1.0
        if self._closing == 0:
            error = things[number, :2] + self._error - tool[:2]
            heading = float(values["objects_heading"][number]) + self._turn_error
            # Fingers open along the tool's y: at yaw 0 that is the world's y, a heading of pi/2.
            turn_error = _half_turn(heading - np.pi / 2 - yaw_of(values["tool_orientation"]))
            away = float(np.linalg.norm(error))
            above = self.SLOPE * max(0.0, away - self.TOLERANCE)
            above = max(above, 0.06 * (abs(turn_error) > self.TURN_TOLERANCE))
            height = min(self._depth + above, max(0.12, tool[2]))
            velocity = self.GAIN * np.array([*error, height - tool[2]])
            turn = self.GAIN * turn_error
            if tool[2] < self._depth + 0.006 and away < 2 * self.TOLERANCE:
                self._closing = 1
        if self._closing:
            opening = 0.0
            self._closing += 1
            # The fingers need a tick or two to close.
            velocity = np.array([0.0, 0.0, SPEED if self._closing > 3 else 0.0])
            turn = 0.0
        terminate = self._closing > 3 and tool[2] > self._lift
        terminate = terminate or rng.random() < 0.02 * self.noise
        velocity = velocity + self.noise * rng.normal(0.0, 0.03, 3)
        turn = turn + self.noise * rng.normal(0.0, 0.2)
        if self._restless and rng.random() < 0.3:
            velocity, turn = rng.uniform(-SPEED, SPEED, 3), rng.uniform(-YAW_SPEED, YAW_SPEED)
            opening = opening if rng.random() < 0.7 else 1.0 - opening
        velocity = np.clip(velocity, -SPEED, SPEED)
        return np.array([*velocity, np.clip(turn, -YAW_SPEED, YAW_SPEED), opening, float(terminate)], np.float32)


def yaw_of(orientation: np.ndarray) -> float:
    """Heading, rad, of a tool that points down, from its quaternion x, y, z, w (4,); see `Arm.down`."""
    x, y, z, w = (float(value) for value in orientation)
    return float(np.arctan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z)))


def _half_turn(angle: float) -> float:
    """The same for a hand that is alike after half a turn: -pi/2 to pi/2."""
    return float((angle + np.pi / 2) % np.pi - np.pi / 2)
