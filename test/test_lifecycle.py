"""The life of episodes: what is said when, and the sentence for every silence."""

import pytest

from rl_ros.episodes.lifecycle import (
    End,
    EpisodeLifecycle,
    Failed,
    Finished,
    Phase,
    Prepare,
    Reset,
    Start,
    Step,
)

PATIENCE = 10.0
STAMP = 5_000_000_000
PERIOD = 100_000_000


def lifecycle(episodes: int = 1, recorded: bool = False, seed: int = 40, first: int = 7) -> EpisodeLifecycle:
    return EpisodeLifecycle(episodes, seed, first, ("policy", "reward"), recorded, PATIENCE)


def prepared(one: EpisodeLifecycle) -> list[Step]:
    one.acknowledged("policy", one.number, 0.1)
    return one.acknowledged("reward", one.number, 0.2)


def running(one: EpisodeLifecycle) -> EpisodeLifecycle:
    one.begin(0.0)
    prepared(one)
    one.reset_done(one.number, STAMP, 0.3)
    assert one.phase is Phase.RUNNING
    return one


def judged(
    one: EpisodeLifecycle, tick: int, reward: float = 0.0, success: bool = False, truncated: bool = False
) -> list[Step]:
    return one.judged(STAMP + tick * PERIOD, reward, success, success, truncated, 1.0 + tick)


def test_an_episode_from_beginning_to_end() -> None:
    one = lifecycle()
    assert one.begin(0.0) == [Prepare(7, 40)]
    assert one.acknowledged("policy", 7, 0.1) == []
    assert one.acknowledged("reward", 7, 0.2) == [Reset(7, 40)]
    assert one.reset_done(7, STAMP, 0.5) == [Start(7, 40, STAMP)]
    assert judged(one, 0, reward=100.0) == []  # of the first observation: nothing was done for it
    assert one.guarded(STAMP, 1.1) == []
    assert judged(one, 1, reward=0.5) == []
    end = End(7, 40, STAMP + 2 * PERIOD, "success", 2, 1.5, 0.2, running_seconds=2.5, wall_seconds=3.0)
    assert judged(one, 2, reward=1.0, success=True) == [end]
    assert one.guarded(STAMP + PERIOD, 3.1) == []  # the last observation is not answered yet
    assert one.guarded(STAMP + 2 * PERIOD, 3.2) == [Finished()]
    assert one.phase is Phase.DONE
    assert one.waited(1e9) == []


def test_the_end_follows_at_once_where_the_guard_was_faster_than_the_judge() -> None:
    one = running(lifecycle())
    assert one.guarded(STAMP + PERIOD, 1.0) == []
    assert [type(step) for step in judged(one, 1, success=True)] == [End, Finished]


@pytest.mark.parametrize(
    ("success", "terminated", "truncated", "outcome"),
    [
        (True, True, False, "success"),
        (False, False, True, "timeout"),
        (False, True, False, "failure"),
        (True, False, True, "success"),
    ],
)
def test_the_outcome_is_what_the_judge_said(success: bool, terminated: bool, truncated: bool, outcome: str) -> None:
    one = running(lifecycle())
    (end,) = one.judged(STAMP + PERIOD, 0.0, success, terminated, truncated, 1.0)
    assert isinstance(end, End)
    assert end.outcome == outcome


def test_a_rejected_action_is_a_fault_and_ends_the_episode() -> None:
    one = running(lifecycle())
    judged(one, 0)
    judged(one, 1, reward=0.5)
    end, done = one.guard_changed(STAMP + PERIOD, True, 2.5)
    assert isinstance(end, End)
    assert (end.stamp, end.outcome, end.steps, end.total_reward) == (STAMP + PERIOD, "fault", 1, 0.5)
    assert done == Finished()


