"""Whether observations are answered in time, and whether pictures still change."""

import numpy as np
import pytest

from rl_ros.contract import Contract
from rl_ros.episodes.assemble import Tick
from rl_ros.episodes.pace import KEPT, Pace
from rl_ros.episodes.still import StillPictures

PERIOD = 0.1
TICK = 100_000_000


def test_what_an_answer_takes_is_told_by_its_parts_and_begins_anew() -> None:
    pace = Pace(PERIOD)
    for number in range(1, 101):
        pace.arrived(number * TICK, number * PERIOD)
        waited = pace.waited(number * TICK, number * PERIOD + 0.001)
        pace.answered(Tick(number * TICK, ages={"image": 0.02}), waited, 0.002 if number < 100 else 0.05, 0.003)
    values, late = pace.report()
    assert late == ""
    assert (values["answered"], values["missed"]) == ("100", "0")
    assert values["wait_p50_ms"] == "1.000"
    assert (values["inference_p50_ms"], values["inference_max_ms"]) == ("2.000", "50.000")
    assert values["answer_p50_ms"] == "6.000"
    assert values["age.image_p99_ms"] == "20.000"
    assert pace.report()[0] == {"answered": "0", "missed": "0", "late": "0", "skipped": "0", "invalid": "0"}


def test_what_was_not_answered_in_time_is_counted_by_the_reason() -> None:
    pace = Pace(PERIOD)
    pace.arrived(TICK, 1.0)
    pace.answered(Tick(TICK), pace.waited(TICK, 1.08), 0.03, 0.0)  # within the period each, but not together
    pace.skipped += 2
    pace.invalid += 1
    values, late = pace.report()
    assert (values["missed"], values["late"], values["skipped"], values["invalid"]) == ("4", "1", "2", "1")
    assert late == "observations not answered in time: 1 late, 2 skipped, 1 invalid"


def test_observations_that_nobody_asks_for_do_not_pile_up() -> None:
    pace = Pace(PERIOD)
    for number in range(10 * KEPT):
        pace.arrived(number, 0.0)
    assert len(pace._arrived) <= KEPT


def tick(number: int, picture: int, x: float, age: float = 0.0) -> Tick:
    values = {
        "image": np.full((64, 64, 3), picture, np.uint8),
        "tool_position": np.array([x, 0.0, 0.2], np.float32),
        "finger_position": np.zeros(2, np.float32),
    }
    return Tick(number * TICK, values, ages=dict.fromkeys(values, age))


@pytest.fixture
def still() -> StillPictures:
    return StillPictures(Contract.load("lift").observation)


def test_the_same_picture_of_an_arm_that_moved_is_of_a_frozen_camera(still: StillPictures) -> None:
    assert still.judge(tick(1, 7, 0.50)) == ()
    assert still.judge(tick(2, 7, 0.505)) == ()  # too little to be sure
    [problem] = still.judge(tick(3, 7, 0.53))
    assert problem.startswith("image: frozen, the same picture to the last bit although tool_position moved by 0.030")
    assert still.judge(tick(4, 8, 0.60)) == ()  # it sees again
    still.restart()
    assert still.judge(tick(5, 8, 0.80)) == ()


def test_an_arm_at_rest_may_look_the_same(still: StillPictures) -> None:
    assert not any(still.judge(tick(number, 7, 0.5)) for number in range(20))


def test_a_slow_camera_whose_message_serves_two_ticks_is_not_frozen(still: StillPictures) -> None:
    assert still.judge(tick(1, 7, 0.50)) == ()
    assert still.judge(tick(2, 7, 0.60, age=0.1)) == ()
