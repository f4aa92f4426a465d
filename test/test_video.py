"""Videos of episodes: every tick is there, enlarged, and the end says how it went."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from test_qt_opt import episode

from rl_ros.cli import main
from rl_ros.episodes.video import BAD, BAR, GOOD, HOLD, shown
from rl_ros.training.grasping import collect_grasps

RATE = 5.0


def test_every_tick_is_shown_and_the_last_one_stays_in_the_colour_of_its_outcome() -> None:
    episodes = [episode(2, 6, True, 0), episode(1, 5, False, 1)]
    frames = list(shown(episodes, RATE))
    stays = round(HOLD * RATE)
    assert len(frames) == sum(len(each.stamps) + stays for each in episodes)
    first, ends = frames[0], (len(episodes[0].stamps) - 1, len(frames) - 1)
    assert first.shape == (64 * 6 + BAR, 64 * 6, 3)
    np.testing.assert_array_equal(first[0:-BAR:6, ::6], episodes[0].observation["image"][0])
    assert [tuple(frames[end][-1, -1, ::-1]) for end in ends] == [GOOD, BAD]


def test_the_command_makes_a_video_of_bags(tmp_path: Path) -> None:
    collect_grasps(tmp_path / "bags", 3, seed=0, workers=0)
    file = tmp_path / "grasps.mp4"
    assert main(["report", str(tmp_path / "bags"), "--video", str(file), "--episodes", "2"]) == 0
    video = cv2.VideoCapture(str(file))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(RATE)
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) > 2 * (5 + HOLD * RATE)


def test_bags_without_a_camera_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path), "--video", str(tmp_path / "x.mp4")]) != 0
    assert str(tmp_path) in capsys.readouterr().err
