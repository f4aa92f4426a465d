"""The policy node in this process, driven over real topics: when it answers, and when it does not."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bench import Bench, with_parameters
from helpers import PERIOD, START, goal_message, small_contract, tick_messages
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from rl_ros.episodes import messages
from rl_ros.errors import UserError
from rl_ros.nodes.policy import Policy
from rl_ros.nodes.spin import ros

STATUS = "diagnostic_msgs/msg/DiagnosticArray"


class PolicyBench:
    """A policy node with the scripted expert, the topics it listens to, and what it says."""

    def __init__(self, bench: Bench, directory: Path, monkeypatch: pytest.MonkeyPatch, **parameters: object) -> None:
        self.bench, self.contract = bench, small_contract()
        (directory / "small.yaml").write_text(self.contract.to_yaml())
        with_parameters(monkeypatch, contract=str(directory / "small.yaml"), **parameters)
        self.node = Policy()
        bench.add(lambda: self.node)
        self.actions = bench.listen("/policy/action", "geometry_msgs/msg/TwistStamped")
        self.diagnostics = bench.listen("diagnostics", STATUS)
        self.actors = bench.listen("/policy/actor", "sensor_msgs/msg/JointState")
        self.acknowledged = bench.listen("episode/acknowledge", "sensor_msgs/msg/JointState")

    def connect(self) -> None:
        """Publishers of all that the node listens to, once it does."""
        types = self.node.gate.assembler.types
        self.senders: dict[str, Callable[[bytes], None]] = {t: self.bench.sender(t, k) for t, k in types.items()}
        self.events = self.bench.sender("episode/event", STATUS)
        for topic in ("/policy/action", "policy/actor", "diagnostics", "episode/acknowledge"):
            sender = self.node.sender(topic)
            assert self.bench.until(lambda sender=sender: sender.get_subscription_count() > 0)

    def begin(self) -> None:
        """An episode, with its goal."""
        self.say("prepare", 0)
        assert self.bench.until(lambda: self.acknowledged)
        self.say("start", START)
        assert self.bench.until(lambda: self.node.gate.running)
        topic, _, cdr = goal_message(self.contract, START + 1)
        self.senders[topic](cdr)

    def say(self, event: str, stamp: int) -> None:
        self.events(messages.status_cdr(stamp, event, "", {"episode": "0", "seed": "0"}))

    def tick(self, number: int) -> None:
        """The messages of one observation."""
        for topic, _, cdr in tick_messages(self.contract, number, 1000):
            if topic in self.senders:
                self.senders[topic](cdr)

    def answered(self) -> list[int]:
        """The observations that were answered, by their numbers."""
        return [(messages.stamp_of(cdr) - START) // PERIOD for cdr in self.actions]

    def told(self) -> list[messages.Status]:
        return [messages.status_of(cdr) for cdr in self.diagnostics]


@pytest.fixture
def policy(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PolicyBench:
    made = PolicyBench(bench, tmp_path, monkeypatch)
    made.connect()
    made.begin()
    return made


def test_of_the_observations_that_have_piled_up_the_newest_is_answered(policy: PolicyBench) -> None:
    for number in range(5):
        policy.tick(number)
    assert policy.bench.until(lambda: policy.node.pace.skipped == 4)
    assert policy.bench.until(lambda: policy.actions)
    policy.tick(5)
    assert policy.bench.until(lambda: len(policy.actions) == 2)
    assert policy.answered() == [4, 5]


def test_on_a_robot_an_expert_that_needs_a_simulation_is_refused(
    ros_domain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_parameters(monkeypatch, contract="grasp", simulation=False)
    sentence = "scripted expert of grasp needs to know objects_heading, objects_position, which only the simulation"
    with ros(), pytest.raises(UserError, match=sentence):
        Policy()


def test_in_lockstep_every_observation_is_answered(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = PolicyBench(bench, tmp_path, monkeypatch, lossless=True)
    policy.connect()
    policy.begin()
    for number in range(5):
        policy.tick(number)
    assert bench.until(lambda: len(policy.actions) == 5)
    assert policy.answered() == [0, 1, 2, 3, 4]


def test_a_policy_that_fails_falls_silent_says_why_and_ends_its_process(policy: PolicyBench) -> None:
    def broken(tick: object) -> np.ndarray:
        raise RuntimeError("no such thing")

    assert policy.node.actor is not None
    policy.node.actor.act = broken  # type: ignore[method-assign]
    policy.tick(0)
    assert policy.bench.until(lambda: policy.node.exit_code == 1)
    assert not policy.node.active
    assert policy.bench.until(lambda: any(s.text == "failed: RuntimeError: no such thing" for s in policy.told()))
    policy.tick(1)
    policy.bench.until(lambda: False, seconds=0.2)
    assert not policy.actions


def test_a_frozen_camera_is_not_answered_and_the_guard_is_told(policy: PolicyBench) -> None:
    policy.tick(0)
    assert policy.bench.until(lambda: policy.actions)
    frozen = tick_messages(policy.contract, 0, 1000)[0][2]
    for number in (4, 5):  # the tool has moved by 4 cm
        for topic, stamp, cdr in tick_messages(policy.contract, number, 1000):
            if topic in policy.senders:
                is_picture = topic == "/camera/image_raw"
                old = (
                    frozen[:4] + struct.pack("<iI", *divmod(stamp, 1_000_000_000)) + frozen[12:] if is_picture else cdr
                )
                policy.senders[topic](old)
    assert policy.bench.until(lambda: any("image: frozen" in s.text for s in policy.told()))
    assert policy.answered() == [0]
    assert policy.bench.until(lambda: len(policy.actors) > 1)
    said = [(messages.stamp_of(cdr), messages.value(policy.contract.actor_key, cdr).tolist()) for cdr in policy.actors]
    assert said[0] == (START, [0.0, 0.0, 1.0])  # the scripted expert
    assert all(stamp > START and not any(actor) for stamp, actor in said[1:])


def test_what_answers_take_is_told_once_a_second(policy: PolicyBench) -> None:
    policy.tick(0)
    assert policy.bench.until(
        lambda: any(s.name == "policy: timing" and s.values["answered"] == "1" for s in policy.told())
    )
    [told] = [s for s in policy.told() if s.name == "policy: timing" and s.values["answered"] == "1"]
    assert told.stamp == START  # so it is in the bag
    parts = [float(told.values[f"{part}_max_ms"]) for part in ("wait", "inference", "publish")]
    assert float(told.values["answer_max_ms"]) == pytest.approx(sum(parts), abs=0.01)
    assert float(told.values["age.image_max_ms"]) == 0.0


def test_a_refused_bundle_is_told_where_the_recorder_hears_it(policy: PolicyBench) -> None:
    policy.tick(3)
    assert policy.bench.until(lambda: policy.actions)
    [result] = policy.node.set_parameters([Parameter("bundle", value="/nowhere/bundle")])
    assert not result.successful
    assert policy.bench.until(
        lambda: any(s.text.startswith("refused, and the old policy stays") for s in policy.told())
    )
    assert policy.told()[-1].stamp == START + 3 * PERIOD


def test_a_lifecycle_manager_decides_when_it_answers(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = PolicyBench(bench, tmp_path, monkeypatch, autostart=False)
    assert policy.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    policy.connect()
    policy.say("prepare", 0)
    assert bench.until(lambda: any(s.text == "not active" for s in policy.told()))
    assert not policy.acknowledged
    assert policy.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    policy.begin()
    policy.tick(0)
    assert bench.until(lambda: policy.actions)
    assert policy.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    policy.tick(1)
    bench.until(lambda: False, seconds=0.2)
    assert policy.answered() == [0]
    assert policy.node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    assert not policy.node.listening
