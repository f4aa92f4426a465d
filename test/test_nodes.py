"""Nodes in this process, each driven by a test node over real topics."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
from bench import RELIABLE, Bench, with_parameters
from helpers import START, Raw, episode_messages, small_contract, tick_messages
from rclpy.node import Node as RosNode
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from std_srvs.srv import Trigger

from rl_ros.contract import Contract
from rl_ros.episodes import messages
from rl_ros.episodes.assemble import Tick
from rl_ros.episodes.bags import read_bag
from rl_ros.episodes.record import EpisodeFile
from rl_ros.errors import UserError
from rl_ros.nodes import spin as spin_module
from rl_ros.nodes.arm_guard import ArmGuard
from rl_ros.nodes.base import Polled, message_class
from rl_ros.nodes.episode_manager import EpisodeManager
from rl_ros.nodes.goal_encoder import GoalEncoder
from rl_ros.nodes.policy import Policy
from rl_ros.nodes.recorder import EVENTS, Recorder
from rl_ros.nodes.reward import Reward
from rl_ros.nodes.tool_state import ToolState
from rl_ros.robots.arm import Arm
from rl_ros.robots.verdict import Code
from rl_ros.training.acting import CheckedActor, ExploringActor

SECOND = 1_000_000_000


class GuardBench:
    """An arm_guard with an arm at home that is told what to do."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.arm, self.stamp = bench, Arm(), SECOND
        self.node = ArmGuard()
        bench.add(lambda: self.node)
        self.commands = bench.listen("arm_controller/joint_trajectory", "trajectory_msgs/msg/JointTrajectory")
        self.states = bench.listen("arm_guard/state", "diagnostic_msgs/msg/DiagnosticArray")
        self.joints = bench.sender("joint_states", "sensor_msgs/msg/JointState")
        self.action = bench.sender("/policy/action", "geometry_msgs/msg/TwistStamped")
        self.gripper = bench.sender("/policy/gripper", "sensor_msgs/msg/JointState")
        assert bench.until(lambda: bench.peer.count_publishers("/arm_controller/joint_trajectory") == 1)
        # Discovery: nothing is asserted before a first action has come all the way through.
        assert bench.until(lambda: self.act([0.0, 0.0, 0.0]) and self.commands and self.states)
        self.forget()

    def act(self, velocity: object, gripper: float = 1.0) -> int:
        """The next tick: where the arm is, and an action that answers it; its stamp."""
        self.stamp += SECOND // 10
        self.joints(messages.joint_state_cdr(self.stamp, self.arm.joint_names, self.arm.home))
        self.action(messages.twist_cdr(self.stamp, "panda_link0", velocity))
        self.gripper(messages.joint_state_cdr(self.stamp, ["gripper"], [gripper]))
        return self.stamp

    def forget(self) -> None:
        """Leave out what was told so far."""
        self.bench.until(lambda: False, seconds=0.1)
        self.commands.clear()
        self.states.clear()

    def answered(self, stamp: int) -> np.ndarray:
        """Positions of the command that answers the observation with that stamp."""
        assert self.bench.until(lambda: any(messages.stamp_of(cdr) == stamp for cdr in self.commands))
        [cdr] = [cdr for cdr in self.commands if messages.stamp_of(cdr) == stamp][:1]
        return np.array(messages.decode("trajectory_msgs/msg/JointTrajectory", cdr).points[0].positions)

    def codes(self) -> list[str]:
        """The reasons that were published."""
        return [messages.status_of(cdr).name for cdr in self.states]

    def told(self, code: str) -> str:
        """What was first said with that reason, once it has been."""
        assert self.bench.until(lambda: code in self.codes()), self.codes()
        return messages.status_of(self.states[self.codes().index(code)]).text

    def rearm(self) -> None:
        """Call the service."""
        client = self.bench.peer.create_client(Trigger, "arm_guard/rearm")
        assert self.bench.until(client.service_is_ready)
        answer = client.call_async(Trigger.Request())
        assert self.bench.until(answer.done)
        assert answer.result().success


