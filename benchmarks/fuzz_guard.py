"""Does any bad command reach the controllers?

Random bad commands of every kind go, as bytes, through the code that the `arm_guard` node runs. What comes out is
judged by a checker of its own: forward kinematics from the numbers in the URDF, the limits written there, and PyBullet
for collisions. `leaked` counts commands that are not finite, that move the arm for a message that had to be rejected,
or that break a limit. `commands` counts the bad ones; good ones in between keep the arm moving.

    python benchmarks/fuzz_guard.py [--quick] [--commands N] [--seed S]
"""

import argparse
import csv
import json
import math
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pybullet
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from rl_ros.contract import Contract
from rl_ros.episodes import messages
from rl_ros.robots.arm import Arm
from rl_ros.robots.sentry import Answer, Sentry, Watch
from rl_ros.robots.verdict import Code, Command, Limits

QUICK, FULL = 5_000, 100_000
ROUND = 250
"""Bad commands until the arm is put somewhere else, as for a new episode."""
SLACK = 0.003
"""m by which a straight line in the joints may leave a straight line of the tool within one control period."""
STILL = 0.02
"""rad from the measured positions, at most, that count as holding them."""
RESULTS = Path(__file__).parent / "results" / "fuzz_guard.csv"
RUNS = Path(__file__).parents[1] / "runs"
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Joint:
    """A joint as the URDF has it: rotation (3, 3) and offset (3,) of its frame in the link before."""

    name: str
    moves: bool
    rotation: Array
    offset: Array
    lower: float
    upper: float
    velocity: float


def numbers(text: str | None) -> Array:
    """Three numbers of a URDF attribute; zeros where it is absent, which is what a URDF means by that."""
    return np.array([float(each) for each in text.split()]) if text else np.zeros(3)


