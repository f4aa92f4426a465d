"""Does the arm stop when something goes wrong, how soon, and does the bag say why?

One graph runs in real time over Fast DDS, each node in a process of its own; a policy bundle moves the arm on a circle.
Each fault is injected while the arm moves, at a random moment of a control period. `detected by` is the first code that
the guard gives afterwards. The reaction is the time from the fault until the guard says that it holds the arm still, in
control periods, by one clock: the fault and the guard's answer pass through the same process. Two periods later the arm
itself must be at rest, by the velocities that it measures, and stay there until the fault is over. Afterwards the
episode's bag is read, and the reason must be in it. Of a bundle that must not run, passing means that it is refused
with a reason that is in the bag, and that the arm goes on moving meanwhile without any intervention.

    python benchmarks/faults.py [--quick] [--rate HZ] [--only NAME...] [--seed N]
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from crash import ros_environment
from live_graph import Rig, circling_bundle, restamped
from rich.console import Console
from rich.progress import track
from rich.table import Table

from rl_ros.bringup import clean_shared_memory
from rl_ros.contract import Contract
from rl_ros.episodes import messages
from rl_ros.episodes.bags import find_bags, read_bag
from rl_ros.nodes.spin import ros
from rl_ros.robots.verdict import Code
from rl_ros.training.bundle import DESCRIPTION, POLICY

BAR = 2.0
"""Control periods."""
LASTS = 0.6
"""s that a fault lasts, at least, for the arm to be seen at rest."""
STILL = 0.05
"""rad/s of the fastest joint that count as rest."""
SETTLE = 2.0
"""Control periods more than the bar after which the arm itself must be at rest: it brakes, and swings out."""
THINKING = 400_000
"""Steps that the policy thinks for when it hangs; about a second."""
CONTRACT = "pick_and_place_image"
QUICK = ("SIGSTOP", "NaN in the action", "torn bundle", "camera unplugged", "clock stops", "emergency stop")
ACTION, JOINTS, CAMERA, CLOCK, GOAL = "/policy/action", "/joint_states", "/camera/image_raw", "/clock", "/goal/latent"
GRIPPER = "/policy/gripper"
SENSORS = (JOINTS, CAMERA, CLOCK, "/tool/pose", "/tool/twist", "/object/pose")
Undo = Callable[[], Any]


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    name: str
    inject: Callable[[Rig], Undo | None]
    codes: tuple[str, ...]
    """What the guard may say first."""
    told: str = ""
    """What must be on /diagnostics in the bag, beside the guard's reason."""
    refused: str = ""
    """Part of the sentence with which a bundle is refused; the arm goes on."""


@dataclass
class Outcome:
    """What came of one fault."""

    fault: Fault
    episode: int
    detected: str = "nothing"
    periods: float = float("inf")
    at_rest: float = float("inf")
    """Control periods until the arm's joints were slow for good."""
    in_bag: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """In time, at rest, and explained."""
        return not self.problems


def filtered(change: Callable[[bytes], list[bytes]], *topics: str) -> Callable[[Rig], Undo]:
    """A fault on wires: what each message of some topics becomes."""

    def inject(rig: Rig) -> Undo:
        for topic in topics:
            rig.filters[topic] = change
        return lambda: [rig.filters.pop(topic) for topic in topics]

    return inject


def drop(cdr: bytes) -> list[bytes]:
    """Nothing arrives."""
    return []


def velocity(value: float) -> Callable[[bytes], list[bytes]]:
    """An action with this number in it."""
    return lambda cdr: [messages.twist_cdr(messages.stamp_of(cdr), "panda_link0", [0.0, value, 0.0])]


def joints(change: Callable[[list[str], np.ndarray], tuple[list[str], np.ndarray]]) -> Callable[[bytes], list[bytes]]:
    """Joint states with other names or positions."""

    def changed(cdr: bytes) -> list[bytes]:
        state = messages.decode("sensor_msgs/msg/JointState", cdr)
        names, positions = change(list(state.name), np.array(state.position))
        zeros = np.zeros(len(names))
        return [messages.joint_state_cdr(messages.stamp_of(cdr), names, positions, zeros, zeros)]

    return changed


