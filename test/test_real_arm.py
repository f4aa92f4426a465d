"""A real arm, as far as one can be had without hardware: its controllers as they are documented, and the live graph."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from fake_controller import FakeTrajectoryController, Parameters, Point, Trajectory
from helpers import started, wait_for

from rl_ros.contract import ACTORS, Contract
from rl_ros.episodes.bags import find_bags, read_bag
from rl_ros.episodes.cadence import Cadence
from rl_ros.episodes.ingest import read_episodes
from rl_ros.episodes.messages import decode, stamp_of, status_of
from rl_ros.errors import UserError
from rl_ros.graph import load_graph, resolve
from rl_ros.robot import Robot
from rl_ros.robots.arm import Arm, quaternion
from rl_ros.robots.guard import Guard, Request
from rl_ros.robots.homing import Homing
from rl_ros.robots.verdict import Code, Limits
from rl_ros.training.live import run_episodes

SECOND = 1_000_000_000
JOINTS = ("shoulder", "elbow")


def controller(**parameters: float) -> FakeTrajectoryController:
    return FakeTrajectoryController(JOINTS, np.zeros(2), Parameters(**parameters))


def points(*times: float, velocities: tuple[float, ...] = ()) -> tuple[Point, ...]:
    return tuple(Point((0.1 * (i + 1), 0.2), time, velocities) for i, time in enumerate(times))


@pytest.mark.parametrize(
    ("trajectory", "reason"),
    [
        (Trajectory(0.0, (), points(0.1)), "no joint names"),
        (Trajectory(0.0, ("shoulder",), points(0.1)), "1 joints, the controller has 2"),
        (Trajectory(0.0, ("shoulder", "knee"), points(0.1)), "'knee' is none of the controller's joints"),
        (Trajectory(0.0, ("shoulder", "shoulder"), points(0.1)), "named twice"),
        (Trajectory(0.0, JOINTS, ()), "an empty trajectory"),
        (Trajectory(0.0, JOINTS, points(0.2, 0.1)), "not increasing"),
        (Trajectory(0.0, JOINTS, points(0.1, 0.1)), "not increasing"),
        (Trajectory(99.8, JOINTS, points(0.1)), "ends in the past"),
        (Trajectory(0.0, JOINTS, points(0.1, velocities=(0.1, 0.0))), "velocity at the end is not zero"),
        (Trajectory(0.0, JOINTS, (Point((0.1,), 0.1),)), "1 positions for 2 joints"),
    ],
)
def test_the_fake_controller_rejects_what_the_real_one_does(trajectory: Trajectory, reason: str) -> None:
    fake = controller()
    assert not fake.command(trajectory, 100.0)
    assert reason in fake.rejected[0]
    np.testing.assert_array_equal(fake.update(100.05, np.zeros(2)), np.zeros(2))


def test_the_fake_controller_follows_gives_up_and_times_out_as_the_real_one_does() -> None:
    fake = controller()
    assert fake.command(Trajectory(0.0, ("elbow", "shoulder"), (Point((0.2, 0.1), 0.1),)), 10.0)
    np.testing.assert_allclose(fake.update(10.05, np.zeros(2)), [0.05, 0.1])  # a straight line, joints by their names
    np.testing.assert_allclose(fake.update(11.0, np.zeros(2)), [0.1, 0.2])  # and held at its end

    late = controller()
    assert late.command(Trajectory(9.95, JOINTS, points(0.1)), 10.0)  # half of the time is gone: twice as fast
    np.testing.assert_allclose(late.update(10.025, np.zeros(2)), [0.05, 0.1])

    for parameters, when, reason in (
        ({"path_tolerance": 0.05}, 10.09, "path tolerance"),
        ({"goal_tolerance": 0.05, "goal_time": 0.2}, 10.31, "goal tolerance"),
        ({"cmd_timeout": 0.3}, 10.41, "cmd_timeout"),
    ):
        stuck = controller(**parameters)
        stuck.command(Trajectory(0.0, JOINTS, points(0.1)), 10.0)
        np.testing.assert_array_equal(stuck.update(when, np.zeros(2)), np.zeros(2))
        assert reason in stuck.aborted[0]

    chunk = controller(policy_frequency=10.0)
    assert chunk.command(Trajectory(0.0, JOINTS, points(0.0, 0.0, 0.0)), 10.0)  # a chunk without any times
    before, after = chunk.update(10.0999, np.zeros(2)), chunk.update(10.1001, np.zeros(2))
    np.testing.assert_allclose(chunk.reference, [0.1, 0.2], atol=1e-3)
    assert np.abs(after - before).max() > 0  # no stop at the point between


@pytest.mark.parametrize("name", ["panda", "ur5e"])
def test_a_shipped_robot_starts_straight_down_within_its_limits_and_its_guard_moves_it(name: str) -> None:
    arm = Arm(name)
    position, rotation = arm.forward(arm.home)
    np.testing.assert_allclose(position, [0.5, 0.0, 0.23], atol=1e-3)
    np.testing.assert_allclose(rotation, arm.down(), atol=2e-3)
    changed = {"ramp": 0.0, "joint_acceleration": arm.robot.joint_acceleration, "joint_jerk": arm.robot.joint_jerk}
    limits = Limits.of({**vars(Limits.shipped()), **changed}, len(arm.joint_names))
    guard = Guard(arm, limits, 0.1)
    request = Request(SECOND, np.array([0.0, 0.05, 0.0]), np.ones(1), arm.home, SECOND, 1.0)
    command = guard.command(request)
    assert not command.code.rejected
    moved = arm.forward(command.positions)[0] - position
    np.testing.assert_allclose(moved, [0.0, 0.005, 0.0], atol=5e-4)


def test_the_ur5e_is_where_its_published_parameters_say() -> None:
    # Universal Robots, "DH Parameters for calculations of kinematics and dynamics", UR5e; the standard convention.
    a, d = (0.0, -0.425, -0.3922, 0.0, 0.0, 0.0), (0.1625, 0.0, 0.0, 0.1333, 0.0997, 0.0996)
    alpha = (np.pi / 2, 0.0, 0.0, np.pi / 2, -np.pi / 2, 0.0)
    arm, rng = Arm("ur5e"), np.random.default_rng(0)
    for angles in rng.uniform(-3.0, 3.0, (20, 6)):
        pose = np.diag([-1.0, -1.0, 1.0, 1.0])  # base_link is turned by 180 degrees against the controller's base
        for i in range(6):
            ct, st, ca, sa = np.cos(angles[i]), np.sin(angles[i]), np.cos(alpha[i]), np.sin(alpha[i])
            pose = pose @ np.array(
                [
                    [ct, -st * ca, st * sa, a[i] * ct],
                    [st, ct * ca, -ct * sa, a[i] * st],
                    [0.0, sa, ca, d[i]],
                    [0.0, 0.0, 0.0, 1.0],
                ]
            )
        gripper = 0.145
        position, rotation = arm.forward(angles)
        np.testing.assert_allclose(position, pose[:3, 3] + gripper * pose[:3, 2], atol=1e-9)
        np.testing.assert_allclose(rotation, pose[:3, :3], atol=1e-9)


def test_a_rotation_as_a_quaternion() -> None:
    np.testing.assert_allclose(np.abs(quaternion(Arm.down())), [1.0, 0.0, 0.0, 0.0], atol=1e-12)


def homing(arm: Arm) -> Homing:
    return Homing(arm, Limits.shipped(), 0.1, speed=0.5)


def test_the_way_home_is_slow_smooth_and_arrives() -> None:
    arm = Arm()
    way, measured, stamp = homing(arm), arm.home + 0.3, SECOND
    speeds = []
    for _ in range(200):
        if way.arrived(measured):
            break
        target = way.step(stamp, measured)
        assert isinstance(target, np.ndarray)
        speeds.append(float(np.abs(target - measured).max()) / 0.1)
        measured, stamp = target, stamp + SECOND // 10
    assert way.arrived(measured)
    assert max(speeds) < 0.5 * 1.01
    assert speeds[0] < 0.1
    assert np.abs(np.diff(speeds)).max() < 0.15


@pytest.mark.parametrize("jump", [0.15, 0.6, -5.0])
def test_the_way_home_never_leaps_whatever_the_stamps_do(jump: float) -> None:
    """Joint states that were silent for a while, or a clock that was set back."""
    arm = Arm()
    way, measured, stamp, speeds = homing(arm), arm.home + 0.5, 20 * SECOND, []
    for tick in range(400):
        if way.arrived(measured):
            break
        target = way.step(stamp, measured)
        assert target is None or isinstance(target, np.ndarray)
        if target is not None:
            speeds.append(float(np.abs(target - measured).max()) / 0.1)
            measured = target
        stamp += SECOND // 50 + (round(jump * SECOND) if tick == 60 else 0)
    assert way.arrived(measured)
    assert max(speeds) < 0.5 * 1.01


def test_an_arm_that_does_not_follow_or_would_hit_the_table_is_not_brought_home() -> None:
    arm = Arm()
    stuck, reason = homing(arm), None
    for tick in range(40):
        reason = stuck.step(SECOND + tick * SECOND // 10, arm.home + 0.5)
        if isinstance(reason, tuple):
            break
    assert isinstance(reason, tuple) and "does not follow" in reason[1]
    # Straight lines of the joints from here to there lead the hand through the table.
    arm.home = arm.home.copy()
    over, _ = arm.inverse(arm.home, [0.45, 0.3, 0.02], arm.down(), iterations=200)
    through, _ = arm.inverse(arm.home, [0.45, -0.3, -0.03], arm.down(), iterations=200)
    arm.home = through
    below, stamp, measured = homing(arm), SECOND, over
    for _ in range(100):
        target = below.step(stamp, measured)
        if isinstance(target, tuple):
            break
        assert target is not None
        measured, stamp = target, stamp + SECOND // 10
    assert isinstance(target, tuple)
    assert target[0] is Code.TABLE
    assert arm.forward(measured)[0][2] > -0.01


def test_ticks_are_regular_and_never_hurried_after_a_gap() -> None:
    cadence = Cadence(50)
    assert [stamp for stamp in range(0, 401, 4) if cadence.picks(stamp)] == [0, 52, 100, 152, 200, 252, 300, 352, 400]
    late = [0, 50, 139, 150, 160, 180, 200, 210, 250]
    cadence = Cadence(50)
    assert [stamp for stamp in late if cadence.picks(stamp)] == [0, 50, 139, 180, 250]
    assert cadence.picks(3)  # a clock that was set back


def test_the_topics_of_the_drivers_reach_every_node_and_a_dry_run_has_none_of_the_controllers() -> None:
    graph = resolve(load_graph("lift"), {"robot": "real", "bags": "somewhere"})
    names = {node.name: {node.name_of(e) for e in (*node.publishes, *node.subscribes)} for node in graph.nodes}
    topics = Robot.load("panda").topics["real"]
    for node in ("policy", "reward", "recorder"):
        assert topics["/camera/image_raw"] in names[node]
    commands = {topics["controllers/arm"], topics["controllers/gripper"]}
    assert commands <= names["arm_guard"]
    assert [node for node in names if commands & names[node]] == ["arm_guard"]
    dry = resolve(load_graph("lift"), {"robot": "real", "dry_run": "true"})
    assert not any(dry_node.name_of(e) in commands for dry_node in dry.nodes for e in dry_node.publishes)
    with pytest.raises(UserError, match=r"robot:=gazebo: config/robots/ur5e.yaml says no topics for it"):
        resolve(load_graph("reach"), {"robot": "gazebo", "arm": "ur5e"})
    with pytest.raises(UserError, match="lockstep:=true: a real arm does not wait"):
        resolve(load_graph("reach"), {"robot": "real", "lockstep": "true"})


@contextmanager
def fake_arm(robot: str, log: Path) -> Iterator[None]:
    """An arm behind ros2_control; what it was told is in the log."""
    script = Path(__file__).with_name("fake_arm.py")
    with log.open("w") as file, started([sys.executable, str(script), robot], stdout=file):
        assert wait_for(lambda: log.read_text().endswith("\n"), 30), "the fake arm does not start"
        yield


def figures(log: Path) -> dict:
    return json.loads(log.read_text().splitlines()[-1])


def test_preflight_a_dry_run_and_a_short_task_on_a_real_arm(tmp_path: Path) -> None:
    log, dry, bags = tmp_path / "arm.log", tmp_path / "dry", tmp_path / "bags"
    rl_ros = [sys.executable, "-m", "rl_ros.cli"]

    def run(*arguments: str) -> str:
        done = subprocess.run([*rl_ros, *arguments], capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with fake_arm("panda", log):
        checked = run("preflight", "reach", "robot:=real", "--seconds", "1")
        shown = run("up", "reach", "robot:=real", "--dry-run", "episodes:=1", "episode_length:=20", f"bags:={dry}")
        untouched = figures(log)
        arguments = {"robot": "real", "lockstep": "false", "bags": str(bags)}
        results = run_episodes("reach", arguments, 1, tmp_path / "run")
    told = figures(log)
    lines = [json.loads(line) for line in log.read_text().splitlines()]

    # Before anything moves: whatever the graph needs is there, and so is the way of large images.
    assert json.loads(checked.splitlines()[-1])["failure"] == 0

    # A dry run prints the graph, as always, moves nothing, and shows what it would do.
    assert "controllers: False" in shown
    assert "would move the joints by" in shown
    assert untouched["arm"]["accepted"] == untouched["gripper"]["accepted"] == untouched["moved"] == 0
    [path] = find_bags(dry)
    states = [status_of(m.cdr) for m in read_bag(path).read(("/arm_guard/state",))]
    assert {state.values["dry_run"] for state in states} == {"true"}
    commands = [decode(m.type, m.cdr) for m in read_bag(path).read(("/arm_controller/joint_trajectory",))]
    assert len(commands) > 3

    # The arm comes home and does its task, and its controllers find nothing to complain of.
    assert [episode["outcome"] for episode in results.episodes] == ["success"], told
    assert told["moved"] > 0.08  # it was that far from home
    for part in ("arm", "gripper"):
        assert not told[part]["rejected"]
        # None while commands came. Once the task is over the controller notices that nobody commands it any more.
        during = [line for line in lines if line[part]["accepted"] < told[part]["accepted"]]
        assert not during[-1][part]["aborted"]
        assert [reason.split(":")[0] for reason in told[part]["aborted"]] in ([], ["cmd_timeout"])
    [path] = find_bags(bags)
    episodes, refused = read_episodes([path], Contract.load("reach"))
    assert not refused
    policy, ticks = 1 + ACTORS.index("policy"), episodes[0].has_transition
    assert episodes[0].actor is not None
    assert (episodes[0].actor[ticks] == policy).all()
    assert min(told["arm"]["accepted"], told["gripper"]["accepted"]) > ticks.sum()  # and those of coming home
    # What is recorded has the stamp of the observation it answers; the controller was told to begin at once.
    assert all(stamp_of(m.cdr) for m in read_bag(path).read(("/arm_controller/joint_trajectory",)))