def turned(rpy: Array) -> Array:
    """Rotation (3, 3) of roll, pitch and yaw about fixed axes."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy), np.sin(rpy)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


class Checker:
    """Judges commands by the URDF alone; shares no code with the guard."""

    def __init__(self, urdf: Path, limits: Limits, period: float) -> None:
        self.limits, self.period = limits, period
        tree = ElementTree.parse(urdf)
        self.chain: list[Joint] = []
        parents = {joint.find("child").get("link"): joint for joint in tree.iter("joint")}  # type: ignore[union-attr]
        link = "panda_hand_tcp"
        while link in parents:
            self.chain.insert(0, self.joint(parents[link]))
            link = parents[link].find("parent").get("link")  # type: ignore[union-attr, assignment]
        moving = [joint for joint in self.chain if joint.moves]
        self.lower = np.array([joint.lower for joint in moving]) + limits.joint_margin
        self.upper = np.array([joint.upper for joint in moving]) - limits.joint_margin
        self.speed = np.array([joint.velocity for joint in moving]) * limits.joint_speed_share
        self.low, self.high = np.array(limits.workspace_low), np.array(limits.workspace_high)
        self.acceleration, self.jerk = np.array(limits.joint_acceleration), np.array(limits.joint_jerk)
        self.client = pybullet.connect(pybullet.DIRECT)
        flags = pybullet.URDF_USE_SELF_COLLISION | pybullet.URDF_USE_SELF_COLLISION_INCLUDE_PARENT
        self.body = pybullet.loadURDF(str(urdf), useFixedBase=True, flags=flags, physicsClientId=self.client)
        half = [2.0, 2.0, 0.5]
        shape = pybullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=half, physicsClientId=self.client)
        self.table = pybullet.createMultiBody(
            0.0, shape, basePosition=[0.0, 0.0, limits.table_height - half[2]], physicsClientId=self.client
        )
        count = pybullet.getNumJoints(self.body, physicsClientId=self.client)
        info = [pybullet.getJointInfo(self.body, each, physicsClientId=self.client) for each in range(count)]
        self.joints = [each[0] for each in info if each[1].decode() in {joint.name for joint in moving}]
        # Links by the number of moving arm joints before them: shapes of the same or the next one belong together.
        self.rank = {-1: 0}
        for each in info:
            self.rank[each[0]] = self.rank[each[16]] + (each[0] in self.joints)

    @staticmethod
    def joint(element: ElementTree.Element) -> Joint:
        """Read one joint."""
        origin, limit = element.find("origin"), element.find("limit")
        place = (lambda name: numbers(origin.get(name))) if origin is not None else (lambda name: np.zeros(3))
        bound = (lambda name: float(limit.get(name))) if limit is not None else (lambda name: math.nan)  # type: ignore[arg-type]
        moves = element.get("type") == "revolute"
        if moves and numbers(element.find("axis").get("xyz")).tolist() != [0.0, 0.0, 1.0]:  # type: ignore[union-attr]
            raise ValueError("the checker expects joints that turn about z")
        name = str(element.get("name"))
        return Joint(name, moves, turned(place("rpy")), place("xyz"), bound("lower"), bound("upper"), bound("velocity"))

    def tool(self, positions: Array) -> Array:
        """Where the tool is, (3,) m."""
        rotation, offset, angles = np.eye(3), np.zeros(3), iter(positions)
        for joint in self.chain:
            offset = offset + rotation @ joint.offset
            rotation = rotation @ joint.rotation
            if joint.moves:
                rotation = rotation @ turned(np.array([0.0, 0.0, next(angles)]))
        return offset

    def outside(self, tool: Array) -> Array:
        """m beyond the workspace, along each axis."""
        return np.maximum(np.maximum(self.low - tool, tool - self.high), 0.0)

    def touches(self, positions: Array) -> bool:
        """Whether the arm touches itself or the table."""
        for joint, angle in zip(self.joints, positions, strict=True):
            pybullet.resetJointState(self.body, joint, angle, physicsClientId=self.client)
        pybullet.performCollisionDetection(physicsClientId=self.client)
        for contact in pybullet.getContactPoints(self.body, physicsClientId=self.client):
            first, other, second, distance = self.rank[contact[3]], contact[2], contact[4], contact[8]
            if distance >= 0:
                continue
            if other == self.table and first >= 2:
                return True
            if other == self.body and abs(first - self.rank[second]) >= 2:
                return True
        return False

    def broken(self, stamp: int, given: Array, measured: Array, before: "Before | None") -> str:
        """The limit that a command breaks; empty where there is none."""
        velocity = (given - measured) / self.period
        if (np.abs(velocity) > self.speed * (1 + 1e-9)).any():
            return "joint speed"
        beyond = (given < np.minimum(self.lower, measured) - 1e-9) | (given > np.maximum(self.upper, measured) + 1e-9)
        if beyond.any():
            return "joint position"
        now, then = self.tool(given), self.tool(measured)
        if (np.abs(now - then) > self.limits.speed * self.period + SLACK).any():
            return "tool speed"
        if (self.outside(now) > np.maximum(self.outside(then), 1e-3) + 1e-9).any():
            return "workspace"
        if before is not None and (reason := self.too_sudden(stamp, velocity, measured, before)):
            return reason
        if self.touches(given) and not self.touches(measured):
            return "collision"
        return ""

    def too_sudden(self, stamp: int, velocity: Array, measured: Array, before: "Before") -> str:
        """Acceleration and jerk against the last command, or, if the arm did not follow it, against its motion."""
        seen = (measured - before.measured) / ((stamp - before.stamp) * 1e-9)
        change = self.acceleration * self.period * (1 + 1e-6) + 1e-6
        sudden = (np.abs(velocity - before.velocity) > change) & (np.abs(velocity - seen) > change)
        if sudden.any():
            # Allowed is to brake hard next to a border of the workspace, at a joint's limit, or when too fast.
            braked = (np.abs(velocity) <= np.abs(before.velocity) + 1e-9) | (np.abs(velocity) <= np.abs(seen) + 1e-9)
            ahead, step = measured + before.velocity * self.period, self.limits.speed * self.period
            tool, now = self.tool(ahead), self.tool(measured)
            border = (now < self.low + step).any() or (now > self.high - step).any()
            stop = (ahead < self.lower).any() or (ahead > self.upper).any()
            fast = np.abs(tool - now).max() > step
            return "" if braked[sudden].all() and (border or stop or fast) else "acceleration"
        jolt = np.abs((velocity - before.velocity) / self.period - before.acceleration) / self.period
        return "jerk" if (jolt > self.jerk * (1 + 1e-6)).any() else ""


@dataclass
class Before:
    """The last command that was no hold."""

    stamp: int
    measured: Array
    velocity: Array
    acceleration: Array


class Bench:
    """One sentry, an arm that follows its commands more or less, and the checker."""

    def __init__(self, name: str, arm: Arm, limits: Limits, rng: np.random.Generator) -> None:
        self.contract, self.arm, self.rng = Contract.load(name), arm, rng
        self.period, self.tick = self.contract.period, self.contract.period_ns
        watch = Watch(joint_state_age=0.15, watchdog=0.2, burst=3, heartbeat=0.0, patient=False, frozen=1e6)
        self.now, self.stamp = 0.0, 1_000_000_000
        self.sentry = Sentry(self.contract, arm, limits, watch, self.now)
        self.checker = Checker(arm.urdf, limits, self.period)
        self.leaks: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.judged: list[float] = []
        command = self.sentry.guard.command
        self.sentry.guard.command = lambda request: self.timed(command, request)  # type: ignore[method-assign, assignment]
        self.goal = np.array([0.5, 0.0, 0.2]) if self.contract.goal.policy_input else None
        self.restart()

    def timed(self, command: Callable[..., Command], request: object) -> Command:
        """A call of Guard.command, and how long it took."""
        began = time.perf_counter()
        given = command(request)
        self.judged.append(time.perf_counter() - began)
        return given

    def restart(self) -> None:
        """The arm is somewhere else, at rest."""
        self.place(self.rng.uniform([0.35, -0.25, 0.03], [0.65, 0.25, 0.40]))

    def place(self, position: Array) -> None:
        """The tool is there, (3,) m, straight down, and an episode begins."""
        rotation = self.arm.down(self.rng.uniform(-0.5, 0.5))
        self.target, error = self.arm.inverse(self.arm.home, position, rotation, iterations=200)
        assert error < 1e-3, f"{position.tolist()} is out of reach"
        self.measured = self.target
        self.history: dict[int, Array] = {}
        """What was measured, by stamp."""
        self.before: Before | None = None
        self.sentry.restart()
        self.advance()

    def advance(self, share: float = 1.0) -> None:
        """One control period: the arm goes a share of the way to its target."""
        self.now, self.stamp = self.now + self.period, self.stamp + self.tick
        self.measured = self.measured + share * (self.target - self.measured)
        self.joints(self.measured)
        if self.goal is not None:
            self.send(self.contract.goal.desired_goal.topic, self.vector(("x", "y", "z"), self.goal))

    def joints(self, positions: Array) -> None:
        """Joint states as they are measured."""
        cdr = messages.joint_state_cdr(self.stamp, self.arm.joint_names, positions)
        if np.isfinite(positions).all() and positions is self.measured:
            self.history[self.stamp] = positions
        self.heed(self.sentry.on_joints(cdr, self.now), False)

    def vector(self, names: tuple[str, ...], values: object, stamp: int | None = None) -> bytes:
        """A named vector."""
        return messages.joint_state_cdr(self.stamp if stamp is None else stamp, names, values)  # type: ignore[arg-type]

    def send(self, topic: str, cdr: bytes, rejected: bool = False) -> None:
        """One message to the sentry; `rejected`: it must not move the arm."""
        began = time.perf_counter()
        answers = self.sentry.on_message(topic, cdr, self.now)
        self.seconds.append(time.perf_counter() - began)
        self.heed(answers, rejected)

    def act(self, velocity: object, gripper: object = (1.0,), stamp: int | None = None, rejected: bool = False) -> None:
        """A whole action."""
        stamp = self.stamp if stamp is None else stamp
        self.send("/policy/action", messages.twist_cdr(stamp, self.contract.frame, velocity), rejected)  # type: ignore[arg-type]
        if "gripper" in self.contract.action:
            self.send("/policy/gripper", self.vector(("gripper",), gripper, stamp), rejected)

    def heed(self, answers: list[Answer], rejected: bool) -> None:
        """Judge what would go to the controllers, and obey it."""
        for stamp, command in answers:
            self.codes[command.code.value] += 1
            given, still = (
                command.positions,
                self.before is not None and self.stamp - self.before.stamp > 1.5 * self.tick,
            )
            reason = ""
            if not (np.isfinite(given).all() and math.isfinite(command.gripper) and 0.0 <= command.gripper <= 1.0):
                reason = "not finite"
            elif command.code.rejected or rejected:
                reason = "" if np.abs(given - self.measured).max() <= STILL else "moves although rejected"
                self.before = None
            else:
                measured = self.history[max(each for each in self.history if each <= stamp)]
                reason = self.checker.broken(stamp, given, measured, None if still else self.before)
                last = np.zeros(7) if still or self.before is None else self.before.velocity
                velocity = (given - measured) / self.period
                self.before = Before(stamp, measured, velocity, (velocity - last) / self.period)
            if reason:
                self.leaks[f"{reason} ({command.code.value})"] += 1
            self.target = given


LIMIT = 0.3
"""m/s, the contract's."""
FOLDED_LOW, FOLDED_HIGH = (0.10, -0.05, 0.78), (0.16, 0.05, 0.83)
"""m, where the hand is next to the arm."""