def frozen_encoders(rig: Rig) -> Undo:
    """The positions of this moment, with new stamps."""
    then = np.array(messages.decode("sensor_msgs/msg/JointState", rig.last[JOINTS]).position)
    return filtered(joints(lambda names, positions: (names, then)), JOINTS)(rig)


def frozen_camera(rig: Rig) -> Undo:
    """The picture of this moment, with new stamps."""
    then = rig.last[CAMERA]
    return filtered(lambda cdr: [then[:4] + cdr[4:12] + then[12:]], CAMERA)(rig)


def clock_stops(rig: Rig) -> Undo:
    """Everything goes on, with the stamps of this moment."""
    stamp = rig.last[JOINTS][4:12]
    return filtered(lambda cdr: [cdr[:4] + stamp + cdr[12:]], *SENSORS)(rig)


def hang(rig: Rig) -> Undo:
    """The policy thinks for about a second about a goal far away."""
    names = rig.contract.goal.desired_goal.names
    times = iter(range(10**9))

    def far_once(cdr: bytes) -> list[bytes]:
        far = [1000.0] * len(names)
        return [messages.joint_state_cdr(messages.stamp_of(cdr), names, far)] if next(times) == 0 else [cdr]

    return filtered(far_once, GOAL)(rig)


def stopped(rig: Rig) -> Undo:
    """The process stands still, and goes on afterwards."""
    rig.signal("policy", signal.SIGSTOP)
    return partial(rig.signal, "policy", signal.SIGCONT)


def killed(rig: Rig) -> Undo:
    """The process is gone; another one is started afterwards."""
    rig.signal("policy", signal.SIGKILL)
    return partial(rig.supervisor.restart, "policy")


def burst(rig: Rig) -> Undo:
    """Each action twenty times, each with a stamp of its own."""
    return filtered(lambda cdr: [restamped(cdr, number) for number in range(20)], ACTION)(rig)


def replayed(rig: Rig) -> Undo:
    """The action of this moment again and again."""
    then = rig.last[ACTION]
    return filtered(lambda cdr: [then], ACTION)(rig)


def silent_operator(rig: Rig) -> Undo:
    """Nobody is there."""
    rig.beating = False
    return partial(setattr, rig, "beating", True)


def pressed(rig: Rig) -> None:
    """The emergency stop."""
    rig.press_stop()


def full_disk(rig: Rig) -> Undo:
    """A file that takes all but the reserve."""
    path = rig.bags.parent / "ballast"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    os.posix_fallocate(descriptor, 0, 2 * HEADROOM)
    os.close(descriptor)
    return path.unlink


HEADROOM = 4 << 30
"""Bytes free beyond the recorder's reserve when the graph starts."""


def bundles(work: Path, contract: Contract) -> dict[str, Path]:
    """Bundles that must not run, by what is wrong with them."""
    good = work / "bundle"
    torn, wider, changed = work / "torn", work / "wider", work / "changed"
    shutil.copytree(good, torn)
    (torn / POLICY).write_bytes((good / POLICY).read_bytes()[:-1000])
    limits = contract.to_yaml().replace("-0.4", "-0.5")
    circling_bundle(wider, Contract.from_yaml(limits, "a wider contract"))
    # Another policy with hashes that are right: only its answer to the sample gives it away.
    shutil.copytree(good, changed)
    circling_bundle(work / "donor", contract, centre=(0.5, 0.1, 0.3))
    shutil.copy(work / "donor" / POLICY, changed / POLICY)
    description = json.loads((changed / DESCRIPTION).read_text())
    description["sha256"][POLICY] = hashlib.sha256((changed / POLICY).read_bytes()).hexdigest()
    (changed / DESCRIPTION).write_text(json.dumps(description))
    return {"torn": torn, "wider": wider, "changed": changed, "nowhere": work / "nowhere"}


