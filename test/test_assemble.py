"""The assembler: ticks from messages, whatever the order in which topics come in."""

import dataclasses
from collections.abc import Iterable

import numpy as np
import pytest
from helpers import PERIOD, START, Raw, episode_messages, goal_message, restamped, small_contract, tick_messages

from rl_ros.contract import Contract, Key
from rl_ros.episodes import messages
from rl_ros.episodes.assemble import KEPT, KEPT_NS, MAX_PENDING, Assembler, EpisodeGate, Tick

MILLISECOND = 1_000_000


def vector_key(topic: str, alignment: str = "latest", max_age: float = 0.2) -> Key:
    return Key(
        topic,
        "sensor_msgs/msg/JointState",
        "position",
        (1,),
        "float64",
        names=("value",),
        alignment=alignment,  # type: ignore[arg-type]
        max_age=max_age,
    )


KEYS = {
    "camera": vector_key("/camera"),
    "joints": vector_key("/joints", "latest", 0.05),
    "action": vector_key("/action", "exact"),
    "goal": vector_key("/goal", "held"),
}


def vector(topic: str, stamp: int, number: float) -> Raw:
    return (topic, stamp, messages.joint_state_cdr(stamp, ["value"], [number]))


def push_all(assembler: Assembler | EpisodeGate, raw: Iterable[Raw]) -> list[Tick]:
    return [tick for topic, _, cdr in raw for tick in assembler.push(topic, cdr)]


def only(ticks: list[Tick]) -> Tick:
    assert len(ticks) == 1
    return ticks[0]


def content(ticks: list[Tick]) -> list[tuple[int, dict[str, list[float]], tuple[str, ...]]]:
    return [(t.stamp, {name: array.tolist() for name, array in t.values.items()}, t.problems) for t in ticks]


def assembler(**keys: Key) -> Assembler:
    return Assembler(keys or KEYS, "camera")


def complete(stamp: int, number: float = 1.0) -> list[Raw]:
    return [vector(f"/{name}", stamp, number) for name in ("camera", "joints", "action", "goal")]


def test_a_tick_holds_what_each_key_says() -> None:
    tick = only(push_all(assembler(), complete(START)))
    assert tick.stamp == START
    assert tick.valid
    assert tick.values == {name: np.array([1.0]) for name in KEYS}


def random_streams(rng: np.random.Generator) -> dict[str, list[Raw]]:
    """Per topic: late, lost, repeated and out of order messages, and numbers that are not finite."""
    ticks = int(rng.integers(1, MAX_PENDING))
    streams: dict[str, list[Raw]] = {"/goal": [vector("/goal", START - 1, 7.0)]}
    for topic, period in (("/camera", 100), ("/joints", 10), ("/action", 100)):
        times = np.arange(0, ticks * 100, period)
        stamps = START + times * MILLISECOND
        if topic == "/joints":
            stamps = stamps + rng.integers(0, 3, len(stamps)) * MILLISECOND
            stamps = stamps[rng.random(len(stamps)) < rng.choice([1.0, 0.5, 0.1])]
        else:
            stamps = stamps[rng.random(len(stamps)) < 0.9]
        numbers = np.where(rng.random(len(stamps)) < 0.05, np.nan, rng.normal(size=len(stamps)))
        stream = [vector(topic, int(stamp), float(x)) for stamp, x in zip(stamps, numbers, strict=True)]
        for _ in range(rng.integers(0, 3)):
            if stream:
                index = int(rng.integers(0, len(stream)))
                # A message again, at once or some time later.
                stream.insert(min(len(stream), index + int(rng.integers(1, 4))), stream[index])
        streams[topic] = stream
    return streams


def interleaved(streams: dict[str, list[Raw]], rng: np.random.Generator) -> list[Raw]:
    order = np.repeat(np.arange(len(streams)), [len(stream) for stream in streams.values()])
    rng.shuffle(order)
    iterators = [iter(stream) for stream in streams.values()]
    return [next(iterators[index]) for index in order]