PATIENT = {
    "contract": "lift",
    "ramp": 0.0,
    "joint_state_age": 5.0,
    "joint_state_frozen": 1e6,
    "watchdog": 5.0,
    "action_age": 5.0,
    "burst": 50,
}
"""A busy machine is no fault in the tests that are not about time."""


@pytest.fixture
def guard(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> GuardBench:
    with_parameters(monkeypatch, **PATIENT)
    return GuardBench(bench)


def test_the_guard_passes_a_good_action_with_its_stamp(guard: GuardBench) -> None:
    moved = guard.answered(guard.act([0.0, 0.1, 0.0]))
    step = guard.arm.forward(moved)[0] - guard.arm.forward(guard.arm.home)[0]
    np.testing.assert_allclose(step, [0.0, 0.01, 0.0], atol=1e-4)


def test_the_guard_holds_still_on_nan_and_says_why(guard: GuardBench) -> None:
    np.testing.assert_allclose(guard.answered(guard.act([0.0, np.nan, 0.0])), guard.arm.home)
    assert guard.bench.until(lambda: guard.codes()[-1:] == ["not_finite"])


def test_joint_states_that_are_none_do_not_end_the_guard(guard: GuardBench) -> None:
    guard.joints(messages.joint_state_cdr(guard.stamp + 1, ["elbow"], [0.0]))
    assert guard.bench.until(lambda: guard.codes()[-1:] == ["joint_state_invalid"])
    assert np.abs(guard.answered(guard.act([0.1, 0.0, 0.0])) - guard.arm.home).max() > 1e-3


def test_the_watchdog_needs_no_ros_clock(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing publishes /clock here, so ROS time stands still for a node with use_sim_time.
    with_parameters(monkeypatch, **{**PATIENT, "watchdog": 0.3})
    guard = GuardBench(bench)
    stamp = guard.act([0.0, 0.0, 0.1])
    guard.answered(stamp)
    assert bench.until(lambda: guard.codes()[-1:] == ["watchdog"], seconds=5.0)
    last = messages.decode("trajectory_msgs/msg/JointTrajectory", guard.commands[-1])
    np.testing.assert_allclose(last.points[0].positions, guard.arm.home)


def test_an_emergency_stop_holds_until_it_is_rearmed(guard: GuardBench) -> None:
    stop = guard.bench.sender("emergency_stop", "std_msgs/msg/Bool")
    stop(messages.encode("std_msgs/msg/Bool", messages.message("std_msgs/msg/Bool", data=True)))
    assert guard.bench.until(lambda: guard.codes()[-1:] == ["emergency_stop"])
    np.testing.assert_allclose(guard.answered(guard.act([0.1, 0.0, 0.0])), guard.arm.home)
    guard.rearm()
    assert np.abs(guard.answered(guard.act([0.1, 0.0, 0.0])) - guard.arm.home).max() > 1e-3


def test_a_stop_is_in_the_state_until_it_is_over(guard: GuardBench) -> None:
    """So that nobody loses patience with an arm that a person has stopped."""
    stop = guard.bench.sender("emergency_stop", "std_msgs/msg/Bool")
    stop(messages.encode("std_msgs/msg/Bool", messages.message("std_msgs/msg/Bool", data=True)))
    assert guard.bench.until(lambda: guard.codes()[-1:] == ["emergency_stop"])
    assert "call arm_guard/rearm" in messages.status_of(guard.states[-1]).values["stopped"]
    guard.rearm()
    assert guard.bench.until(lambda: guard.codes()[-1:] == ["ok"])
    assert "stopped" not in messages.status_of(guard.states[-1]).values


def test_what_a_running_guard_would_not_heed_cannot_be_set(guard: GuardBench) -> None:
    [result] = guard.node.set_parameters([Parameter("speed", value=0.05)])
    assert not result.successful
    assert "read-only" in result.reason
    assert guard.node.get_parameter("speed").value == guard.node.settings["speed"]


def test_a_hand_opens_at_home_and_a_stop_leaves_it_open(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with_parameters(monkeypatch, **PATIENT, brings_home=True, controllers=True)
    guard = GuardBench(bench)
    hand = bench.listen("gripper_controller/joint_trajectory", "trajectory_msgs/msg/JointTrajectory")
    done = bench.listen("episode/reset_done", "sensor_msgs/msg/JointState")
    reset = bench.sender("episode/reset", "sensor_msgs/msg/JointState")

    def told() -> list[float]:
        return [messages.decode("trajectory_msgs/msg/JointTrajectory", cdr).points[0].positions[0] for cdr in hand]

    def measured(away: float) -> None:
        guard.stamp += SECOND // 10
        guard.joints(messages.joint_state_cdr(guard.stamp, guard.arm.joint_names, guard.arm.home + away))

    assert bench.until(lambda: guard.answered(guard.act([0.0, 0.0, 0.0], gripper=0.0)) is not None and told())
    assert bench.until(lambda: told()[-1] == 0.0)  # the episode ends with something in the hand
    reset(messages.joint_state_cdr(0, ["episode", "seed"], [1, 1]))
    assert bench.until(lambda: guard.node.resetting == 1)
    hand.clear()
    measured(0.05)
    assert bench.until(lambda: told() == [0.0])  # on the way it keeps it
    measured(0.0)
    assert bench.until(lambda: told() == [0.0, 0.04])
    assert not done  # it is given time to open
    guard.node.give(guard.node.sentry.stop(Code.EMERGENCY_STOP, "a person says so"))
    assert bench.until(lambda: told() == [0.0, 0.04, 0.04])
    guard.rearm()
    hand.clear()
    for _ in range(10):
        assert not done
        measured(0.0)
    assert bench.until(lambda: done)
    assert len(told()) >= 9  # without a pause: controllers give up on silence
    assert messages.decode("sensor_msgs/msg/JointState", done[0]).position[0] == 1


def test_a_guard_that_fails_itself_holds_the_arm_says_so_and_ends(guard: GuardBench) -> None:
    guard.node.sentry.on_message = lambda *arguments: 1 / 0  # type: ignore[assignment]
    guard.act([0.1, 0.0, 0.0])
    assert guard.bench.until(lambda: guard.codes()[-1:] == ["guard_failed"])
    assert guard.node.exit_code == 1
    held = messages.decode("trajectory_msgs/msg/JointTrajectory", guard.commands[-1])
    np.testing.assert_allclose(held.points[0].positions, guard.arm.home)


def test_an_operator_who_falls_silent_stops_the_arm(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with_parameters(monkeypatch, **{**PATIENT, "heartbeat": 0.5})
    bench.add(ArmGuard)
    states = bench.listen("arm_guard/state", "diagnostic_msgs/msg/DiagnosticArray")
    joints = bench.sender("joint_states", "sensor_msgs/msg/JointState")
    beat = bench.sender("operator/heartbeat", "std_msgs/msg/Empty")
    assert bench.until(lambda: beat(b"\x00\x01\x00\x00\x00") or bench.peer.count_publishers("arm_guard/state"))
    joints(messages.joint_state_cdr(SECOND, Arm().joint_names, Arm().home))
    assert bench.until(lambda: states)
    said = messages.status_of(states[-1])
    assert (said.name, said.values["heartbeat"]) == ("heartbeat_lost", "0.5 s")


def test_a_second_policy_stops_the_arm(guard: GuardBench) -> None:
    topic, kind = "/policy/action", message_class("geometry_msgs/msg/TwistStamped")
    other = guard.bench.peer.create_publisher(kind, topic, RELIABLE)
    assert "2 publishers on /policy/action" in guard.told("second_publisher")
    np.testing.assert_allclose(guard.answered(guard.act([0.1, 0.0, 0.0])), guard.arm.home)
    guard.bench.peer.destroy_publisher(other)
    assert guard.bench.until(lambda: not guard.node.sentry.intruders)
    assert np.abs(guard.answered(guard.act([0.1, 0.0, 0.0])) - guard.arm.home).max() > 1e-3


def test_a_stranger_at_the_controllers_stops_the_arm(guard: GuardBench) -> None:
    kind = message_class("trajectory_msgs/msg/JointTrajectory")
    guard.bench.peer.create_publisher(kind, "arm_controller/joint_trajectory", RELIABLE)
    assert "2 publishers on /arm_controller/joint_trajectory" in guard.told("second_publisher")


def test_a_check_that_is_turned_off_is_told_at_the_start_and_in_every_state(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with_parameters(monkeypatch, **{**PATIENT, "disabled_checks": "acceleration table"})
    guard = GuardBench(bench)
    said = capfd.readouterr().err
    assert "turned off by disabled_checks: acceleration, table" in said
    assert "heartbeat is off" in said
    guard.act([9.0, 0.0, 0.0])
    assert bench.until(lambda: guard.states)
    state = messages.status_of(guard.states[-1])
    assert state.values == {
        "interventions": "speed_limited",
        "disabled_checks": "acceleration table",
        "heartbeat": "off",
    }
    assert state.level == messages.WARN


def test_every_episode_begins_with_the_state(guard: GuardBench) -> None:
    """So that each bag tells what was turned off."""
    events = guard.bench.sender("episode/event", "diagnostic_msgs/msg/DiagnosticArray")
    guard.answered(guard.act([0.0, 0.0, 0.0]))
    assert not guard.states  # nothing new
    events(messages.status_cdr(0, "prepare", "", {"episode": "1", "seed": "1"}))
    assert guard.bench.until(lambda: guard.node.said is None)
    guard.act([0.0, 0.0, 0.0])
    assert guard.bench.until(lambda: guard.codes() == ["between_episodes", "ok"])


def test_a_goal_becomes_the_desired_goal_with_its_stamp(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with_parameters(monkeypatch, contract="lift")
    bench.add(GoalEncoder)
    heard = bench.listen("/goal/latent", "sensor_msgs/msg/JointState")
    send = bench.sender("goal/pose", "geometry_msgs/msg/PoseStamped")
    start = bench.sender("episode/event", STATUS)
    start(messages.status_cdr(6 * SECOND, "start", "", {"episode": "0", "seed": "0"}))
    assert bench.until(lambda: bench.peer.count_publishers("/goal/latent") == 1)
    assert bench.until(lambda: send(messages.pose_cdr(7 * SECOND, "panda_link0", [0.5, 0.0, 0.1])) or heard)
    goal = messages.value(Contract.load("lift").goal.desired_goal, heard[0])
    np.testing.assert_allclose(goal, [0.1], atol=1e-6)
    assert messages.stamp_of(heard[0]) == 7 * SECOND


def test_of_pictures_between_episodes_only_the_newest_wait_for_a_goal(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_parameters(monkeypatch, contract="reach")
    node, answered = bench.add(GoalEncoder), []
    assert isinstance(node, GoalEncoder)
    monkeypatch.setattr(node, "tell", answered.append)
    for first in (100, 0):  # s; the clock goes back
        node.on_event(messages.status_cdr(0, "prepare", "", {"episode": "0"}))
        for second in range(first, first + 10):
            node.on_tick(messages.pose_cdr(second * SECOND, "panda_link0", [0.5, 0.0, 0.1]))
    told = {"episode": "0", "seed": "0", "goal": "[0.5, 0.0, 0.1]"}
    node.on_event(messages.status_cdr(5 * SECOND, "start", "", told))
    assert answered == [7 * SECOND, 8 * SECOND, 9 * SECOND]


def test_others_who_have_nothing_to_say_do_not_end_an_episode(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """`/diagnostics` is every driver's topic, and one without a status is a legal message there."""
    with_parameters(monkeypatch, contract="lift")
    node = bench.add(EpisodeManager)
    assert isinstance(node, EpisodeManager)
    say = bench.sender("diagnostics", STATUS)
    say(messages.encode(STATUS, messages.message(STATUS, header=messages.header(5), status=[])))
    say(messages.status_cdr(6, "camera_driver", "no camera", {}, messages.ERROR))
    assert bench.until(lambda: node.problems == {"camera_driver": "no camera"})
    assert not node.failed


@pytest.mark.parametrize("velocities", [(), (float("nan"),) * 7])
def test_a_driver_that_tells_no_velocities_still_tells_where_the_tool_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], velocities: tuple[float, ...]
) -> None:
    with_parameters(monkeypatch, contract="lift")
    bench.add(ToolState)
    poses = bench.listen("tool/pose", "geometry_msgs/msg/PoseStamped")
    twists = bench.listen("tool/twist", "geometry_msgs/msg/TwistStamped")
    joints, arm = bench.sender("joint_states", "sensor_msgs/msg/JointState"), Arm()
    assert bench.until(lambda: bench.peer.count_publishers("tool/pose") == 1)
    for tick in range(1, 4):
        joints(messages.joint_state_cdr(tick * SECOND, arm.joint_names, arm.home, velocities))
    assert bench.until(lambda: poses)
    assert not twists
    assert capfd.readouterr().err.count("so there is no /tool/twist") == 1


def test_an_episode_is_as_long_as_it_should_be_though_its_first_observations_are_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine may take a second to tell all nodes that an episode has begun."""
    with_parameters(monkeypatch, contract="reach", episode_length=3)
    bench.add(Reward)
    contract = Contract.load("reach")
    heard = bench.listen("/reward", "sensor_msgs/msg/JointState")
    event = bench.sender("episode/event", STATUS)
    pose = bench.sender("/tool/pose", "geometry_msgs/msg/PoseStamped")
    twist = bench.sender("/tool/twist", "geometry_msgs/msg/TwistStamped")
    goal = bench.sender("/goal/latent", "sensor_msgs/msg/JointState")
    assert bench.until(lambda: bench.peer.count_publishers("/reward") == 1)
    event(messages.status_cdr(SECOND, "start", "", {"episode": "0", "seed": "0"}))
    for tick in range(4):
        stamp = 2 * SECOND + tick * contract.period_ns
        pose(messages.pose_cdr(stamp, contract.frame, [0.5, 0.0, 0.3]))
        twist(messages.twist_cdr(stamp, contract.frame, [0.0, 0.0, 0.0]))
        goal(messages.joint_state_cdr(stamp, ["x", "y", "z"], [0.4, 0.2, 0.2]))
    assert bench.until(lambda: len(heard) == 4)
    judged = [messages.decode("sensor_msgs/msg/JointState", cdr) for cdr in heard]
    truncated = [dict(zip(each.name, each.position, strict=True))["truncated"] for each in judged]
    assert truncated == [0.0, 0.0, 0.0, 1.0]


def test_a_policy_that_does_not_fit_is_refused_and_the_old_one_stays(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_parameters(monkeypatch, contract="lift")
    node = bench.add(Policy)
    assert isinstance(node, Policy)
    before = node.actor
    [result] = node.set_parameters([Parameter("bundle", value="/nowhere/bundle")])
    assert not result.successful
    assert "no such policy bundle" in result.reason
    assert node.actor is before


class Still:
    """An actor that does nothing."""

    name, privileged = "policy", False

    def __init__(self, frame: str = "") -> None:
        self.frame = frame

    def reset(self, seed: int) -> None: ...

    def succeed(self, other: object, seed: int) -> None: ...

    def act(self, tick: Tick) -> np.ndarray:
        return np.array([0.0, 0.0, 0.0, 1.0], np.float32)


def test_an_actor_that_is_swapped_in_goes_on_with_what_the_other_began() -> None:
    """Its errors are not those from the beginning again, and a check of what was grasped does not begin anew."""
    contract = Contract.load("lift")

    class Check:
        ticks = 0

        def begin(self) -> None:
            self.ticks = 0

        def act(self, values: object, proposed: Callable[[], np.ndarray]) -> np.ndarray:
            self.ticks += 1
            return np.append(proposed(), np.float32(self.ticks))

    def made() -> CheckedActor:
        return CheckedActor(ExploringActor(Still(), contract, 0.5), Check())

    def acted(swaps: bool) -> np.ndarray:
        actor, found = made(), []
        actor.reset(3)
        for tick in range(20):
            if swaps and tick == 12:
                before, actor = actor, made()
                actor.succeed(before, 3)
            found.append(actor.act(Tick(0)))
        return np.stack(found)

    np.testing.assert_array_equal(acted(True), acted(False))


def test_goals_of_another_encoder_are_not_taken_and_a_policy_that_needs_it_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the latents of what the camera sees are no observation."""
    with_parameters(monkeypatch, contract="grasp_image")
    node = bench.add(Policy)
    assert isinstance(node, Policy)
    heard = bench.listen("diagnostics", STATUS)
    assert bench.until(lambda: node.sender("diagnostics").get_subscription_count() > 0)
    goal = node.contract.goal.desired_goal

    def said(text: str) -> bool:
        return any(text in messages.status_of(cdr).text for cdr in heard)

    node.actor = Still("encoder/aaaa")
    node.hear(goal.topic, messages.joint_state_cdr(1, goal.names, np.zeros(goal.shape), frame="encoder/bbbb"))
    assert bench.until(lambda: said("latents are of encoder/bbbb, the policy was trained with encoder/aaaa"))
    for frame, accepted in (("encoder/cccc", False), ("encoder/bbbb", True)):
        monkeypatch.setattr(node, "make_actor", lambda bundle, frame=frame: Still(frame))
        [result] = node.set_parameters([Parameter("bundle", value="runs/other/bundle")])
        assert result.successful is accepted
    assert node.actor.frame == "encoder/bbbb"


def test_exploring_actions_differ_within_limits_and_follow_from_the_seed() -> None:
    contract = Contract.load("lift")

    def actions(seed: int, share: float = 0.3) -> np.ndarray:
        actor = ExploringActor(Still(), contract, share)
        actor.reset(seed)
        return np.stack([actor.act(Tick(0)) for _ in range(400)])

    found = actions(1)
    assert found.dtype == np.float32
    assert (found >= contract.action_low).all()
    assert (found <= contract.action_high).all()
    assert set(found[:, 3]) == {0.0, 1.0}  # the gripper is open or closed, never between
    assert 0.05 < (found[:, 3] == 0.0).mean() < 0.25  # half of the random ones
    np.testing.assert_array_equal(found, actions(1))
    assert (found != actions(2)).any()
    assert actions(1, 1.0)[:, :3].std() > 2 * actions(1, 0.1)[:, :3].std()


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"contract": "nothing"}, "no contract is named 'nothing'"),
        ({}, "contract: must be given"),
        ({"contract": "lift", "watchdog": -1.0}, "watchdog: expected at least 0"),
        ({"contract": "lift", "watchdgo": 1.0}, "no such parameter: watchdgo"),
    ],
)
def test_wrong_parameters_are_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, parameters: dict[str, object], sentence: str
) -> None:
    with_parameters(monkeypatch, **parameters)
    with pytest.raises(UserError, match=sentence):
        ArmGuard()


STATUS = "diagnostic_msgs/msg/DiagnosticArray"
TICKS = 20


class RecorderBench:
    """A recorder of the small contract, and everything it listens to."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self.bench, self.contract, self.bags = bench, small_contract(), directory / "bags"
        (directory / "small.yaml").write_text(self.contract.to_yaml())
        with_parameters(monkeypatch, contract=str(directory / "small.yaml"), directory=str(self.bags))
        self.states = self.listen("recorder/state", STATUS)
        self.acknowledged = self.listen("episode/acknowledge", "sensor_msgs/msg/JointState")
        self.diagnostics = bench.listen("diagnostics", STATUS)

    def listen(self, topic: str, message_type: str) -> list[bytes]:
        heard: list[bytes] = []
        self.bench.peer.create_subscription(message_class(message_type), topic, heard.append, RELIABLE, raw=True)
        return heard

    def start(self, past: Publisher | None = None) -> Recorder:
        """The recorder, recording episode 3; `past` has published events already."""
        node = self.bench.add(Recorder)
        assert isinstance(node, Recorder)
        self.senders = {t: self.bench.sender(t, r.type) for t, r in self.contract.recorded_topics().items()}
        self.events = past.publish if past else self.bench.sender(EVENTS, STATUS)
        self.say("prepare", 0)
        assert self.bench.until(lambda: self.acknowledged)
        self.say("start", START)
        assert self.bench.until(lambda: (self.bags / "episode_000003.unfinished").exists())
        return node

    def say(self, event: str, stamp: int) -> None:
        values = {"episode": "3", "seed": "0", "outcome": "success"}
        self.events(messages.status_cdr(stamp, event, "", values))

    def send(self, raw: list[Raw]) -> None:
        """Send messages, a few at a time so that no queue runs over."""
        for number, (topic, _, cdr) in enumerate(raw):
            self.senders[topic](cdr)
            if number % 20 == 0:
                self.bench.executor.spin_once(timeout_sec=0.02)

    def ticks(self, ticks: range) -> list[Raw]:
        return [raw for tick in ticks for raw in tick_messages(self.contract, tick, 1000)]

    def closed(self) -> messages.Status:
        """What is said of the bag when it is closed."""
        assert self.bench.until(lambda: any(messages.status_of(s).name == "bag" for s in self.states))
        return messages.status_of(self.states[-1])


@pytest.fixture
def recorder(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RecorderBench]:
    made = RecorderBench(bench, monkeypatch, tmp_path)
    yield made
    for node in bench.nodes:
        if isinstance(node, Recorder):
            node.close()


def test_a_sound_recording_is_told_in_numbers(recorder: RecorderBench) -> None:
    recorder.start()
    raw = recorder.ticks(range(TICKS))
    recorder.send(raw)
    recorder.say("end", raw[-1][1])
    state = recorder.closed()
    assert (state.level, state.text) == (messages.OK, "complete")
    assert (state.values["episode"], state.values["lost"]) == ("3", "0")
    told = json.loads(state.values["topics"])
    assert told["/joint_states"] == {"count": TICKS, "rate": 10.0, "worst_gap": 0.1, "lost": 0}
    assert json.loads(read_bag(recorder.bags / "episode_000003").outcome["topics"]) == told


def test_no_episode_begins_on_a_full_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_parameters(monkeypatch, contract="lift", directory=str(tmp_path), disk_reserve=1e9)
    diagnostics = bench.listen("diagnostics", STATUS)
    node = bench.add(Recorder)
    events = bench.sender(EVENTS, STATUS)
    events(messages.status_cdr(0, "prepare", "", {"episode": "0", "seed": "0"}))
    assert bench.until(lambda: any("GB left on the disk" in messages.status_of(cdr).text for cdr in diagnostics))
    assert node.preparing == 0  # still
    node.close()


def test_a_message_that_did_not_arrive_is_counted_and_an_error(recorder: RecorderBench) -> None:
    node = recorder.start()
    take, taken = node.sources["/tool/pose"], []

    def lossy() -> Polled | None:
        message = take()
        taken.append(message)
        return take() if message is not None and len([m for m in taken if m]) == 4 else message

    node.sources["/tool/pose"] = lossy
    raw = recorder.ticks(range(TICKS))
    recorder.send(raw)
    recorder.say("end", raw[-1][1])
    state = recorder.closed()
    assert (state.level, state.values["lost"]) == (messages.ERROR, "1")
    assert "lost: 1 on /tool/pose" in state.text
    assert json.loads(read_bag(recorder.bags / "episode_000003").outcome["topics"])["/tool/pose"]["lost"] == 1


def test_a_stalled_camera_is_raised_on_diagnostics_while_recording(recorder: RecorderBench) -> None:
    recorder.start()
    recorder.send(recorder.ticks(range(TICKS)))
    recorder.send([raw for raw in recorder.ticks(range(TICKS, TICKS + 10)) if raw[0] != "/camera/image_raw"])

    def raised() -> bool:
        found = [messages.status_of(cdr) for cdr in recorder.diagnostics]
        return any(s.level == messages.ERROR and "/camera/image_raw: nothing for 1.00 s" in s.text for s in found)

    assert recorder.bench.until(raised)


def test_what_a_killed_recorder_left_is_recovered_and_told(recorder: RecorderBench) -> None:
    file = EpisodeFile(recorder.bags, "episode_000003", recorder.contract.recorded_topics(), {"episode": "3"})
    for topic, stamp, cdr in episode_messages(recorder.contract, 2):
        file.write(topic, stamp, cdr)
    file.flush()
    del file  # as the end of its process does, this gives up the lock
    recorder.start()
    [state] = [messages.status_of(cdr) for cdr in recorder.states]
    assert (state.name, state.values["episode"], state.level) == ("recovered", "3", messages.OK)
    assert "recovered 15 messages" in state.text
    assert len(read_bag(recorder.bags / "episode_000003_interrupted").messages) == 15


def test_events_of_before_the_recorder_was_there_begin_nothing(recorder: RecorderBench) -> None:
    # The same publisher as later on, as in a graph: what two of them send may arrive in any order.
    past = recorder.bench.peer.create_publisher(message_class(STATUS), EVENTS, RELIABLE)
    for event in ("prepare", "start", "end"):
        past.publish(messages.status_cdr(START, event, "", {"episode": "0", "seed": "0", "outcome": "success"}))
    recorder.start(past)
    assert [path.name for path in recorder.bags.iterdir()] == ["episode_000003.unfinished"]


def test_a_polled_message_tells_its_publisher_and_its_number(recorder: RecorderBench) -> None:
    node = recorder.start()
    taken: list[Polled] = []
    take = node.sources["/tool/pose"]
    node.sources["/tool/pose"] = lambda: None
    recorder.send([raw for raw in recorder.ticks(range(3)) if raw[0] == "/tool/pose"])

    def came() -> bool:
        while (message := take()) is not None:
            taken.append(message)
        return len(taken) == 3

    assert recorder.bench.until(came)
    first = taken[0].sequence
    assert first is not None
    assert [message.sequence for message in taken] == [first, first + 1, first + 2]
    assert len({message.publisher for message in taken}) == 1
    assert taken[0].publisher
    assert taken[0].received <= taken[1].received <= taken[2].received


def test_an_interrupt_waits_for_the_callback_at_hand(monkeypatch: pytest.MonkeyPatch, ros_domain: int) -> None:
    done: list[str] = []

    class Interrupted(RosNode):  # type: ignore[misc]
        exit_code = None

        def __init__(self) -> None:
            super().__init__("interrupted")
            self.create_timer(0.01, self.on_time)

        def on_time(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            done.append("callback finished")

        def close(self) -> None:
            done.append("closed, and able to speak" if rclpy.ok() else "closed")

    monkeypatch.setattr(spin_module, "node_class", lambda name: Interrupted)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        assert spin_module.run(["interrupted"], []) == 0
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    assert done == ["callback finished", "closed, and able to speak"]