def faults(bad: dict[str, Path], period: float) -> list[Fault]:
    """All of them."""
    nanoseconds = 1_000_000_000
    late: list[bytes] = []

    def delayed(cdr: bytes) -> list[bytes]:
        late.append(cdr)
        return [late.pop(0)] if len(late) > 6 else []

    def other_names(names: list[str], positions: np.ndarray) -> tuple[list[str], np.ndarray]:
        return [f"elbow_{name}" for name in names], positions

    def permuted(names: list[str], positions: np.ndarray) -> tuple[list[str], np.ndarray]:
        return names, np.concatenate([np.roll(positions[:7], 1), positions[7:]])

    def not_numbers(names: list[str], positions: np.ndarray) -> tuple[list[str], np.ndarray]:
        return names, np.full_like(positions, np.nan)

    def no_goal(cdr: bytes) -> list[bytes]:
        state = messages.decode("sensor_msgs/msg/JointState", cdr)
        return [messages.joint_state_cdr(messages.stamp_of(cdr), list(state.name), [np.nan] * len(state.name))]

    def wrong_gripper(cdr: bytes) -> list[bytes]:
        return [messages.joint_state_cdr(messages.stamp_of(cdr), ["thumb"], [1.0])]

    def another_policy(rig: Rig) -> Undo:
        return rig.stranger(ACTION, "geometry_msgs/msg/TwistStamped")

    def another_guard(rig: Rig) -> Undo:
        return rig.stranger("/arm_controller/joint_trajectory", "trajectory_msgs/msg/JointTrajectory")

    stale = filtered(lambda cdr: [restamped(cdr, -nanoseconds // 2)], ACTION, GRIPPER)
    future = filtered(lambda cdr: [restamped(cdr, nanoseconds)], ACTION, GRIPPER)
    back = filtered(lambda cdr: [restamped(cdr, -nanoseconds)], *SENSORS)
    ahead = filtered(lambda cdr: [restamped(cdr, 5 * nanoseconds)], *SENSORS)
    silent, invalid = ("joint_states_stale", "watchdog"), ("joint_state_invalid",)
    blind = ("no_action", "watchdog")
    goal = (*blind, "goal_missing", "goal_invalid", "incomplete")
    return [
        Fault("policy hangs", hang, ("watchdog",)),
        Fault("policy stopped (SIGSTOP)", stopped, ("watchdog",)),
        Fault("policy killed (SIGKILL)", killed, ("watchdog",)),
        Fault("policy says nothing", filtered(drop, ACTION, GRIPPER), ("watchdog",)),
        Fault("NaN in the action", filtered(velocity(np.nan), ACTION), ("not_finite",)),
        Fault("infinity in the action", filtered(velocity(np.inf), ACTION), ("not_finite",)),
        Fault("action cut short", filtered(lambda cdr: [cdr[:24]], ACTION), ("malformed",)),
        Fault("wrong name in the action", filtered(wrong_gripper, GRIPPER), ("malformed",)),
        Fault("half of the action missing", filtered(drop, GRIPPER), ("incomplete", "watchdog")),
        Fault("stale stamps", stale, ("stale_action", "replayed_action")),
        Fault("future stamps", future, ("future_action",)),
        Fault("actions six periods late", filtered(delayed, ACTION), ("watchdog", "stale_action", "incomplete")),
        Fault("old action replayed", replayed, ("replayed_action",)),
        Fault("burst of actions", burst, ("burst", "too_often")),
        Fault("second policy", another_policy, ("second_publisher",)),
        Fault("stranger at the controller", another_guard, ("second_publisher",)),
        Fault("joint states stop", filtered(drop, JOINTS), silent),
        Fault("joint states of another arm", filtered(joints(other_names), JOINTS), invalid),
        Fault("joint positions permuted", filtered(joints(permuted), JOINTS), invalid),
        Fault("NaN in joint states", filtered(joints(not_numbers), JOINTS), invalid),
        Fault("encoders frozen", frozen_encoders, ("joint_states_frozen",)),
        Fault("clock stops", clock_stops, (*silent, "too_often")),
        Fault("clock jumps back", back, ("clock_jump",)),
        Fault("clock jumps ahead", ahead, ("clock_jump",)),
        Fault("camera frozen", frozen_camera, blind, told="image: frozen"),
        Fault("camera unplugged", filtered(drop, CAMERA), ("watchdog",), told=f"nothing recent on {CAMERA}"),
        Fault("picture cut short", filtered(lambda cdr: [cdr[:-100]], CAMERA), blind, told="image: "),
        Fault("goal lost", filtered(drop, GOAL), goal, told=f"nothing recent on {GOAL}"),
        Fault("goal not finite", filtered(no_goal, GOAL), goal, told="desired_goal: not finite"),
        Fault("emergency stop", pressed, ("emergency_stop",)),
        Fault("operator falls silent", silent_operator, ("heartbeat_lost",)),
        Fault("disk full", full_disk, ("between_episodes",), told="GB left on the disk"),
        Fault("torn bundle", swapped(bad["torn"]), (), refused="damaged"),
        Fault("bundle of another contract", swapped(bad["wider"]), (), refused="trained under another contract"),
        Fault("bundle that answers otherwise", swapped(bad["changed"]), (), refused="does not answer as it did"),
        Fault("bundle that is not there", swapped(bad["nowhere"]), (), refused="no such policy bundle"),
    ]


def swapped(bundle: Path) -> Callable[[Rig], Undo | None]:
    """Ask for a bundle that must not run."""

    def inject(rig: Rig) -> None:
        swapped, reason = rig.swap(bundle)
        assert not swapped, f"{bundle} runs"

    return inject


def run(rig: Rig, fault: Fault, wait: float, period: float) -> Outcome:
    """Inject one fault into an episode of its own, and see what the arm does."""
    while not rig.moves():  # looked at again after the wait: an arm that is held already shows nothing
        rig.wait_until_it_moves()
        time.sleep(wait)
    episode = rig.episode()
    assert episode is not None
    outcome = Outcome(fault, episode)
    rig.hold_resets()
    onset = time.monotonic()
    undo = fault.inject(rig)
    lasts = max(LASTS, (BAR + SETTLE) * period + 0.3)
    rig.until(lambda: time.monotonic() > onset + lasts, "the fault to last")
    over = time.monotonic()
    first = next((h for h in rig.states if h.at > onset and holds(h.what)), None)
    speeds = [(h.at - onset, h.what) for h in rig.speeds if onset < h.at < over]
    if fault.refused:
        outcome.detected = first.what.name if first else "the policy node"
        outcome.problems += ["the arm was held"] if first else []
        outcome.problems += [] if speeds[-1][1] > STILL else ["the arm stands"]
    else:
        judge(outcome, first.at - onset if first else None, first.what.name if first else "", speeds, period)
    ended = any(h.what.name == "end" and h.at > onset for h in rig.events)
    if not ended:
        rig.press_stop()
    rig.until(lambda: any(h.what.name == "end" and h.at > onset for h in rig.events), "the end of the episode")
    if undo:
        undo()
    rig.until(lambda: episode in rig.closed, "the bag")
    rig.rearm()
    rig.release_resets()
    return outcome


def holds(state: messages.Status) -> bool:
    """Whether the guard says that it holds the arm still."""
    return state.level == messages.ERROR or state.name == Code.BETWEEN_EPISODES.value


def judge(outcome: Outcome, seconds: float | None, code: str, speeds: list[tuple[float, float]], period: float) -> None:
    """Of a fault that must stop the arm."""
    if seconds is None:
        outcome.problems.append("not detected")
        return
    outcome.detected, outcome.periods = code, seconds / period
    outcome.at_rest = max(after for after, speed in speeds if speed > STILL) / period
    if outcome.periods > BAR:
        outcome.problems.append("too late")
    if code not in outcome.fault.codes:
        outcome.problems.append(f"expected {' or '.join(outcome.fault.codes)}")
    if outcome.at_rest > BAR + SETTLE:
        outcome.problems.append("the arm still moves")


def read_reasons(bags: Path, outcome: Outcome) -> None:
    """Look for the reason in the bag of the fault's episode."""
    found = [path for path in find_bags(bags) if path.name.startswith(f"episode_{outcome.episode:06d}")]
    if len(found) != 1:
        outcome.problems.append(f"{len(found)} bags")
        return
    bag = read_bag(found[0])
    states = [(m.topic, messages.status_of(m.cdr)) for m in bag if m.topic in ("/arm_guard/state", "/diagnostics")]
    if bag.damage:
        outcome.problems.append(f"bag damaged: {bag.damage}")
    codes = {state.name for topic, state in states if topic == "/arm_guard/state"}
    texts = [f"{state.name}: {state.text}" for topic, state in states if topic == "/diagnostics"]
    wanted = outcome.fault.told or outcome.fault.refused
    told = next((text for text in texts if wanted and wanted in text), "")
    if wanted and not told:
        outcome.problems.append(f"'{wanted}' is not in the bag")
    if not outcome.fault.refused and not wanted and outcome.detected not in codes:
        outcome.problems.append("the guard's reason is not in the bag")
    outcome.in_bag = told or (outcome.detected if outcome.detected in codes else "")


def show(outcomes: list[Outcome], period: float) -> None:
    """A line for each fault."""
    table = Table(title=f"faults in the live graph, control period {period * 1e3:.0f} ms")
    for column in ("fault", "detected by", "reaction (periods)", "at rest after", "reason in the bag", ""):
        table.add_column(column)
    for o in outcomes:
        reaction = "-" if o.fault.refused else f"{o.periods:.2f}"
        rest = "moves on" if o.fault.refused else f"{o.at_rest:.2f}"
        verdict = "[green]passed" if o.passed else f"[red]{'; '.join(o.problems)}"
        table.add_row(o.fault.name, o.detected, reaction, rest, o.in_bag[:70], verdict)
    Console(width=180).print(table)


def main() -> None:
    """Run, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"only: {', '.join(QUICK)}")
    parser.add_argument("--rate", type=float, default=0.0, help="Hz, the control rate; 0 takes the contract's")
    parser.add_argument("--only", nargs="*", default=[], help="faults whose name holds one of these words")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="directory for bags and the log; they are kept")
    arguments = parser.parse_args()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="rl_ros_faults_") as scratch, ros_environment(), ros():
        work = arguments.keep or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        contract = Contract.load(CONTRACT)
        rate = arguments.rate or contract.control_rate
        text = contract.to_yaml().replace(f"control_rate: {contract.control_rate}", f"control_rate: {rate}")
        (work / "contract.yaml").write_text(text)
        contract = Contract.load(str(work / "contract.yaml"))
        good = circling_bundle(work / "bundle", contract, THINKING)
        chosen = faults(bundles(work, contract), contract.period)
        only = arguments.only or (QUICK if arguments.quick else [])
        chosen = [fault for fault in chosen if not only or any(word in fault.name for word in only)]
        moments = random.Random(arguments.seed)
        guard = {"heartbeat": 1.5 * contract.period}
        recorder = {"disk_reserve": (shutil.disk_usage(work).free - HEADROOM) / 1e9}
        with Rig(work, work / "contract.yaml", good, {"seed": str(arguments.seed)}, guard, recorder) as rig:
            for fault in track(chosen, "faults"):
                outcomes.append(run(rig, fault, moments.uniform(0.0, contract.period), contract.period))
        for outcome in outcomes:
            read_reasons(rig.bags, outcome)
    clean_shared_memory()
    show(outcomes, contract.period)
    stopping = [outcome.periods for outcome in outcomes if not outcome.fault.refused]
    figures = {
        "faults": len(outcomes),
        "passed": sum(outcome.passed for outcome in outcomes),
        "worst_periods": round(max(stopping, default=0.0), 2),
        "median_periods": round(float(np.median(stopping)), 2) if stopping else 0.0,
        "period_ms": round(contract.period * 1e3, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