def test_the_answer_is_the_same_however_topics_interleave() -> None:
    rng = np.random.default_rng(0)
    valid = invalid = 0
    for _ in range(60):
        streams = random_streams(rng)
        in_file_order = [raw for stream in streams.values() for raw in stream]
        expected = None
        for order in (in_file_order, *(interleaved(streams, rng) for _ in range(4))):
            one = assembler()
            found = content(push_all(one, order) + one.finish())
            # NaN is unlike itself, so the text is compared.
            assert expected is None or repr(found) == repr(expected)
            expected = found
        assert expected is not None
        assert [stamp for stamp, _, _ in expected] == sorted({stamp for _, stamp, _ in streams["/camera"]})
        valid += sum(not problems for _, _, problems in expected)
        invalid += sum(bool(problems) for _, _, problems in expected)
    assert min(valid, invalid) > 100  # both kinds were compared


def test_the_shipped_contract_gives_equal_ticks_from_any_interleaving() -> None:
    contract = small_contract()
    rng = np.random.default_rng(1)
    keys = contract.observation | contract.auxiliary | {"desired_goal": contract.goal.desired_goal}
    streams: dict[str, list[Raw]] = {}
    for raw in episode_messages(contract, 10):
        if raw[0] in {key.topic for key in keys.values()}:
            streams.setdefault(raw[0], []).append(raw)
    for _ in range(20):
        one = Assembler(keys, contract.reference)
        ticks = push_all(one, interleaved(streams, rng)) + one.finish()
        assert [tick.values["image"][0, 0, 0] for tick in ticks] == list(range(10))
        assert all(tick.valid for tick in ticks)


def test_a_tick_waits_until_no_message_can_change_it() -> None:
    one = assembler()
    camera, joints, action, goal = complete(START)
    early = vector("/joints", START - 10 * MILLISECOND, 5.0)
    assert push_all(one, [goal, action, camera, early]) == []
    assert only(push_all(one, [joints])).values["joints"] == [1.0]


def test_latest_takes_the_newest_at_or_before_and_nothing_after() -> None:
    joints = [vector("/joints", START + shift * MILLISECOND, shift) for shift in (-20, -10, 10)]
    camera, _, action, goal = complete(START)
    tick = only(push_all(assembler(), [goal, action, camera, *joints]))
    assert tick.values["joints"] == [-10.0]


@pytest.mark.parametrize(("age", "valid"), [(0, True), (50, True), (51, False), (5000, False)])
def test_what_is_too_old_is_not_taken(age: int, valid: bool) -> None:
    joints = [vector("/joints", START - age * MILLISECOND, 2.0), vector("/joints", START + MILLISECOND, 3.0)]
    camera, _, action, goal = complete(START)
    tick = only(push_all(assembler(), [goal, action, camera, *joints]))
    assert tick.valid is valid
    if not valid:
        assert "joints" not in tick.values
        assert tick.problems == (f"joints: {age / 1000:.3f} s old, at most 0.050 s allowed",)


def test_exact_takes_nothing_but_its_own_stamp() -> None:
    camera, joints, _, goal = complete(START)
    neighbours = [vector("/action", START - 1, 1.0), vector("/action", START + 1, 1.0)]
    tick = only(push_all(assembler(), [goal, camera, joints, *neighbours]))
    assert tick.problems == ("action: nothing on /action at this stamp",)
    assert "action" not in tick.values


def test_held_takes_the_newest_however_old() -> None:
    camera, joints, action, _ = complete(START)
    goals = [vector("/goal", START - 900_000 * MILLISECOND, 1.0), vector("/goal", START - 800_000 * MILLISECOND, 2.0)]
    tick = only(push_all(assembler(), [*goals, camera, joints, action]))
    assert tick.values["goal"] == [2.0]


def test_a_tick_waits_for_what_is_held_and_then_needs_no_other() -> None:
    one = assembler()
    camera, joints, action, goal = complete(START)
    assert push_all(one, [camera, joints, action]) == []
    assert only(push_all(one, [goal])).valid
    assert only(push_all(one, complete(START + PERIOD)[:3])).values["goal"] == [1.0]


def test_a_topic_that_says_nothing_makes_the_tick_invalid_and_is_named() -> None:
    one = assembler()
    push_all(one, complete(START)[:1])
    assert one.missing() == ["/joints", "/action", "/goal"]
    tick = only(one.finish())
    assert tick.problems == (
        "joints: nothing on /joints",
        "action: nothing on /action",
        "goal: nothing on /goal",
    )
    assert tick.values.keys() == {"camera"}
    assert one.finish() == []