def test_a_rejection_that_does_not_last_is_no_fault() -> None:
    one = running(EpisodeLifecycle(1, 40, 7, ("policy", "reward"), False, PATIENCE, fault_after=0.25))
    assert one.guard_changed(STAMP, True, 1.0) == []
    assert one.guard_changed(STAMP + 2 * PERIOD, True, 1.2) == []
    assert one.guard_changed(STAMP + 3 * PERIOD, False, 1.3) == []  # it accepts again
    assert one.guard_changed(STAMP + 4 * PERIOD, True, 1.4) == []
    assert one.guard_changed(STAMP + 6 * PERIOD, True, 1.6) == []
    end, _ = one.guard_changed(STAMP + 7 * PERIOD, True, 1.7)
    assert isinstance(end, End)
    assert end.outcome == "fault"


def test_a_policy_that_is_dead_is_a_fault_though_no_further_action_is_rejected() -> None:
    one = running(EpisodeLifecycle(1, 40, 7, ("policy", "reward"), False, PATIENCE, fault_after=0.25))
    assert one.guard_changed(STAMP + PERIOD, True, 1.0) == []  # the watchdog
    assert one.waited(1.4) == []
    end, _ = one.waited(1.5)
    assert isinstance(end, End)
    assert end.outcome == "fault"


def test_a_rejection_that_belongs_to_no_running_episode_is_no_fault() -> None:
    one = lifecycle()
    one.begin(0.0)
    assert one.guard_changed(STAMP, True, 0.1) == []
    prepared(one)
    one.reset_done(7, STAMP, 0.3)
    assert one.guard_changed(STAMP - 1, True, 0.4) == []  # answers an observation of before
    assert one.phase is Phase.RUNNING


def test_the_next_episode_has_the_next_number_and_seed() -> None:
    one = running(lifecycle(episodes=3))
    one.guarded(STAMP + PERIOD, 1.0)
    end, prepare = judged(one, 1, success=True)
    assert (end.number, prepare) == (7, Prepare(8, 41))
    assert prepared(one) == [Reset(8, 41)]
    second = STAMP + 100 * PERIOD
    assert one.reset_done(8, second, 5.0) == [Start(8, 41, second)]
    one.judged(second + PERIOD, 0.25, False, False, False, 6.0)
    end, prepare = one.guard_changed(second + PERIOD, True, 7.0)
    assert (end.steps, end.total_reward) == (1, 0.25)  # nothing is left of the first
    assert prepare == Prepare(9, 42)


def test_without_a_number_of_episodes_there_is_always_a_next() -> None:
    one = running(lifecycle(episodes=0))
    for number in range(8, 20):
        steps = one.guard_changed(STAMP, True, 1.0)
        assert steps[-1] == Prepare(number, 40 + number - 7)
        prepared(one)
        one.reset_done(number, STAMP, 1.0)


def test_answers_for_another_episode_or_phase_are_ignored() -> None:
    one = lifecycle()
    one.begin(0.0)
    assert one.acknowledged("policy", 6, 0.1) == []
    assert one.reset_done(7, STAMP, 0.1) == []
    assert judged(one, 1, success=True) == []
    assert one.acknowledged("reward", 7, 0.2) == []  # the policy has not answered for this one
    assert one.acknowledged("recorder", 7, 0.2) == []
    assert one.acknowledged("policy", 7, 0.3) == [Reset(7, 40)]
    assert one.acknowledged("policy", 7, 0.3) == []
    assert one.reset_done(6, STAMP, 0.4) == []
    assert one.reset_done(7, STAMP, 0.4) == [Start(7, 40, STAMP)]
    assert one.reset_done(7, STAMP, 0.5) == []
    assert one.judged(STAMP - 1, 1.0, True, True, False, 0.6) == []  # an observation of before
    assert len(judged(one, 1, success=True)) == 1
    assert judged(one, 2, success=True) == []


def test_the_last_bag_is_awaited() -> None:
    one = running(lifecycle(recorded=True))
    one.guarded(STAMP + PERIOD, 1.0)
    assert [type(step) for step in judged(one, 1, success=True)] == [End]
    assert one.phase is Phase.FINISHING
    assert one.bag_closed(6, 3.0) == []
    assert one.bag_closed(7, 3.0) == [Finished()]


