"""A person takes over from the policy: who acts at each tick, what the guard gets, and what is recorded and learned."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from bench import Bench, with_parameters
from helpers import PERIOD, START, episode_messages, small_contract

from rl_ros.algorithms.bc import BehaviourCloning
from rl_ros.contract import ACTOR_TOPIC, ACTORS, Contract, Recorded
from rl_ros.episodes import messages
from rl_ros.episodes.bags import read_bag
from rl_ros.episodes.cache import load_columns
from rl_ros.episodes.ingest import read_episode
from rl_ros.episodes.memory import Batch, ReplayMemory
from rl_ros.episodes.record import EpisodeFile
from rl_ros.errors import UserError
from rl_ros.nodes.operator import Operator
from rl_ros.robots.takeover import Devices, Person, Sent, Takeover
from rl_ros.training.offline import train

DEVICES = Devices(
    speed=0.1, dead_zone=0.05, axes=(1, 0, 4), takeover_button=5, gripper_button=0, begin_button=7, release=0.3
)
KIND = {"/policy/action": "geometry_msgs/msg/TwistStamped", "/policy/gripper": "sensor_msgs/msg/JointState"}


def joy(forward: float = 0.0, held: bool = True, gripper: bool = False, begin: bool = False) -> bytes:
    buttons = [int(gripper), 0, 0, 0, 0, int(held), 0, int(begin)]
    axes = np.array([0.0, forward, 0.0, 0.0, 0.0], np.float32)
    made = messages.message(
        "sensor_msgs/msg/Joy", header=messages.header(0), axes=axes, buttons=np.array(buttons, np.int32)
    )
    return messages.encode("sensor_msgs/msg/Joy", made)


def twist(x: float) -> bytes:
    def vector(value: float) -> object:
        return messages.message("geometry_msgs/msg/Vector3", x=value, y=0.0, z=0.0)

    return messages.encode(
        "geometry_msgs/msg/Twist", messages.message("geometry_msgs/msg/Twist", linear=vector(x), angular=vector(0.0))
    )


def proposal(contract: Contract, stamp: int) -> dict[str, bytes]:
    action = np.array([0.0, 0.2, 0.0, 0.0])
    return messages.action_cdrs(contract, stamp, action) | {ACTOR_TOPIC: messages.actor_cdr(stamp, "policy")}


class Table:
    """A takeover that is told of ticks as they come."""

    def __init__(self) -> None:
        self.contract = small_contract()
        self.person = Person(DEVICES)
        self.takeover = Takeover(self.contract, self.person)

    def tick(self, stamp: int, now: float, policy: bool = True) -> list[Sent]:
        sent = self.takeover.on_tick(stamp, now)
        for topic, cdr in proposal(self.contract, stamp).items() if policy else ():
            sent += self.takeover.on_proposal(topic, cdr, now)
        return sent


def actor(sent: list[Sent]) -> str:
    [told] = [cdr for topic, cdr in sent if topic == ACTOR_TOPIC]
    return ACTORS[int(np.argmax(messages.decode("sensor_msgs/msg/JointState", told).position))]


def test_what_the_policy_proposes_is_passed_on_byte_for_byte() -> None:
    table = Table()
    assert dict(table.tick(100, 0.0)) == proposal(table.contract, 100)


def test_a_person_acts_from_the_next_tick_on_and_the_policy_not_at_all() -> None:
    table = Table()
    assert actor(table.tick(100, 0.0)) == "policy"
    table.person.on_joy(joy(forward=1.0), 0.05)
    sent = table.tick(200, 0.1)
    assert actor(sent) == "human"
    assert sorted(topic for topic, _ in sent) == sorted([*KIND, ACTOR_TOPIC])  # one of each: no rival
    [action] = [messages.decode(KIND[t], cdr).twist.linear for t, cdr in sent if t == "/policy/action"]
    assert (action.x, action.y) == (pytest.approx(0.1), 0.0)
    assert actor(table.tick(300, 0.15, policy=False)) == "human"  # also where the policy is dead
    table.person.on_joy(joy(held=False), 0.2)
    assert actor(table.tick(400, 0.2)) == "policy"


def test_a_tick_has_one_actor_even_where_the_button_is_pressed_between_the_parts_of_an_action() -> None:
    table = Table()
    first, *others = proposal(table.contract, 100).items()
    sent = table.takeover.on_tick(100, 0.0) + table.takeover.on_proposal(*first, 0.0)
    table.person.on_joy(joy(), 0.01)
    for topic, cdr in others:
        sent += table.takeover.on_proposal(topic, cdr, 0.02)
    assert dict(sent) == proposal(table.contract, 100)
    assert actor(table.tick(200, 0.1)) == "human"
    assert not table.takeover.on_tick(200, 0.1)


def test_a_joystick_that_falls_silent_or_breaks_moves_nothing() -> None:
    table = Table()
    table.person.on_joy(joy(forward=1.0), 0.0)
    assert actor(table.tick(100, 0.1)) == "human"
    assert actor(table.tick(200, 0.5)) == "policy"
    table.person.on_joy(joy(forward=float("nan")), 1.0)
    [cdr] = [cdr for topic, cdr in table.tick(300, 1.0) if topic == "/policy/action"]
    assert messages.decode(KIND["/policy/action"], cdr).twist.linear.x == 0.0


def test_the_gripper_button_turns_over_what_the_policy_last_said() -> None:
    table = Table()
    table.tick(100, 0.0)  # the policy closes the gripper
    table.person.on_joy(joy(gripper=True), 0.1)
    opened = [cdr for topic, cdr in table.tick(200, 0.1) if topic == "/policy/gripper"]
    table.person.on_joy(joy(gripper=True), 0.2)  # still held down: nothing new
    kept = [cdr for topic, cdr in table.tick(300, 0.2) if topic == "/policy/gripper"]
    assert [messages.decode(KIND["/policy/gripper"], cdr).position[0] for cdr in opened + kept] == [1.0, 1.0]


def test_a_spacenav_takes_over_while_it_is_deflected() -> None:
    table = Table()
    table.person.on_twist(twist(0.01), 0.0)
    assert actor(table.tick(100, 0.0)) == "policy"
    table.person.on_twist(twist(0.5), 0.1)
    assert actor(table.tick(200, 0.1)) == "human"
    assert actor(table.tick(300, 0.5)) == "policy"


def test_a_joystick_that_lies_idle_does_not_end_what_the_spacenav_does() -> None:
    table = Table()
    table.person.on_twist(twist(0.5), 0.1)
    table.person.on_joy(joy(held=False), 0.15)
    assert actor(table.tick(200, 0.2)) == "human"
    table.person.on_joy(joy(forward=1.0), 0.25)
    table.person.on_twist(twist(0.0), 0.3)  # at rest, and nor does that stop what the joystick does
    [cdr] = [cdr for topic, cdr in table.tick(300, 0.3) if topic == "/policy/action"]
    assert messages.decode(KIND["/policy/action"], cdr).twist.linear.x == pytest.approx(DEVICES.speed)


def test_a_person_takes_over_a_hand_that_was_told_nonsense() -> None:
    contract, person = Contract.load("lift"), Person(DEVICES)
    takeover = Takeover(contract, person)
    for topic, cdr in messages.action_cdrs(contract, 100, np.array([0.0, 0.0, 0.0, np.nan])).items():
        takeover.on_proposal(topic, cdr, 0.0)
    person.on_twist(twist(0.5), 0.1)
    [cdr] = [cdr for topic, cdr in takeover.on_tick(200, 0.1) if topic == "/policy/gripper"]
    assert messages.value(contract.action["gripper"], cdr) == [1.0]


def test_a_person_moves_a_hand_that_can_turn_and_it_does_not_turn() -> None:
    contract, person = Contract.load("grasp"), Person(DEVICES)
    person.on_joy(joy(forward=1.0), 0.0)
    sent = Takeover(contract, person).on_tick(100, 0.0)
    [cdr] = [cdr for topic, cdr in sent if topic == "/policy/action"]
    twisted = messages.decode(KIND["/policy/action"], cdr).twist
    assert twisted.linear.x == pytest.approx(DEVICES.speed)
    assert twisted.angular.z == 0.0


def test_an_action_that_no_device_gives_is_told_at_the_start() -> None:
    contract = Contract.load("lift")
    stranger = dataclasses.replace(contract, action={**contract.action, "suction": contract.action["gripper"]})
    with pytest.raises(UserError, match="a person cannot give the action 'suction' of contract lift"):
        Takeover(stranger, Person(DEVICES))


@pytest.mark.parametrize("axes", ["1 0", "1 0 x", "-1 0 4"])
def test_axes_that_are_none_are_named(axes: str) -> None:
    settings = {**vars(DEVICES), "axes": axes}
    with pytest.raises(UserError, match="expected three numbers such as '1 0 4'"):
        Devices.of(settings)


def test_the_node_takes_over_and_lets_go_and_waits_for_a_word(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    with_parameters(monkeypatch, contract="reach", confirm=True)
    bench.add(Operator)
    acted = bench.listen("/policy/action", "geometry_msgs/msg/TwistStamped")
    ready = bench.listen("/episode/acknowledge", "sensor_msgs/msg/JointState")
    propose = bench.sender("/proposed/policy/action", "geometry_msgs/msg/TwistStamped")
    name = bench.sender("/proposed/policy/actor", "sensor_msgs/msg/JointState")
    tick = bench.sender("/tool/pose", "geometry_msgs/msg/PoseStamped")
    press = bench.sender("/joy", "sensor_msgs/msg/Joy")
    event = bench.sender("/episode/event", "diagnostic_msgs/msg/DiagnosticArray")
    event(messages.status_cdr(0, "prepare", "", {"episode": "4"}))
    bench.until(lambda: ready, 0.3)
    assert not ready
    assert bench.until(lambda: press(joy(held=False, begin=True)) or press(joy(held=False)) or ready)
    event(messages.status_cdr(1, "start", "", {"episode": "4"}))

    def turn(stamp: int) -> float:
        """x of what the guard is told at a tick."""
        tick(messages.pose_cdr(stamp, "", [0.5, 0.0, 0.2]))
        bench.until(lambda: False, 0.05)
        propose(messages.twist_cdr(stamp, "", [0.02, 0.0, 0.0]))
        name(messages.actor_cdr(stamp, "policy"))
        assert bench.until(lambda: any(messages.stamp_of(cdr) == stamp for cdr in acted), 2.0)
        [cdr] = [cdr for cdr in acted if messages.stamp_of(cdr) == stamp]
        return float(messages.decode("geometry_msgs/msg/TwistStamped", cdr).twist.linear.x)

    assert turn(10) == 0.02
    press(joy(forward=1.0))
    bench.until(lambda: False, 0.1)
    assert turn(20) == pytest.approx(0.1)
    press(joy(held=False))
    bench.until(lambda: False, 0.1)
    assert turn(30) == 0.02


def labelled() -> Contract:
    """The small contract with who acted among what is recorded."""
    record = {ACTOR_TOPIC: Recorded("sensor_msgs/msg/JointState", every_tick=True)}
    return dataclasses.replace(small_contract(), record=record)


def bag_with_a_person(path: Path, contract: Contract) -> Path:
    """An episode of 12 ticks; the person acts from tick 4 to 7, and nothing is told of tick 9."""
    file = EpisodeFile(path.parent, path.name, contract.recorded_topics(), {"contract": contract.to_yaml()})
    for topic, stamp, cdr in episode_messages(contract, 12):
        file.write(topic, stamp, cdr)
    for tick in range(12):
        stamp = START + tick * PERIOD
        if tick != 9:
            file.write(ACTOR_TOPIC, stamp, messages.actor_cdr(stamp, "human" if 4 <= tick < 8 else "policy"))
    return file.close({"outcome": "success", "end": str(START + 11 * PERIOD)})


def test_who_acted_is_told_tick_by_tick(tmp_path: Path) -> None:
    contract = labelled()
    episode = read_episode(read_bag(bag_with_a_person(tmp_path / "bag", contract)), contract)
    policy, human = (1 + ACTORS.index(name) for name in ("policy", "human"))
    assert episode.actor is not None
    assert episode.actor.tolist() == [policy] * 4 + [human] * 4 + [policy, 0, policy, policy]
    assert episode.has_transition[:-1].all()  # a tick that nobody signed is one all the same


def test_training_keeps_or_weights_what_a_person_did(tmp_path: Path) -> None:
    contract = labelled()
    bags = [bag_with_a_person(tmp_path / "bags" / f"bag_{number}", contract) for number in range(2)]
    dataset = load_columns(bags, contract, tmp_path / "cache")
    assert np.flatnonzero(dataset.human).tolist() == [4, 5, 6, 7, 16, 17, 18, 19]
    only = dataset.of_actors(["human"])
    assert np.flatnonzero(only.columns.has_transition).tolist() == [4, 5, 6, 7, 16, 17, 18, 19]
    assert len(ReplayMemory(dataset.of_actors(["human", "policy"]).columns)) == 20
    with pytest.raises(UserError, match="no transition was acted by scripted"):
        dataset.of_actors(["scripted"])
    with pytest.raises(UserError, match="'robot' is nobody who acts; expected some of: policy, human, scripted"):
        dataset.of_actors(["robot"])

    seen: list[Batch] = []
    original = BehaviourCloning.update

    def update(self: BehaviourCloning, batch: Batch) -> object:
        seen.append(batch)
        return original(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BehaviourCloning, "update", update)
        memory = ReplayMemory(dataset.columns)
        settings, run = {"batch_size": 8}, tmp_path / "run"
        train(memory, contract, "bc", run, updates=2, overrides=settings, human=dataset.human, human_share=0.5)
    for batch in seen:
        assert batch.demonstration is not None
        # The action of tick k along x is 0.01 k, and a person acted from tick 4 to 7.
        acted = np.round(batch.action[:, 0] * 100).astype(int)
        assert set(acted[:4]) <= {4, 5, 6, 7}
        np.testing.assert_array_equal(batch.demonstration, (acted >= 4) & (acted < 8))
    with pytest.raises(UserError, match="no tick to learn from was acted by a person"):
        nobody = np.zeros(len(dataset.stamps), bool)
        train(memory, contract, "bc", tmp_path / "none", updates=1, human=nobody, human_share=0.5)