def test_missing_names_what_the_oldest_tick_waits_for() -> None:
    one = assembler()
    assert one.missing() == ["/camera", "/joints", "/action", "/goal"]
    camera, joints, action, goal = complete(START)
    push_all(one, [joints, goal])
    assert one.missing() == ["/camera", "/action"]
    push_all(one, [camera, action, *complete(START + PERIOD)[::3]])
    assert one.missing() == ["/joints", "/action"]  # for the second tick; a held goal is enough


def test_messages_that_go_back_in_time_are_rejected_and_counted() -> None:
    one = assembler()
    backwards = [vector("/joints", START + 20, 1.0), vector("/joints", START + 10, 2.0)]
    camera, joints, action, goal = complete(START)
    tick = only(push_all(one, [joints, *backwards, camera, action, goal]))
    assert tick.values["joints"] == [1.0]
    assert one.rejected == {"/camera": 0, "/joints": 1, "/action": 0, "/goal": 0}


def test_of_two_messages_of_one_stamp_the_second_counts_and_no_tick_is_doubled() -> None:
    one = assembler()
    camera, joints, action, goal = complete(START)
    again = [vector("/action", START, 9.0), vector("/camera", START, 8.0)]
    tick = only(push_all(one, [goal, camera, action, *again, joints]))
    assert (tick.values["camera"], tick.values["action"]) == ([8.0], [9.0])
    assert sum(one.rejected.values()) == 0
    assert one.finish() == []


def test_a_reference_that_goes_back_in_time_makes_no_tick() -> None:
    one = assembler()
    ticks = push_all(one, [*complete(START), *complete(START - PERIOD), *complete(START + PERIOD)])
    assert [tick.stamp for tick in ticks] == [START, START + PERIOD]
    assert one.rejected["/camera"] == 1


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_make_the_tick_invalid(number: float) -> None:
    camera, _, action, goal = complete(START)
    tick = only(push_all(assembler(), [camera, action, goal, vector("/joints", START, number)]))
    assert not tick.valid
    assert tick.problems == (f"joints: not finite: [{number}]",)


def test_a_message_that_cannot_be_read_makes_the_tick_invalid_with_the_reason() -> None:
    camera, _, action, goal = complete(START)
    other = ("/joints", START, messages.joint_state_cdr(START, ["other"], [1.0]))
    tick = only(push_all(assembler(), [camera, action, goal, other]))
    assert tick.problems == ("joints: no joint value among other",)
    assert "joints" not in tick.values


def test_bytes_without_a_stamp_are_counted_and_change_nothing() -> None:
    one = assembler()
    assert one.push("/joints", b"") == []
    assert one.push("/joints", b"\0\1\0\0abcdefg") == []
    assert one.rejected["/joints"] == 2
    assert only(push_all(one, complete(START))).valid


def test_a_topic_that_stays_silent_delays_ticks_but_not_for_ever() -> None:
    one = assembler()
    given_out = []
    for tick in range(MAX_PENDING + 5):
        given_out += push_all(one, [vector("/camera", START + tick * PERIOD, tick)])
    assert [tick.stamp for tick in given_out] == [START + tick * PERIOD for tick in range(5)]
    assert not any(tick.valid for tick in given_out)
    assert len(one.finish()) == MAX_PENDING


def test_two_keys_of_one_topic_come_from_one_message() -> None:
    first = vector_key("/camera")
    second = dataclasses.replace(first, names=("other",))
    one = Assembler({"camera": first, "other": second}, "camera")
    tick = only(one.push("/camera", messages.joint_state_cdr(START, ["value", "other"], [1.0, 2.0])))
    assert (tick.values["camera"], tick.values["other"]) == ([1.0], [2.0])


def test_after_a_restart_nothing_of_before_is_known() -> None:
    one = assembler()
    push_all(one, complete(START))
    push_all(one, [vector("/camera", START + PERIOD, 1.0)])
    one.restart(START + 10 * PERIOD)
    assert push_all(one, complete(START + 9 * PERIOD)) == []
    assert one.finish() == []
    camera, joints, action, goal = complete(START + 10 * PERIOD, 4.0)
    assert push_all(one, [camera, joints, action]) == []  # the goal of before is not held on to
    assert only(push_all(one, [goal])).values["goal"] == [4.0]


def test_a_restart_allows_time_to_begin_again() -> None:
    one = assembler()
    push_all(one, complete(START))
    one.restart()
    assert only(push_all(one, complete(START - 50 * PERIOD))).valid


