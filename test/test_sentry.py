"""What stands between the messages and the guard, by the bytes and a clock of the tests' own."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rl_ros.contract import NOBODY, Contract
from rl_ros.episodes import messages
from rl_ros.errors import UserError
from rl_ros.graph import node_specs
from rl_ros.robots.arm import Arm
from rl_ros.robots.guard import CHECKS as MOTION_CHECKS
from rl_ros.robots.sentry import CHECKS, Answer, Sentry, Watch, parse_disabled
from rl_ros.robots.verdict import Code, Limits

TICK = 100_000_000
"""ns."""
START = 1_000_000_000_000
"""ns."""
WATCH = Watch(joint_state_age=0.15, watchdog=0.2, burst=3, heartbeat=0.0, patient=False, frozen=1e6)
LIMITS = Limits.shipped(ramp=0.0)
VELOCITY, GRIPPER, GOAL = "/policy/action", "/policy/gripper", "/goal/latent"


class Post:
    """A sentry with an arm at home; stamps and the steady clock advance together."""

    def __init__(
        self, arm: Arm, contract: str = "lift", watch: Watch = WATCH, disabled: tuple[str, ...] = (), **limits: object
    ) -> None:
        self.arm, self.now, self.stamp = arm, 0.0, START
        self.contract = Contract.load(contract)
        allowed = dataclasses.replace(LIMITS, **limits)  # type: ignore[arg-type]
        self.sentry = Sentry(self.contract, arm, allowed, watch, self.now, disabled)
        self.answers: list[Answer] = []

    def later(self, seconds: float = 0.1, joints: bool = True) -> None:
        """Time passes, in steps, in which joint states come."""
        for _ in range(round(seconds / 0.02)):
            self.now, self.stamp = self.now + 0.02, self.stamp + TICK // 5
            if joints:
                self.joints()
            self.heed(self.sentry.on_time(self.now))

    def heed(self, answers: list[Answer]) -> list[Answer]:
        self.answers += answers
        return answers

    def joints(self, stamp: int | None = None, positions: object = None, names: tuple[str, ...] | None = None) -> None:
        stamp = self.stamp if stamp is None else stamp
        positions = self.arm.home if positions is None else positions
        cdr = messages.joint_state_cdr(stamp, names or self.arm.joint_names, positions)  # type: ignore[arg-type]
        self.heed(self.sentry.on_joints(cdr, self.now))

    def velocity(self, velocity: object = (0.0, 0.1, 0.0), stamp: int | None = None) -> list[Answer]:
        cdr = messages.twist_cdr(self.stamp if stamp is None else stamp, "panda_link0", velocity)  # type: ignore[arg-type]
        return self.heed(self.sentry.on_message(VELOCITY, cdr, self.now))

    def gripper(self, stamp: int | None = None, names: tuple[str, ...] = ("gripper",)) -> list[Answer]:
        stamp = self.stamp if stamp is None else stamp
        cdr = messages.joint_state_cdr(stamp, names, [1.0] * len(names))
        return self.heed(self.sentry.on_message(GRIPPER, cdr, self.now))

    def goal(self, goal: object, stamp: int | None = None) -> None:
        stamp = self.stamp if stamp is None else stamp
        cdr = messages.joint_state_cdr(stamp, self.contract.goal.desired_goal.names, goal)  # type: ignore[arg-type]
        self.heed(self.sentry.on_message(GOAL, cdr, self.now))

    def act(self, velocity: object = (0.0, 0.1, 0.0), stamp: int | None = None) -> list[Answer]:
        """A whole action; the answers to it."""
        return self.velocity(velocity, stamp) + self.gripper(stamp)

    def codes(self) -> list[Code]:
        return [answer.command.code for answer in self.answers]


@pytest.fixture(scope="module")
def arm() -> Arm:
    return Arm()


@pytest.fixture
def post(arm: Arm) -> Post:
    """In the middle of an episode."""
    made = Post(arm)
    made.later()
    made.act()
    made.later()
    assert made.codes() == [Code.OK]
    made.answers.clear()
    return made


def test_an_action_is_answered_once_with_its_stamp(post: Post) -> None:
    assert post.velocity() == []
    [answer] = post.gripper()
    assert answer.stamp == post.stamp
    moved = post.arm.forward(answer.command.positions)[0] - post.arm.forward(post.arm.home)[0]
    np.testing.assert_allclose(moved, [0.0, 0.01, 0.0], atol=1e-4)


def test_joints_and_channels_are_found_by_name_and_not_by_order(arm: Arm) -> None:
    """Permuted names are no fault, as long as the numbers are permuted with them."""
    order = [3, 0, 6, 1, 5, 2, 4]
    plain, permuted = Post(arm), Post(arm)
    for post in (plain, permuted):
        post.later()
    plain.joints(plain.stamp + 1, arm.home)
    permuted.joints(permuted.stamp + 1, arm.home[order], tuple(arm.joint_names[each] for each in order))
    for post in (plain, permuted):
        [answer] = post.act(stamp=post.stamp + 1)
        assert answer.command.code is Code.OK
    np.testing.assert_array_equal(plain.answers[-1].command.positions, permuted.answers[-1].command.positions)


def test_joint_states_of_another_arm_do_not_count(post: Post) -> None:
    post.joints(post.stamp + 1, names=tuple(f"ur5_{name}" for name in post.arm.joint_names))
    assert post.codes() == [Code.JOINT_STATE_INVALID]
    np.testing.assert_array_equal(post.answers[0].command.positions, post.arm.home)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 50.0])
def test_a_broken_encoder_is_no_measurement(post: Post, wrong: float) -> None:
    broken = post.arm.home.copy()
    broken[3] = wrong
    post.joints(post.stamp + 1, broken)
    assert post.codes() == [Code.JOINT_STATE_INVALID]
    np.testing.assert_array_equal(post.answers[0].command.positions, post.arm.home)


def test_wrong_names_and_parts_that_are_missing_are_told_apart(post: Post) -> None:
    post.velocity()
    [answer] = post.gripper(names=("claw",))
    assert answer.command.code is Code.MALFORMED
    assert "no joint gripper among claw" in answer.command.detail
    post.later()
    post.velocity()
    lost = post.stamp
    post.later(0.1)
    post.velocity()
    answers = post.gripper()
    assert [(answer.stamp, answer.command.code) for answer in answers] == [
        (lost, Code.INCOMPLETE),
        (post.stamp, Code.OK),
    ]


def test_bytes_that_are_no_message_are_refused(post: Post) -> None:
    [answer] = post.heed(post.sentry.on_message(VELOCITY, b"\x00\x01\x00\x00ab", post.now))
    assert answer.command.code is Code.MALFORMED
    post.joints()
    post.heed(post.sentry.on_joints(b"", post.now))
    assert post.codes()[-1] is Code.JOINT_STATE_INVALID


def test_the_same_action_again_holds_still(post: Post) -> None:
    post.act()
    [answer] = post.velocity()
    assert answer.command.code is Code.REPLAYED_ACTION
    np.testing.assert_array_equal(answer.command.positions, post.arm.home)


def test_an_action_older_than_the_last_one_holds_still(post: Post) -> None:
    post.act()
    [answer] = post.velocity(stamp=post.stamp - TICK // 2)
    assert answer.command.code is Code.REPLAYED_ACTION


def test_a_stale_action_is_rejected(post: Post) -> None:
    post.later(0.3)
    assert [answer.command.code for answer in post.act(stamp=post.stamp - 3 * TICK + 1)] == [Code.STALE_ACTION]


def test_an_action_of_the_far_future_neither_moves_the_arm_nor_bars_those_after_it(post: Post) -> None:
    [answer] = post.velocity((0.3, 0.0, 0.0), stamp=post.stamp + 50 * TICK)
    assert answer.command.code is Code.FUTURE_ACTION
    assert answer.stamp <= post.stamp + TICK  # a controller that obeys stamps would hold too late
    [answer] = post.act()
    assert answer.command.code is Code.OK


def test_an_action_that_overtook_the_joint_states_waits_for_them(post: Post) -> None:
    ahead = post.stamp + TICK // 2
    assert post.act(stamp=ahead) == []
    post.later()
    assert [(answer.stamp, answer.command.code) for answer in post.answers] == [(ahead, Code.OK)]


def test_an_action_that_came_long_ago_is_stale_whatever_its_stamp_says(post: Post) -> None:
    """The clock that stamps are from stood still, and goes on."""
    post.velocity()
    for _ in range(30):
        post.now += 0.02
        post.heed(post.sentry.on_time(post.now))
    post.joints(post.stamp + 1)
    post.answers.clear()
    [answer] = post.heed(
        post.sentry.on_message(GRIPPER, messages.joint_state_cdr(post.stamp, ["gripper"], [1.0]), post.now)
    )
    assert answer.command.code is Code.STALE_ACTION


def test_a_burst_is_refused_and_answered_with_few_commands(post: Post) -> None:
    stamps = [post.stamp - TICK // 2 + each for each in range(200)]
    given = [answer for stamp in stamps for answer in post.velocity(stamp=stamp)]
    assert {answer.command.code for answer in given} == {Code.BURST}
    assert len(given) == 1


def test_no_action_of_a_flood_moves_the_arm(post: Post) -> None:
    for _ in range(3):
        for each in range(20):
            post.velocity(stamp=post.stamp + each)
        post.gripper()  # completes the first of them, which came before the burst was one
        post.later()
    assert set(post.codes()) == {Code.BURST}
    post.later(0.2)
    post.answers.clear()
    assert post.act()[-1].command.code is Code.OK  # the rest of the flood is incomplete


def test_in_lockstep_neither_bursts_nor_waiting_are_faults(arm: Arm) -> None:
    patient = Post(arm, watch=dataclasses.replace(WATCH, patient=True, watchdog=10.0))
    for _ in range(20):  # no time passes at all
        patient.stamp += TICK
        patient.joints()
        patient.act()
    patient.velocity(stamp=patient.stamp + 1)
    patient.now += 5.0
    patient.heed(patient.sentry.on_time(patient.now))
    patient.joints(patient.stamp + TICK)
    patient.gripper(stamp=patient.stamp + TICK)
    assert patient.codes()[:20] == [Code.OK] * 20
    assert Code.JOINT_STATES_STALE not in patient.codes()


def test_when_joint_states_stop_the_arm_is_held_where_it_was_last_seen_once(post: Post) -> None:
    post.act()
    post.answers.clear()
    post.later(1.0, joints=False)
    assert post.codes() == [Code.JOINT_STATES_STALE]
    np.testing.assert_array_equal(post.answers[0].command.positions, post.arm.home)
    [answer] = post.velocity()
    assert answer.command.code is Code.JOINT_STATES_STALE
    post.later()
    assert [answer.command.code for answer in post.act()] == [Code.OK]


def test_silence_of_the_policy_is_held_once(post: Post) -> None:
    post.act()
    post.answers.clear()
    post.later(1.0)
    assert post.codes() == [Code.WATCHDOG]


def test_a_policy_that_cannot_act_has_the_arm_held_at_once(post: Post) -> None:
    post.act()
    post.answers.clear()
    post.later(0.02)
    post.heed(post.sentry.on_actor(messages.actor_cdr(post.stamp, NOBODY), post.now))
    assert post.codes() == [Code.NO_ACTION]
    np.testing.assert_array_equal(post.answers[0].command.positions, post.arm.home)
    post.heed(post.sentry.on_actor(messages.actor_cdr(post.stamp, NOBODY), post.now))
    assert len(post.answers) == 1
    post.later()
    assert [answer.command.code for answer in post.act()] == [Code.OK]


def test_who_acts_holds_nothing_and_what_came_late_neither(post: Post) -> None:
    post.act()
    post.answers.clear()
    post.heed(post.sentry.on_actor(messages.actor_cdr(post.stamp, "policy"), post.now))
    post.heed(post.sentry.on_actor(messages.actor_cdr(post.stamp - TICK, NOBODY), post.now))
    assert post.codes() == []
    post.heed(post.sentry.on_actor(b"\0\1\0\0", post.now))
    assert post.codes() == [Code.MALFORMED]


@pytest.mark.parametrize("jump", [-500, 50])
def test_after_a_clock_has_jumped_nothing_moves_until_the_next_episode(post: Post, jump: int) -> None:
    post.act()
    post.answers.clear()
    before = post.stamp
    post.stamp += jump * TICK
    post.joints()
    assert post.codes() == [Code.CLOCK_JUMP]
    assert post.answers[0].stamp == before  # so that it is in the bag of the episode it ends
    post.later()
    assert [answer.command.code for answer in post.act()] == [Code.CLOCK_JUMP]
    post.sentry.restart()
    post.later()
    assert [answer.command.code for answer in post.act()] == [Code.OK]


def test_a_clock_that_is_set_before_anything_moves_is_no_fault(arm: Arm) -> None:
    """As when a simulated world is reset for the next episode, and its time with it."""
    post = Post(arm)
    post.later()
    post.stamp -= 500 * TICK
    post.later()
    assert [answer.command.code for answer in post.act()] == [Code.OK]


def test_joint_positions_in_another_order_than_their_names_are_not_believed(post: Post) -> None:
    post.act()
    post.answers.clear()
    post.now, post.stamp = post.now + 0.02, post.stamp + TICK // 5
    post.joints(positions=post.arm.home[[1, 0, 2, 3, 4, 6, 5]])
    [answer] = post.answers
    assert answer.command.code is Code.JOINT_STATE_INVALID
    assert "more than it can; are positions in the order of their names?" in answer.command.detail
    np.testing.assert_array_equal(answer.command.positions, post.arm.home)


def test_between_two_episodes_the_arm_may_be_put_elsewhere(post: Post) -> None:
    post.sentry.restart()
    post.later()
    post.now, post.stamp = post.now + 0.02, post.stamp + TICK // 5
    post.joints(positions=post.arm.home + 0.5)
    assert post.answers == []
    np.testing.assert_array_equal(post.sentry.measured, post.arm.home + 0.5)


def test_encoders_that_stand_still_while_the_arm_is_told_to_move_stop_it(arm: Arm) -> None:
    post = Post(arm, watch=dataclasses.replace(WATCH, frozen=0.12))
    for _ in range(3):
        post.later()
        post.act()
    assert Code.JOINT_STATES_FROZEN in post.codes()
    post.answers.clear()
    post.later()
    assert set(post.codes()) == {Code.JOINT_STATES_FROZEN}  # and it lasts
    post.now, post.stamp = post.now + 0.02, post.stamp + TICK // 5
    post.joints(positions=arm.home + 1e-6)
    assert [answer.command.code for answer in post.act()] == [Code.OK]


def test_encoders_may_stand_still_while_the_arm_is_told_to(arm: Arm) -> None:
    post = Post(arm, watch=dataclasses.replace(WATCH, frozen=0.12))
    for _ in range(5):
        post.later()
        post.act((0.0, 0.0, 0.0))
    assert set(post.codes()) == {Code.OK}


def test_when_an_episode_is_over_the_arm_is_held(post: Post) -> None:
    post.act()
    post.later(0.02)
    [answer] = post.sentry.rest()
    assert answer.command.code is Code.BETWEEN_EPISODES
    np.testing.assert_array_equal(answer.command.positions, post.arm.home)
    assert post.sentry.rest() == []  # it stands already


@pytest.mark.parametrize("rate", [10.0, 20.0, 50.0])
def test_what_is_late_follows_from_the_control_rate(rate: float) -> None:
    settings = {key: spec.default for key, spec in node_specs()["arm_guard"].parameters.items()}
    watch = Watch.of(settings, 1.0 / rate)
    assert 1.0 < watch.watchdog * rate < 2.0  # one late action is no fault, two missing ones are
    assert 1.0 < watch.joint_state_age * rate < 2.0
    assert Watch.of({**settings, "watchdog": 0.5}, 1.0 / rate).watchdog == 0.5


def test_joint_states_that_were_overtaken_are_left_out(post: Post) -> None:
    post.joints(post.stamp - TICK // 2, post.arm.home + 0.1)
    assert post.answers == []
    [answer] = post.act((0.0, 0.0, 0.0))
    np.testing.assert_allclose(answer.command.positions, post.arm.home, atol=1e-3)


def test_a_second_publisher_stops_all_actions_until_it_is_gone(post: Post) -> None:
    post.act()
    post.answers.clear()
    assert not post.sentry.on_publishers({VELOCITY: 1, "/arm_controller/joint_trajectory": 1})
    post.heed(post.sentry.on_publishers({VELOCITY: 2, "/arm_controller/joint_trajectory": 1}))
    post.later()
    post.act()
    assert post.codes() == [Code.SECOND_PUBLISHER] * 2
    assert post.answers[0].command.detail == "2 publishers on /policy/action"
    post.heed(post.sentry.on_publishers({VELOCITY: 1, "/arm_controller/joint_trajectory": 1}))
    post.later()
    assert [answer.command.code for answer in post.act()] == [Code.OK]


def test_silence_of_the_operator_stops_the_arm_until_it_is_rearmed(arm: Arm) -> None:
    post = Post(arm, watch=dataclasses.replace(WATCH, heartbeat=0.5))
    post.later(0.4)
    post.sentry.on_heartbeat(post.now)
    post.later(0.4)
    assert [answer.command.code for answer in post.act()] == [Code.OK]
    post.later(0.2)
    post.act()
    assert post.codes()[-1] is Code.HEARTBEAT_LOST
    assert post.sentry.rearm(post.now) == (False, "operator/heartbeat is silent")
    post.sentry.on_heartbeat(post.now)
    post.later()
    assert post.act()[-1].command.code is Code.HEARTBEAT_LOST  # that the operator is back does not start it
    assert post.sentry.rearm(post.now)[0]
    post.later()
    assert post.act()[-1].command.code is Code.OK


def test_an_operator_who_never_was_there_does_not_let_it_start(arm: Arm) -> None:
    post = Post(arm, watch=dataclasses.replace(WATCH, heartbeat=0.5))
    post.later(0.6)
    assert post.act()[-1].command.code is Code.HEARTBEAT_LOST


def test_a_stop_lasts_and_speed_grows_again_after_it(arm: Arm) -> None:
    post = Post(arm, ramp=1.0)
    post.later()
    post.act((0.0, 0.3, 0.0))
    assert post.codes() == [Code.RAMP_LIMITED]
    for _ in range(12):
        post.later()
        post.act((0.0, 0.02, 0.0))
    post.later()
    assert post.act((0.0, 0.1, 0.0))[-1].command.code is Code.OK
    post.heed(post.sentry.stop(Code.EMERGENCY_STOP, "pressed"))
    post.later()
    assert post.act()[-1].command.code is Code.EMERGENCY_STOP
    assert post.sentry.rearm(post.now) == (True, "actions are taken again")
    assert post.sentry.rearm(post.now) == (False, "there was no stop")
    post.later()
    assert post.act((0.0, 0.1, 0.0))[-1].command.code is Code.RAMP_LIMITED


def test_a_policy_that_is_given_a_goal_does_not_act_without_one(arm: Arm) -> None:
    post = Post(arm, "reach")
    post.later()
    assert post.velocity() == []
    post.later(0.4)
    assert post.codes() == [Code.GOAL_MISSING]
    post.goal([0.5, 0.0, 0.2])
    post.later()
    post.answers.clear()
    post.velocity()
    post.goal([0.5, 0.0, 0.2])
    assert post.codes()[-1] is Code.OK
    post.later()
    post.velocity()
    post.goal([0.5, np.nan, 0.2])
    assert post.codes()[-1] is Code.GOAL_INVALID
    post.later()
    post.velocity()
    missed = post.stamp
    post.later()
    post.goal([0.5, 0.0, 0.2])  # of the next tick
    assert (missed, Code.GOAL_MISSING) in [(answer.stamp, answer.command.code) for answer in post.answers]


def test_a_held_goal_counts_for_one_episode(arm: Arm, tmp_path: Path) -> None:
    contract = Contract.load("reach")
    held = dataclasses.replace(
        contract,
        goal=dataclasses.replace(
            contract.goal, desired_goal=dataclasses.replace(contract.goal.desired_goal, alignment="held")
        ),
    )
    path = tmp_path / "held.yaml"
    path.write_text(held.to_yaml())
    post = Post(arm, str(path))
    post.later()
    post.goal([0.5, 0.0, 0.2])
    for _ in range(3):
        assert [answer.command.code for answer in post.velocity()] == [Code.OK]
        post.later()
    post.sentry.restart()
    post.later()
    assert post.velocity() == []
    post.later(0.4)
    assert post.codes()[-1] is Code.GOAL_MISSING


def test_nothing_is_commanded_before_the_arm_was_seen(arm: Arm) -> None:
    post = Post(arm)
    post.act()
    post.heed(post.sentry.stop(Code.EMERGENCY_STOP, "pressed"))
    post.later(1.0, joints=False)
    assert post.answers == []
    post.joints()
    assert Code.EMERGENCY_STOP in post.codes()


def test_actions_for_an_arm_that_is_never_seen_do_not_end_the_guard(arm: Arm) -> None:
    post = Post(arm)
    for _ in range(100):
        post.later(joints=False)
        post.act()
    assert post.answers == []
    post.later()
    post.answers.clear()
    assert [answer.command.code for answer in post.act()] == [Code.OK]


def test_a_flood_of_different_faults_is_answered_with_few_commands(post: Post) -> None:
    post.act()
    post.answers.clear()
    for each in range(100):
        post.velocity(stamp=post.stamp - each)
        post.velocity(stamp=post.stamp + 50 * TICK + each)
    assert sorted(code.value for code in post.codes()) == ["future_action", "replayed_action"]


def test_a_rejected_action_leaves_the_gripper_as_it_is(post: Post) -> None:
    post.sentry.gripper = 0.25
    [answer] = post.act((np.nan, 0.0, 0.0))
    assert (answer.command.code, answer.command.gripper) == (Code.NOT_FINITE, 0.25)


# Each check again, turned off: what it keeps away must then come through.


def positions(answers: list[Answer]) -> NDArray[np.float64]:
    return np.array([answer.command.positions for answer in answers])


def moves(post: Post, answers: list[Answer]) -> bool:
    return bool(answers) and bool(np.abs(positions(answers) - post.arm.home).max() > 1e-4)


def second_publisher(post: Post) -> bool:
    post.sentry.on_publishers({VELOCITY: 2})
    return moves(post, post.act())


def blind(post: Post) -> bool:
    post.act()
    post.now += 0.16  # less than the watchdog's
    return not any(answer.command.code.rejected for answer in post.sentry.on_time(post.now))


def from_the_future(post: Post) -> bool:
    """Its time comes before it is too old."""
    post.act(stamp=post.stamp + 3 * TICK // 2)
    post.later(0.16)
    return moves(post, post.answers)


def replayed(post: Post) -> bool:
    """Another velocity under a stamp that was given before, while its gripper is on its way."""
    post.velocity((0.0, 0.1, 0.0))
    post.velocity((0.0, -0.1, 0.0))
    [answer] = post.gripper()[-1:]
    return bool(post.arm.forward(answer.command.positions)[0][1] < -1e-4)


def burst(post: Post) -> bool:
    """Many half actions, and then the gripper of one of them."""
    stamps = [post.stamp - TICK + each * TICK // 20 for each in range(1, 20)]
    for stamp in stamps:
        post.velocity(stamp=stamp)
    return moves(post, post.gripper(stamp=stamps[-1]))


def in_another_frame(post: Post) -> bool:
    """Along the axes of the hand, not of the base."""
    cdr = messages.twist_cdr(post.stamp, "panda_hand_tcp", (0.0, 0.1, 0.0))
    return moves(post, post.sentry.on_message(VELOCITY, cdr, post.now) + post.gripper())


LEAKS: dict[str, Callable[[Post], bool]] = {
    "publishers": second_publisher,
    "joint_states": blind,
    "frame": in_another_frame,
    "future": from_the_future,
    "sequence": replayed,
    "burst": burst,
}


@pytest.mark.parametrize("name", [check.name for check in CHECKS])
def test_each_check_keeps_something_away_that_comes_through_without_it(arm: Arm, name: str) -> None:
    def leaks(disabled: tuple[str, ...]) -> bool:
        post = Post(arm, disabled=disabled)
        post.later()
        return LEAKS[name](post)

    assert not leaks(())
    assert leaks((name,))


def test_an_arm_that_is_first_heard_of_after_a_stop_is_told_to_hold(arm: Arm) -> None:
    post = Post(arm)
    assert post.sentry.stop(Code.HEARTBEAT_LOST, "nobody is there") == []
    post.joints()
    assert post.codes() == [Code.HEARTBEAT_LOST]
    post.joints(post.stamp + TICK)
    assert post.codes() == [Code.HEARTBEAT_LOST]


def test_checks_are_turned_off_by_name() -> None:
    assert parse_disabled("") == ()
    assert parse_disabled("table  burst") == ("table", "burst")
    with pytest.raises(UserError, match="'tabel' cannot be turned off; expected some of: publishers"):
        parse_disabled("tabel")
    with pytest.raises(UserError, match="'finite' cannot be turned off"):
        parse_disabled("finite")


def test_every_check_and_every_code_is_documented() -> None:
    text = (Path(__file__).parents[1] / "docs" / "guard.md").read_text()
    for name in (*(check.name for check in CHECKS), *(check.name for check in MOTION_CHECKS)):
        assert f"| `{name}`" in text, name
    for code in Code:
        assert f"`{code.value}`" in text, code