def test_earlier_bags_hold_up_no_episode_but_the_end_of_all() -> None:
    one = running(lifecycle(episodes=2, recorded=True))
    one.guarded(STAMP, 1.0)
    assert [type(step) for step in one.guard_changed(STAMP + 1, True, 1.0)] == [End, Prepare]
    prepared(one)
    one.reset_done(8, STAMP, 1.0)
    assert [type(step) for step in one.guard_changed(STAMP + 2, True, 1.0)] == [End]
    assert one.bag_closed(8, 2.0) == []
    assert one.bag_closed(7, 2.0) == [Finished()]


def test_a_bag_that_is_closed_before_the_guard_answered_is_not_awaited_again() -> None:
    one = running(lifecycle(recorded=True))
    assert [type(step) for step in judged(one, 1, success=True)] == [End]
    assert one.bag_closed(7, 2.5) == []
    assert one.guarded(STAMP + PERIOD, 3.0) == [Finished()]


def failure(one: EpisodeLifecycle, hint: str = "") -> str:
    """The sentence after too long a silence; before, there is none."""
    since = one._since
    assert one.waited(since + PATIENCE - 0.01, hint) == []
    (failed,) = one.waited(since + PATIENCE, hint)
    assert isinstance(failed, Failed)
    assert one.phase is Phase.DONE
    assert one.waited(since + 10 * PATIENCE) == []  # said once
    return failed.sentence


def test_silence_of_a_node_is_told_with_its_name() -> None:
    one = lifecycle()
    one.begin(0.0)
    one.acknowledged("reward", 7, 0.1)
    assert failure(one) == "episode 7: waited 10 s: no answer from: policy; is it running on this ROS domain?"


def test_a_reset_that_does_not_happen_is_told() -> None:
    one = lifecycle()
    one.begin(0.0)
    prepared(one)
    assert failure(one).startswith("episode 7: waited 10 s: nothing reset the arm; is arm_sim running, or")


def test_patience_does_not_run_out_while_a_person_has_stopped_the_arm_between_episodes() -> None:
    one = lifecycle()
    one.begin(0.0)
    assert one.waited(50 * PATIENCE, stopped=True) == []
    prepared(one)
    assert one.waited(100 * PATIENCE, stopped=True) == []
    assert failure(one).startswith("episode 7: waited 10 s: nothing reset the arm")
    other = running(lifecycle())
    assert [type(step) for step in other.waited(50 * PATIENCE, stopped=True)] == [Failed]


@pytest.mark.parametrize(
    ("hint", "reason"),
    [
        ("", "is a sensor or the policy silent?"),
        ("policy waits for /camera/image_raw", "policy waits for /camera/image_raw"),
    ],
)
def test_silence_while_running_is_told_with_what_is_known(hint: str, reason: str) -> None:
    one = running(lifecycle())
    judged(one, 1)
    sentence = failure(one, hint)
    assert sentence.startswith("episode 7: waited 10 s: no observation was judged")
    assert sentence.endswith(reason)


def test_a_guard_that_does_not_answer_is_told() -> None:
    one = running(lifecycle())
    judged(one, 1, success=True)
    assert failure(one) == "episode 7: waited 10 s: arm_guard does not answer; is it running?"


def test_a_bag_that_is_not_closed_is_told() -> None:
    one = running(lifecycle(recorded=True))
    one.guarded(STAMP + PERIOD, 1.0)
    judged(one, 1, success=True)
    assert "the recorder did not close: [7]; is it running, and the disk full?" in failure(one)


def test_each_judgement_renews_patience() -> None:
    one = running(lifecycle())
    for tick in range(1, 50):
        assert judged(one, tick) == []
        assert one.waited(1.0 + tick + PATIENCE / 2) == []


def test_an_episode_that_cannot_be_recorded_any_more_ends_as_a_fault() -> None:
    one = running(lifecycle())
    judged(one, 1)
    [end] = one.broken_off(2.0)
    assert isinstance(end, End)
    assert end.outcome == "fault"
    assert one.broken_off(2.1) == []  # it is over