@pytest.fixture
def contract() -> Contract:
    return small_contract()


def gate(contract: Contract) -> EpisodeGate:
    keys = contract.observation | contract.auxiliary | {"desired_goal": contract.goal.desired_goal}
    return EpisodeGate(Assembler(keys, contract.reference))


def observed(contract: Contract, raw: list[Raw]) -> list[Raw]:
    topics = {key.topic for key in (*contract.observation.values(), *contract.auxiliary.values())}
    return [each for each in raw if each[0] in topics | {contract.goal.desired_goal.topic}]


def test_the_gate_gives_out_nothing_before_an_episode_starts_and_nothing_is_lost(contract: Contract) -> None:
    one = gate(contract)
    first = [goal_message(contract), *observed(contract, tick_messages(contract, 0, 3))]
    assert push_all(one, first) == []
    assert [tick.stamp for tick in one.begin(START - 1)] == [START]
    ticks = push_all(one, observed(contract, tick_messages(contract, 1, 3)))
    assert [tick.stamp for tick in ticks] == [START + PERIOD]


def test_the_gate_forgets_the_episode_before(contract: Contract) -> None:
    one = gate(contract)
    second = START + 50 * PERIOD
    one.begin(START - 1)
    assert len(push_all(one, observed(contract, episode_messages(contract, 3)))) == 3
    one.prepare()
    late = observed(contract, tick_messages(contract, 3, 9))
    assert push_all(one, late) == []  # what still comes of the first episode is not answered
    assert push_all(one, observed(contract, episode_messages(contract, 1, second))) == []
    ticks = one.begin(second - 1)
    assert [tick.stamp for tick in ticks] == [second]
    assert ticks[0].valid


def test_the_gate_keeps_a_bounded_number_of_messages_and_those_are_the_newest(contract: Contract) -> None:
    one = gate(contract)
    for tick in range(KEPT + 100):
        one.push("/camera/image_raw", messages.image_cdr(START + tick, "", np.zeros((4, 4, 3), np.uint8)))
    stamps = [tick.stamp for tick in one.begin(0) + one.assembler.finish()]
    assert stamps == [START + tick for tick in range(100, KEPT + 100)]


@pytest.mark.parametrize("shifts", [(0,), (0, -500_000_000_000)], ids=["one clock", "a clock that went back"])
def test_the_gate_keeps_of_each_topic_what_is_near_its_newest(contract: Contract, shifts: tuple[int, ...]) -> None:
    one = gate(contract)
    raw = observed(contract, episode_messages(contract, 30))
    quiet = "/joint_states"
    first = next(each for each in raw if each[0] == quiet)
    for shift in shifts:
        said = [first, *(each for each in raw if each[0] != quiet)]
        push_all(one, [(topic, stamp + shift, restamped(cdr, stamp + shift)) for topic, stamp, cdr in said])
    ticks = one.begin(START + shifts[-1] - 1) + one.assembler.finish()
    last = [tick for tick in range(30) if (29 - tick) * PERIOD <= KEPT_NS]
    assert [tick.stamp for tick in ticks] == [START + shifts[-1] + tick * PERIOD for tick in last]
    assert not any(f"nothing on {quiet}" in problem for tick in ticks for problem in tick.problems)
    assert ticks[0].values["image"][0, 0, 0] == last[0]


def offered(key: Key, *shifts: int, after: int = 1000) -> Tick:
    """The tick of a key that was offered messages so many ms from it; each holds its shift."""
    one = Assembler({"camera": KEYS["camera"], "key": key}, "camera")
    raw = [vector("/key", START + shift * MILLISECOND, shift) for shift in (*shifts, after)]
    return only(push_all(one, [vector("/camera", START, 1.0), *raw]))


@pytest.mark.parametrize(
    ("shifts", "taken"), [((-30, 20), 20), ((-20, 30), -20), ((-20, 20), -20), ((-50, 0, 1), 0), ((-50,), -50)]
)
def test_nearest_takes_the_closest_before_or_after_and_of_two_the_earlier(shifts: tuple[int, ...], taken: int) -> None:
    tick = offered(vector_key("/key", "nearest", 0.05), *shifts)
    assert tick.valid
    assert tick.values["key"] == [taken]