def fuzz(bench: Bench, kind: str) -> int:
    """One bad command of that kind, or a few; how many."""
    rng, tick, stamp = bench.rng, bench.tick, bench.stamp
    usual = rng.uniform(-LIMIT, LIMIT, 3)
    gripper = "gripper" in bench.contract.action
    if kind in ("nan", "inf"):
        wrong = float(rng.choice([math.nan] if kind == "nan" else [math.inf, -math.inf]))
        if gripper and rng.random() < 0.3:
            bench.act(usual, [wrong], rejected=True)
        else:
            usual[rng.integers(0, 3)] = wrong
            bench.act(usual, rejected=True)
    elif kind == "huge":
        bench.act(rng.normal(size=3) * 10.0 ** rng.uniform(0, 300), [10.0 ** rng.uniform(0, 300)])
    elif kind == "denormal":
        bench.act(rng.choice([5e-324, -5e-324, 1e-310, -0.0], 3), [5e-324])
    elif kind == "truncated":
        cdr = messages.twist_cdr(stamp, bench.contract.frame, usual)
        bench.send("/policy/action", cdr[: rng.integers(4, 40)], rejected=True)
        bench.advance()
    elif kind == "noise":
        noisy = bytearray(messages.twist_cdr(stamp, bench.contract.frame, usual))
        for _ in range(rng.integers(1, 8)):
            noisy[rng.integers(4, len(noisy))] = rng.integers(0, 256)
        bench.send("/policy/action", bytes(noisy))
        if gripper:
            bench.send("/policy/gripper", bench.vector(("gripper",), [1.0], messages.stamp_of(bytes(noisy))))
    elif kind == "wrong names":
        names = tuple(rng.permutation(["claw", "griper", "panda_joint1", ""])[: rng.integers(0, 3)].tolist())
        bench.send("/policy/action", messages.twist_cdr(stamp, bench.contract.frame, usual))
        bench.send("/policy/gripper", bench.vector(names, np.ones(len(names))), rejected=True)
    elif kind == "wrong size":
        bench.send("/policy/action", messages.twist_cdr(stamp, bench.contract.frame, usual))
        count = int(rng.choice([0, 2, 3, 50]))
        bench.send("/policy/gripper", bench.vector(("gripper",), np.ones(count)), rejected=True)
    elif kind == "permuted names":
        others = [f"other{each}" for each in range(3)]
        names = tuple(rng.permutation(["gripper", *others]).tolist())
        values = [rng.uniform(-1, 2) if name == "gripper" else rng.choice([math.nan, 1e9, 0.0]) for name in names]
        bench.send("/policy/action", messages.twist_cdr(stamp, bench.contract.frame, usual))
        bench.send("/policy/gripper", bench.vector(names, values))
    elif kind == "stale":
        for _ in range(5):
            bench.advance(0.5)
        bench.act(usual, stamp=bench.stamp - int(rng.uniform(2.01, 4.9) * tick), rejected=True)
    elif kind == "future":
        bench.act(usual, stamp=stamp + tick + int(10 ** rng.uniform(0, 17)), rejected=True)
    elif kind == "replayed":
        bench.act(usual)
        bench.act(rng.uniform(-LIMIT, LIMIT, 3), stamp=stamp - int(rng.choice([0, 1, tick // 2])), rejected=True)
    elif kind == "burst":
        count = int(rng.integers(5, 12))
        for each in range(count):
            late = stamp - tick + 1 + each * (tick // 13)
            bench.act(rng.uniform(-LIMIT, LIMIT, 3), stamp=late, rejected=each > 3)
        return count
    elif kind == "too often":
        bench.act(usual)
        bench.now, bench.stamp = bench.now + bench.period / 10, stamp + tick // 10
        bench.joints(bench.measured)
        bench.act(usual, rejected=bench.sentry.guard.accepted == stamp)
    elif kind == "outwards":
        tool = bench.checker.tool(bench.measured)
        middle = (bench.checker.low + bench.checker.high) / 2
        for _ in range(3):
            bench.act(3.0 * LIMIT * np.sign(tool - middle))
            bench.advance()
        return 3
    elif kind == "jerk":
        for sign in (1.0, -1.0, 1.0, -1.0):
            bench.act(sign * LIMIT * rng.choice([-1.0, 1.0], 3))
            bench.advance(rng.uniform(0.3, 1.0))
        return 4
    elif kind == "into the table":
        for _ in range(3):
            bench.act([0.0, 0.0, -LIMIT])
            bench.advance()
        return 3
    elif kind == "into itself":
        bench.place(rng.uniform(FOLDED_LOW, FOLDED_HIGH))
        for _ in range(5):
            bench.act([-LIMIT, 0.0, rng.uniform(-LIMIT, LIMIT)])
            bench.advance()
        return 5
    elif kind == "goal invalid":
        bench.goal = np.array([0.5, math.nan, 0.2])
        bench.advance()
        bench.act(usual, rejected=True)
        bench.goal = np.array([0.5, 0.0, 0.2])
    elif kind == "second publisher":
        bench.heed(bench.sentry.on_publishers({"/policy/action": 2}), True)
        bench.act(usual, rejected=True)
        bench.sentry.on_publishers({"/policy/action": 1})
    elif kind == "stopped":
        bench.heed(bench.sentry.stop(Code.EMERGENCY_STOP, "pressed"), True)
        bench.act(usual, rejected=True)
        bench.sentry.rearm(bench.now)
    elif kind == "blind":
        bench.now += 0.3
        bench.heed(bench.sentry.on_time(bench.now), True)
        bench.act(usual, stamp=stamp + 1, rejected=True)
    elif kind == "broken encoder":
        broken = bench.measured.copy()
        broken[rng.integers(0, 7)] = rng.choice([math.nan, math.inf, 1e9, 12.0])
        bench.stamp += 1
        bench.joints(broken)
        bench.act(usual, stamp=bench.stamp)
    return 1


ALWAYS = ["nan", "inf", "huge", "denormal", "truncated", "noise", "stale", "future", "replayed", "burst", "too often"]
ALWAYS += [
    "outwards",
    "jerk",
    "into the table",
    "into itself",
    "second publisher",
    "stopped",
    "blind",
    "broken encoder",
]
WITH_GRIPPER = ["wrong names", "wrong size", "permuted names"]
WITH_GOAL = ["goal invalid"]
WITH_ROOM = ["into itself"]


def main() -> None:
    """Run, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK} commands instead of {FULL}, not kept in results/"
    )
    parser.add_argument("--commands", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    wanted = arguments.commands or (QUICK if arguments.quick else FULL)
    np.seterr(over="ignore")  # huge numbers become infinite as float32, which is what is to be seen
    rng, arm = np.random.default_rng(arguments.seed), Arm()
    shipped = Limits.shipped(ramp=0.0)
    # The table and the arm itself are out of reach of the shipped workspace.
    wide = Limits.shipped(ramp=0.5, workspace_low=(-0.5, -0.7, -0.2), workspace_high=(0.8, 0.7, 1.0))
    benches = [Bench("lift", arm, shipped, rng), Bench("lift", arm, wide, rng), Bench("reach", arm, shipped, rng)]
    done: Counter[str] = Counter()
    leaked: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    turn = 0
    while done.total() < wanted:
        bench = benches[turn % len(benches)]
        turn += 1
        bench.restart()
        kinds = [*ALWAYS, *(WITH_GRIPPER if "gripper" in bench.contract.action else WITH_GOAL)]
        kinds += WITH_ROOM if bench is benches[1] else []
        until = min(done.total() + ROUND, wanted)
        while done.total() < until:
            kind = str(rng.choice(kinds))
            leaks = bench.leaks.copy()
            for _ in range(rng.integers(0, 3)):
                bench.act(rng.uniform(-LIMIT, LIMIT, 3))
                bench.advance(rng.choice([1.0, rng.uniform(0.5, 1.0), 0.0], p=[0.6, 0.35, 0.05]))
            done[kind] += fuzz(bench, kind)
            bench.advance(rng.uniform(0.8, 1.0))
            if new := bench.leaks - leaks:
                leaked[kind] += new.total()
                reasons.update({f"{kind}: {reason}": count for reason, count in new.items()})
    report(benches, done, leaked, reasons, RUNS / RESULTS.name if arguments.quick else RESULTS)


def report(
    benches: list[Bench], done: Counter[str], leaked: Counter[str], reasons: Counter[str], results: Path
) -> None:
    """Print the figures, and keep them in `results`."""
    results.parent.mkdir(exist_ok=True)
    table = Table("bad command", "tried", "leaked", title="What reached the controllers")
    with results.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["kind", "commands", "leaked"])
        for kind in sorted(done):
            rows.writerow([kind, done[kind], leaked[kind]])
            table.add_row(kind, str(done[kind]), str(leaked[kind]))
    codes = sum((bench.codes for bench in benches), Counter())
    answers = Table("answer", "times", title="What the guard said")
    for code, times in codes.most_common():
        answers.add_row(code, str(times))
    Console().print(table, answers)
    for reason, count in reasons.most_common():
        print(f"LEAKED {count:>6}  {reason}")
    judged = np.array([each for bench in benches for each in bench.judged]) * 1e6
    messages_taken = np.array([each for bench in benches for each in bench.seconds]) * 1e6
    figures = {
        "commands": done.total(),
        "leaked": leaked.total(),
        "answers": codes.total(),
        "rejected": sum(codes[code.value] for code in Code if code.rejected),
        "guard_p50_us": round(float(np.median(judged)), 1),
        "guard_p99_us": round(float(np.percentile(judged, 99)), 1),
        "message_p50_us": round(float(np.median(messages_taken)), 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
