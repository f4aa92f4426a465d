"""Bin grasping: what is in the tray, how a grasp is checked, and that a bag of grasps reads back as it happened."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rl_ros.algorithms.qt_opt import PROJECTION
from rl_ros.cli import main
from rl_ros.contract import ACTORS, Contract
from rl_ros.episodes.bags import find_bags
from rl_ros.episodes.decisions import FALL
from rl_ros.episodes.distance import SAME_THING
from rl_ros.episodes.ingest import read_episodes
from rl_ros.errors import UserError
from rl_ros.resources import share_directory, share_file
from rl_ros.robots.bin import BinScene
from rl_ros.robots.pybullet_arm import projection_of
from rl_ros.robots.shapes import BROKEN, HELD_OUT, made_up, mesh, narrowest
from rl_ros.tasks.env import BinEnvironment, make
from rl_ros.tasks.grasp import (
    ALIGNED,
    CEILING,
    HELD,
    HIGH,
    LONGEST,
    PRESENT,
    PRESENT_YAW,
    TERMINATE,
    TURNING,
    VIEW,
    Grasp,
    GraspCheck,
    GraspImage,
    GraspRoutine,
    lifted,
)
from rl_ros.tasks.slide import Slide
from rl_ros.training.grasping import Grasp as Outcome
from rl_ros.training.grasping import GraspEpisodes, collect_grasps
from rl_ros.training.live import run_episodes

EMPTY, SOMETHING = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
SOMETHING[30:34, 30:34] = 200


def values(height: float, gap: float = 0.08, image: np.ndarray = EMPTY) -> dict[str, np.ndarray]:
    return {
        "tool_position": np.array([0.5, 0.0, height], np.float32),
        "tool_orientation": np.array([1.0, 0.0, 0.0, 0.0], np.float32),
        "finger_position": np.full(2, gap / 2, np.float32),
        "image": image,
    }


def checked(gap: float, after: np.ndarray) -> list[bool | None]:
    """What a check says at each tick of a hand that comes up with the fingers so far apart, and lets go."""
    check = GraspCheck()
    seen = [values(0.1, gap), *[values(PRESENT[2], gap)] * HELD, *[values(PRESENT[2], 0.08, after)] * FALL]
    return [check.see(each) for each in seen]


@pytest.fixture(scope="module")
def environment() -> BinEnvironment:
    return BinEnvironment()


def test_no_shape_is_both_learned_from_and_held_out() -> None:
    held_out, learned = BinEnvironment("held_out"), BinEnvironment("train")
    for each in (held_out, learned):
        each.close()
    assert set(held_out.world._numbers) == set(HELD_OUT)
    assert set(learned.world._numbers) == set(range(900)) - set(BROKEN)


def test_a_tray_holds_the_same_things_for_the_same_seed_whatever_was_before(environment: BinEnvironment) -> None:
    environment.reset(seed=7)
    first = {name: array.copy() for name, array in environment.values.items()}
    environment.reset(seed=8)
    assert not np.array_equal(environment.values["image"], first["image"])
    environment.reset(seed=7)
    for name, array in first.items():
        np.testing.assert_array_equal(environment.values[name], array)


def test_things_lie_in_the_tray_and_not_within_its_floor(environment: BinEnvironment) -> None:
    inside = []
    for seed in range(8):
        environment.reset(seed=seed)
        places = environment.values["objects_position"].reshape(-1, 3)
        assert len(places) == 5
        for (place, turned), shape in zip(
            environment.world.object_poses().values(), environment.world.shapes.values(), strict=True
        ):
            lowest = (shape.corners @ _rotation(turned).T + place)[:, 2].min()
            assert lowest > -0.003
        inside += (np.abs(places[:, :2] - [0.5, 0.0]) < 0.18).all(axis=1).tolist()
    assert np.mean(inside) > 0.95  # one in two hundred rolls out


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    x, y, z, w = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def test_a_shape_is_narrowest_across_its_longer_side() -> None:
    bar = np.array([[x, y, z] for x in (-0.05, 0.05) for y in (-0.01, 0.01) for z in (0.0, 0.02)])
    heading, width = narrowest(bar)
    assert abs(heading) == pytest.approx(np.pi / 2)
    assert width == pytest.approx(0.02)


@pytest.mark.parametrize("shape", [mesh(0), mesh(950), made_up(3)], ids=lambda shape: shape.name)
def test_what_is_touched_is_within_what_is_seen(shape) -> None:  # type: ignore[no-untyped-def]
    low, high = shape.vertices.min(axis=0) - 1e-9, shape.vertices.max(axis=0) + 1e-9
    assert all(((piece >= low) & (piece <= high)).all() for piece in shape.pieces)
    assert np.ptp(shape.corners, axis=0) == pytest.approx(np.ptp(shape.vertices, axis=0), rel=0.25)


@pytest.mark.parametrize(
    ("gap", "after", "success"),
    [
        (0.03, SOMETHING, True),
        (0.08, SOMETHING, True),  # as wide as the hand: it is not seen to open
        (0.0, SOMETHING, False),  # closed on nothing, while something else rolled
        (0.03, EMPTY, False),  # kept apart, and nothing fell
    ],
)
def test_a_grasp_needs_fingers_kept_apart_and_something_that_falls(
    gap: float, after: np.ndarray, success: bool
) -> None:
    said = checked(gap, after)
    assert said[:-1] == [None] * (len(said) - 1)
    assert said[-1] is success


def test_a_judgement_ends_the_episode_either_way_and_begin_forgets_it() -> None:
    task = Grasp()
    for gap, success in ((0.03, True), (0.0, False)):
        task.begin()
        seen = [*[values(PRESENT[2], gap)] * HELD, *[values(PRESENT[2], 0.08, SOMETHING)] * FALL]
        judged = [task.judge(each, np.zeros(1)) for each in seen]
        assert [each.over for each in judged] == [False] * (len(seen) - 1) + [True]
        assert judged[-1].success is success
        assert judged[-1].reward == float(success)
        assert all(each.reward < 0 for each in judged[:-1])


def test_the_routine_takes_over_when_the_policy_terminates() -> None:
    routine, choice = GraspRoutine(), np.array([0.1, 0.0, 0.0, 0.0, 1.0, 0.0], np.float32)
    np.testing.assert_array_equal(routine.act(values(0.1), lambda: choice), choice)
    choice[TERMINATE] = 1.0
    np.testing.assert_array_equal(routine.act(values(0.1), lambda: choice), [0, 0, 0, 0, 0, 1])
    up = routine.act(values(0.05, 0.02), lambda: pytest.fail("the policy is not asked any more"))
    assert up[2] > 0
    assert up[:2].tolist() == [0.0, 0.0]  # out of the tray before it goes sideways


def test_the_routine_ends_a_grasp_that_takes_too_long_and_keeps_the_hand_below_the_ceiling() -> None:
    routine, up = GraspRoutine(), np.array([0.0, 0.0, 0.4, 0.0, 1.0, 0.0], np.float32)
    said = [routine.act(values(CEILING - 0.01), lambda: up) for _ in range(LONGEST)]
    assert all(each[2] * 0.2 <= 0.01 + 1e-6 for each in said[:-1])
    assert [each[TERMINATE] for each in said] == [0.0] * (LONGEST - 1) + [1.0]


def test_the_check_turns_the_hand_to_be_seen_before_it_comes_up() -> None:
    def risen(turns: bool) -> tuple[list[float], float]:
        """Heights at each tick of a check that begins a radian from where it is seen, and the heading at its end."""
        routine, height, yaw, heights = GraspRoutine(), 0.15, PRESENT_YAW + 1.0, []
        nobody = partial(pytest.fail, "the policy is not asked any more")
        routine.act(values(height), lambda: np.array([0, 0, 0, 0, 0, 1], np.float32))
        while height < HIGH and len(heights) < 20:
            tool = [np.cos(yaw / 2), np.sin(yaw / 2), 0.0, 0.0]  # pointing down
            said = routine.act(values(height) | {"tool_orientation": np.array(tool, np.float32)}, nobody)
            height += 0.2 * float(said[2])
            yaw += 0.2 * float(said[3]) * turns
            heights.append(height)
        return heights, yaw

    heights, yaw = risen(True)
    assert yaw == pytest.approx(PRESENT_YAW, abs=ALIGNED)
    assert len(heights) <= 4
    heights, _ = risen(False)  # a wrist that cannot turn
    assert max(heights[: TURNING - 1]) < HIGH < heights[-1]


def test_another_thing_than_the_picture_shows_is_worth_no_more_than_none() -> None:
    shown, other = np.zeros(4, np.float32), np.full(4, SAME_THING, np.float32)
    for latent, success in ((shown, True), (other, False)):
        task = GraspImage()
        seen = [*[values(PRESENT[2], 0.03)] * HELD, *[values(PRESENT[2], 0.08, SOMETHING)] * FALL]
        judged = [task.judge(each | {"latent": latent}, shown) for each in seen]
        assert [each.over for each in judged] == [False] * (len(seen) - 1) + [True]
        assert (judged[-1].success, judged[-1].reward) == (success, float(success))


def test_a_picture_shows_what_is_wanted_in_the_hand_and_nothing_else_moved(environment: BinEnvironment) -> None:
    task, world = GraspImage(), environment.world
    top, left, height, width = VIEW
    shown = (slice(top, top + height), slice(left, left + width))
    for seed in range(5):
        world.reset(seed)
        lies = np.stack([position for position, _ in world.object_poses().values()])
        wanted = task.wanted(seed, len(lies))
        task.arrange(world, seed)
        held, picture = np.stack([p for p, _ in world.object_poses().values()]), world.image()
        assert np.flatnonzero(np.abs(held - lies).max(axis=1) > 1e-6).tolist() == [wanted]
        assert held[wanted] == pytest.approx([*PRESENT[:2], PRESENT[2] + lies[wanted, 2] - 0.016], abs=1e-3)
        [shape] = [shape for number, shape in enumerate(world.shapes.values()) if number == wanted]
        # Its colours, whatever the light makes of them.
        apart = np.abs(picture[shown] / 255.0 - np.array(shape.colour)).max(axis=-1)
        assert (apart < 0.25).sum() >= 5, (seed, shape.name)


def test_lifted_is_what_is_high_just_before_the_hand_opens() -> None:
    tool = np.array([[0.5, 0, 0.1], *[[0.5, 0, HIGH + 0.01]] * (HELD + 2)])
    things = np.zeros((len(tool), 6))
    assert not lifted(tool, things).any()
    things[1, 2] = 0.3  # and is lost a moment later
    assert not lifted(tool, things).any()
    things[HELD, 5] = 0.3
    assert lifted(tool, things).tolist() == [False, True]


def test_the_explorer_succeeds_often_enough_to_learn_from_and_the_check_agrees_with_the_simulator(
    environment: BinEnvironment,
) -> None:
    runner, expert = GraspEpisodes(environment), environment.judge.expert(1.0)
    found = []
    for seed in range(20):
        expert.reset(seed)
        found.append(runner.run(seed, seed, expert.act))
    assert 0.15 <= np.mean([grasp.success for grasp in found]) <= 0.6
    assert [grasp.success for grasp in found] == [grasp.lifted for grasp in found]


def test_a_bag_of_many_grasps_reads_back_as_it_happened(tmp_path: Path) -> None:
    contract = Contract.load("grasp")
    summary = collect_grasps(tmp_path, 3, 100, workers=0)
    collect_grasps(tmp_path, 2, 100, workers=1)
    bags = sorted(tmp_path.iterdir())
    assert [bag.name for bag in bags] == ["grasps_0000000_3", "grasps_0000003_2"]
    episodes, refused = read_episodes(bags, contract)
    assert refused == []
    assert [episode.seed for episode in episodes] == [100, 101, 102, 103, 104]
    assert np.mean([episode.success for episode in episodes[:3]]) == pytest.approx(summary["success"], abs=1e-3)
    assert all(episode.problems == () for episode in episodes)
    environment = BinEnvironment()
    runner, expert = GraspEpisodes(environment), environment.judge.expert(1.0)
    expert.reset(104)
    runner.run(104, 0, expert.act)
    for name in contract.observation | contract.auxiliary:
        recorded = episodes[4].value(name)
        np.testing.assert_array_equal(recorded, np.stack([seen[name] for seen in runner.seen]))
    environment.close()


@pytest.mark.parametrize(
    ("there", "first"),
    [
        ("grasps_000_000004", 0),  # of rl_ros train, as are the next two
        ("grasps_000_000004_2", 0),
        ("grasps_1000000_000004_interrupted", 0),
        ("grasps_0000000_250_interrupted", 250),
        ("grasps_0000250_7_interrupted_2", 257),
        ("grasps_of_mine", 0),
    ],
)
def test_grasps_are_numbered_after_those_that_collecting_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str, first: int
) -> None:
    (tmp_path / there).mkdir()
    monkeypatch.setattr("rl_ros.training.grasping.write_bag", grasps_of_nothing)
    collect_grasps(tmp_path, 2, 100, workers=0)
    assert (tmp_path / f"grasps_{first:07d}_2").read_text() == f"{[100 + first, 101 + first]}"


def grasps_of_nothing(_: BinEnvironment, out: Path, name: str, seeds: range, *others: object) -> list[Outcome]:
    """In the place of `write_bag`: a file with the seeds."""
    (out / name).write_text(str(list(seeds)))
    return [Outcome(seed, success=True, lifted=True, anything=True, ticks=1) for seed in seeds]


def test_a_number_of_workers_that_is_none_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["collect", "grasp", "--grasps", "1", "--out", str(tmp_path), "--workers", "-1"]
    assert main(given) == 2
    assert "--workers -1: expected at least 0" in capsys.readouterr().err


def test_a_worker_that_is_killed_ends_collecting_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl_ros.training.grasping.write_bag", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with at_most(60), pytest.raises(UserError, match=f"{tmp_path}: a process that recorded grasps was killed"):
        collect_grasps(tmp_path, 2, 0, workers=1)


def test_an_interrupt_waits_for_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(environment: BinEnvironment, out: Path, name: str, seeds: range, *others: object) -> list[Outcome]:
        return grasps_of_nothing(environment, out, name, seeds) if 0 in seeds else signal.pause()  # type: ignore[return-value]

    def interrupt(done: int, successes: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rl_ros.training.grasping.EPISODES_A_BAG", 1)
    monkeypatch.setattr("rl_ros.training.grasping.write_bag", write)
    with at_most(60), pytest.raises(KeyboardInterrupt):
        collect_grasps(tmp_path, 4, 0, workers=2, progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["grasps_0000000_1"]


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Fails what would otherwise wait for ever."""

    def fail(*_: object) -> None:
        pytest.fail(f"still waiting after {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_grasps_of_a_policy_are_recorded_as_its_own_and_follow_from_the_seed(tmp_path: Path) -> None:
    bundle = str(share_directory() / "policies" / "grasp")
    for run, exploration in (("first", 0.1), ("again", 0.1), ("plain", 0.0)):
        collect_grasps(tmp_path / run, 1, 7, policy=bundle, exploration=exploration, workers=0)
    found = {run: read_episodes(find_bags(tmp_path / run), Contract.load("grasp"))[0][0] for run in ("first", "again")}
    [plain], _ = read_episodes(find_bags(tmp_path / "plain"), Contract.load("grasp"))
    policy = 1 + ACTORS.index("policy")
    assert (found["first"].actor[found["first"].has_transition] == policy).all()
    np.testing.assert_array_equal(found["first"].action, found["again"].action)
    assert not np.array_equal(found["first"].action, plain.action)
    command = [sys.executable, "-m", "rl_ros.cli", "collect", "grasp", "--grasps", "1", "--out", str(tmp_path / "none")]
    refused = subprocess.run([*command, "--policy", "/nowhere"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "there is no such policy bundle" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_live_graph_records_what_happens_in_process_to_the_bit(tmp_path: Path) -> None:
    arguments = {"bags": str(tmp_path / "live"), "seed": "1", "policy": "", "expert_noise": "1.0"}
    run_episodes("grasp", arguments, 1, tmp_path / "log")
    collect_grasps(tmp_path / "fast", 1, 1, workers=0)
    contract = Contract.load("grasp")
    episodes, refused = read_episodes([*(tmp_path / "live").iterdir(), *(tmp_path / "fast").iterdir()], contract)
    assert refused == []
    live, fast = episodes
    for name in contract.observation | contract.auxiliary:
        np.testing.assert_array_equal(live.value(name), fast.value(name))
    for column in ("action", "reward", "terminated", "truncated", "desired_goal"):
        np.testing.assert_array_equal(getattr(live, column), getattr(fast, column))
    assert (live.outcome, live.seed) == (fast.outcome, fast.seed)


def test_the_default_projection_is_that_of_the_scenes_camera() -> None:
    camera = BinScene.load(share_file("sim/scenes/grasp.yaml")).camera
    assert np.reshape(PROJECTION, (3, 4)) == pytest.approx(projection_of(camera), rel=1e-4, abs=1e-4)


def test_a_tray_in_the_same_process_changes_nothing_elsewhere() -> None:
    def slide() -> np.ndarray:
        environment, expert = make("rl_ros/Slide-v0"), Slide().expert(0.0)
        environment.reset(0)
        expert.reset(0)
        for _ in range(environment.episode_length):
            environment.step(expert.act(environment.values, environment.desired_goal))
        environment.close()
        return environment.values["object_position"]

    before = slide()
    tray = make("rl_ros/Grasp-v0")
    tray.reset(0)
    np.testing.assert_array_equal(slide(), before)
    tray.close()