@pytest.mark.parametrize("shifts", [(-51,), (-90, 51), (51,)])
def test_nearest_takes_nothing_further_than_allowed_on_either_side(shifts: tuple[int, ...]) -> None:
    tick = offered(vector_key("/key", "nearest", 0.05), *shifts)
    assert tick.problems == ("key: 0.051 s away, at most 0.050 s allowed",)
    assert "key" not in tick.values


@pytest.mark.parametrize(
    ("shifts", "taken"), [((-10, 40, 45), 40), ((-10, 0, 1), 0), ((-50, 50), 50), ((50,), 50), ((0,), 0)]
)
def test_next_takes_the_first_at_or_after_the_tick_however_close_one_before_is(
    shifts: tuple[int, ...], taken: int
) -> None:
    tick = offered(vector_key("/key", "next", 0.05), *shifts)
    assert tick.valid
    assert tick.values["key"] == [taken]


def test_next_takes_nothing_later_than_allowed_and_nothing_of_before() -> None:
    assert offered(vector_key("/key", "next", 0.05), -1, 51).problems == (
        "key: 0.051 s later, at most 0.050 s allowed",
    )
    one = Assembler({"camera": KEYS["camera"], "key": vector_key("/key", "next")}, "camera")
    push_all(one, [vector("/key", START - MILLISECOND, 1.0), vector("/camera", START, 1.0)])
    assert only(one.finish()).problems == ("key: nothing on /key after this stamp",)


def window_key(length: int, max_age: float = 0.2) -> Key:
    return dataclasses.replace(vector_key("/key", "latest", max_age), alignment="window", shape=(length, 1))


def test_a_window_holds_the_last_messages_at_or_before_the_tick_the_oldest_first() -> None:
    tick = offered(window_key(3), -40, -30, -20, -10, 0, 10)
    assert tick.valid
    assert tick.values["key"].tolist() == [[-20.0], [-10.0], [0.0]]


def test_a_window_that_is_not_full_or_reaches_too_far_back_makes_the_tick_invalid() -> None:
    assert offered(window_key(3), -10, 0).problems == ("key: 2 messages on /key, a window of 3 expected",)
    assert offered(window_key(3, 0.05), -51, -10, 0).problems == ("key: 0.051 s old, at most 0.050 s allowed",)


def every_alignment() -> dict[str, Key]:
    return {
        **KEYS,
        "near": vector_key("/joints", "nearest", 0.02),
        "near_camera": vector_key("/camera", "nearest", 0.05),
        "next": vector_key("/joints", "next", 0.02),
        "window": dataclasses.replace(window_key(5, 0.1), topic="/joints"),
    }


def test_every_alignment_gives_the_same_however_topics_interleave() -> None:
    rng = np.random.default_rng(2)
    taken = dict.fromkeys(every_alignment(), 0)
    for _ in range(40):
        streams = random_streams(rng)
        expected = None
        for order in ([raw for stream in streams.values() for raw in stream], interleaved(streams, rng)):
            one = assembler(**every_alignment())
            ticks = push_all(one, order) + one.finish()
            found = content(ticks)
            assert expected is None or repr(found) == repr(expected)
            expected = found
        for tick in ticks:
            for name in tick.values:
                taken[name] += 1
    assert min(taken.values()) > 50


def test_columns_hold_the_same_bits_and_reasons_as_ticks() -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        streams = random_streams(rng)
        order = interleaved(streams, rng)
        one, other = assembler(**every_alignment()), assembler(**every_alignment())
        ticks = push_all(one, order) + one.finish()
        aligned = [a for topic, _, cdr in order for a in other.align(topic, cdr)] + other.align_rest()
        assert [a.stamp for a in aligned] == [tick.stamp for tick in ticks]
        for name in one.keys:
            column = other.read_column(name, aligned)
            assert column.values.dtype == one.keys[name].dtype
            good = [row for row, tick in enumerate(ticks) if not any(p.startswith(f"{name}: ") for p in tick.problems)]
            assert column.rows.tolist() == good
            for row, array in zip(column.rows, column.values, strict=True):
                np.testing.assert_array_equal(array, ticks[row].values[name])
            reasons = {row: f"{name}: {reason}" for row, reason in column.problems.items()}
            assert reasons == {
                row: problem
                for row, tick in enumerate(ticks)
                for problem in tick.problems
                if problem.startswith(f"{name}: ")
            }
