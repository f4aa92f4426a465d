"""The simulated twin: it repeats itself exactly, grasps solidly and sees the cube."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from rl_ros.errors import UserError
from rl_ros.resources import share_file
from rl_ros.robots.arm import Arm, quaternion
from rl_ros.robots.pybullet_arm import PyBulletArm, Scene

CUBE_EDGE = 0.045


@pytest.fixture(scope="module")
def arm() -> Arm:
    return Arm()


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.load(share_file("sim/scenes/lift.yaml"))


@pytest.fixture(scope="module")
def world(scene: Scene, arm: Arm) -> Iterator[PyBulletArm]:
    with PyBulletArm(scene, arm) as world:
        yield world


def _move(world: PyBulletArm, position: NDArray[np.float64], duration: float = 1.0) -> None:
    arm = world.arm
    positions, error = arm.inverse(world.joint_state().positions[:7], position, arm.down(), iterations=50)
    assert error < 1e-4
    world.set_arm_target(positions, duration)
    world.advance(duration)


def _pick(world: PyBulletArm, offset: tuple[float, float] = (0.0, 0.0)) -> float:
    """Grasps at the cube's place plus an offset, lifts, and returns the cube's height."""
    grasp = world.object_poses()["cube"][0] + (*offset, 0.0)
    grasp[2] = 0.02
    world.set_gripper_target(0.04)
    _move(world, grasp + (0.0, 0.0, 0.12))
    _move(world, grasp)
    world.set_gripper_target(0.0)
    world.advance(0.5)
    _move(world, grasp + (0.0, 0.0, 0.18))
    return float(world.object_poses()["cube"][0][2])


def _episode(world: PyBulletArm, seed: int) -> list[NDArray[np.float64] | NDArray[np.uint8]]:
    """Everything that can be observed along a short scripted episode."""
    seen: list[NDArray[np.float64] | NDArray[np.uint8]] = []
    world.reset(seed)
    for step in range(6):
        reading = world.joint_state()
        seen += [reading.positions, reading.velocities, reading.efforts, *world.tool_pose(), world.image()]
        seen += [part for pose in world.object_poses().values() for part in pose]
        offset = 0.05 * np.sin(np.arange(7) + step)
        world.set_arm_target(reading.positions[:7] + offset, 0.1)
        world.set_gripper_target(0.01 * (step % 4))
        world.advance(0.1)
    return seen


def test_the_tool_is_turned_as_the_scene_says(scene: Scene, arm: Arm) -> None:
    turned = dataclasses.replace(scene, start=dataclasses.replace(scene.start, yaw=0.7))
    for each in (scene, turned):
        with PyBulletArm(each, arm) as world:
            world.reset(3)
            _, orientation = world.tool_pose()
        expected = quaternion(arm.down(each.start.yaw))
        assert abs(float(np.dot(orientation, expected))) == pytest.approx(1.0, abs=1e-4)  # q and -q turn the same


@pytest.mark.parametrize("randomise", [False, True])
def test_the_same_seed_repeats_bit_for_bit(scene: Scene, arm: Arm, randomise: bool) -> None:
    with PyBulletArm(scene, arm, randomise=randomise) as world:
        first = _episode(world, 7)
        world.reset(8)
        _pick(world)
        again = _episode(world, 7)
    with PyBulletArm(scene, arm, randomise=randomise) as other:
        elsewhere = _episode(other, 7)
    for one, two, three in zip(first, again, elsewhere, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


def test_seeds_spread_the_cube_and_the_tool_over_their_ranges(world: PyBulletArm) -> None:
    cubes, tools = [], []
    for seed in range(30):
        world.reset(seed)
        assert world.time == 0.0
        cubes.append(world.object_poses()["cube"][0])
        tools.append(world.tool_pose()[0])
    cube, tool = np.array(cubes), np.array(tools)
    assert (cube >= (0.399, -0.151, 0.0215)).all()
    assert (cube <= (0.601, 0.151, 0.0235)).all()
    assert (np.ptp(cube, axis=0)[:2] > (0.12, 0.2)).all()
    assert (tool >= (0.448, -0.082, 0.198)).all()
    assert (tool <= (0.552, 0.082, 0.262)).all()
    assert (np.ptp(tool, axis=0) > (0.06, 0.1, 0.03)).all()


@pytest.mark.parametrize("seed", range(10))
def test_a_scripted_pick_lifts_the_cube(world: PyBulletArm, seed: int) -> None:
    world.reset(seed)
    assert _pick(world) > 0.15
    fingers = world.joint_state().positions[7:]
    assert CUBE_EDGE - 0.003 < fingers.sum() < 0.08
    assert abs(fingers[0] - fingers[1]) < 2e-3


def test_a_pick_beside_the_cube_fails(world: PyBulletArm) -> None:
    world.reset(0)
    assert _pick(world, (0.05, 0.0)) < 0.05


def test_the_arm_arrives_and_stays(world: PyBulletArm) -> None:
    world.reset(3)
    goal = world.tool_pose()[0] + (0.03, -0.05, -0.05)
    _move(world, goal)
    world.advance(0.5)
    assert np.linalg.norm(world.tool_pose()[0] - goal) < 1e-3
    reading = world.joint_state()
    assert np.abs(reading.velocities).max() < 1e-3
    assert world.time == pytest.approx(1.5)


def test_a_target_is_approached_in_a_straight_line(world: PyBulletArm) -> None:
    world.reset(3)
    start = world.joint_state().positions[:7]
    world.set_arm_target(start + 0.1, 1.0)
    world.advance(0.5)
    np.testing.assert_allclose(world.joint_state().positions[:7], start + 0.05, atol=5e-3)


def test_joint_state_names_the_arm_then_the_fingers(world: PyBulletArm) -> None:
    world.reset(0)
    reading = world.joint_state()
    assert reading.names == world.arm.joint_names + world.arm.finger_joint_names
    for values in (reading.positions, reading.velocities, reading.efforts):
        assert values.shape == (9,)
        assert values.dtype == np.float64
    position, rotation = world.arm.forward(reading.positions[:7])
    tool, quaternion = world.tool_pose()
    np.testing.assert_allclose(tool, position, atol=1e-6)
    np.testing.assert_allclose(np.abs(quaternion), (1.0, 0.0, 0.0, 0.0), atol=1e-3)
    np.testing.assert_allclose(rotation, world.arm.down(), atol=1e-3)


def _red(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    red, green, blue = (image[..., channel].astype(int) for channel in range(3))
    return (red > 90) & (red > 2 * green) & (red > 2 * blue)


def test_the_image_shows_the_cube_where_the_camera_model_says(world: PyBulletArm) -> None:
    position, rotation = world.camera_pose()
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    for seed in range(10):
        world.reset(seed)
        image = world.image()
        assert image.shape == (64, 64, 3)
        assert image.dtype == np.uint8
        red = _red(image)
        assert red.sum() >= 10
        rows, columns = np.nonzero(red)
        seen = world.camera_matrix() @ rotation.T @ (world.object_poses()["cube"][0] - position)
        assert np.hypot(columns.mean() - seen[0] / seen[2], rows.mean() - seen[1] / seen[2]) < 1.5


def test_a_pixel_of_several_samples_has_the_mean_of_what_they_see(world: PyBulletArm) -> None:
    world.reset(3)
    light, plain = world.scene.light, world.scene.camera
    fine = world.image((dataclasses.replace(plain, width=3 * 64, height=3 * 64), light)).astype(float)
    mean = fine.reshape(64, 3, 64, 3, 3).mean((1, 3))
    averaged = world.image((dataclasses.replace(plain, samples=3), light))
    assert averaged.shape == (64, 64, 3)
    np.testing.assert_allclose(averaged, mean, atol=1.0)
    assert np.abs(world.image((plain, light)) - mean).max() > 20.0  # an edge that jumps


def test_randomisation_changes_looks_and_keeps_places(scene: Scene, arm: Arm, world: PyBulletArm) -> None:
    world.reset(5)
    with PyBulletArm(scene, arm, randomise=True) as varied:
        varied.reset(5)
        assert (varied.image() != world.image()).any()
        places = varied.object_poses()["cube"][0][:2], world.object_poses()["cube"][0][:2]
        np.testing.assert_allclose(*places, atol=1e-3)
        eyes = varied.camera_pose()[0], world.camera_pose()[0]
        assert 0 < np.abs(eyes[0] - eyes[1]).max() <= scene.randomisation.camera_eye


def test_several_objects_do_not_touch(scene: Scene, arm: Arm, tmp_path: Path) -> None:
    content = yaml.safe_load(share_file("sim/scenes/lift.yaml").read_text())
    cylinder = {**content["objects"][0], "name": "can", "shape": "cylinder", "size": [0.04, 0.04, 0.06]}
    content["objects"].append(cylinder)
    with PyBulletArm(_written(tmp_path, content), arm) as world:
        for seed in range(5):
            world.reset(seed)
            poses = world.object_poses()
            assert poses["can"][0][2] == pytest.approx(0.03, abs=1e-3)
            assert np.linalg.norm(poses["can"][0][:2] - poses["cube"][0][:2]) > 0.05
    content["objects"][1].update(x=[0.5, 0.5], y=[0.0, 0.0])
    content["objects"][0].update(x=[0.5, 0.5], y=[0.0, 0.0])
    with pytest.raises(UserError, match="do not fit"):
        PyBulletArm(_written(tmp_path, content), arm)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(world: PyBulletArm, value: float) -> None:
    target = np.full(7, value)
    for call in (
        lambda: world.set_arm_target(target, 0.1),
        lambda: world.set_arm_target(world.arm.home, value),
        lambda: world.set_gripper_target(value),
        lambda: world.advance(value),
    ):
        with pytest.raises(ValueError, match="finite"):
            call()


def _written(directory: Path, content: object) -> Scene:
    path = directory / "scene.yaml"
    path.write_text(yaml.safe_dump(content))
    return Scene.load(path)


@pytest.mark.parametrize(
    ("keys", "value", "expected"),
    [
        (("camera", "zoom"), 2.0, "unknown key camera.zoom; expected one of: width, height"),
        (("camera", "width"), 64.5, "camera.width must be a whole number"),
        (("camera", "eye"), [1.0, 2.0], "camera.eye must be a list of 3 numbers"),
        (("table", "friction"), "high", "table.friction must be a number, not 'high'"),
        (("light", "shadow"), 1, "light.shadow must be true or false"),
        (("light", "ambient"), float("nan"), "light.ambient must be a number"),
        (("objects", 0, "shape"), "ball", r"objects\[0\].shape must be box or cylinder"),
        (("objects", 0, "x"), [0.6, 0.4], r"x must be \[least, most\]"),
        (("objects", 0, "mass"), 0, "greater than zero"),
        (("objects",), {}, "objects must be a list"),
        (("start",), 3, "start must be a mapping"),
    ],
)
def test_scene_mistakes_are_named(tmp_path: Path, keys: tuple[str | int, ...], value: object, expected: str) -> None:
    content = yaml.safe_load(share_file("sim/scenes/lift.yaml").read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    with pytest.raises(UserError, match=f"scene.yaml: .*{expected}"):
        _written(tmp_path, content)


def test_a_scene_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,")
    with pytest.raises(UserError, match="broken.yaml"):
        Scene.load(broken)
    with pytest.raises(UserError, match="absent.yaml"):
        Scene.load(tmp_path / "absent.yaml")
    content = yaml.safe_load(share_file("sim/scenes/lift.yaml").read_text())
    del content["camera"]["eye"]
    with pytest.raises(UserError, match="camera.eye is missing"):
        _written(tmp_path, content)


def test_twists_are_how_poses_change(world: PyBulletArm) -> None:
    world.reset(3)
    grasp = world.object_poses()["cube"][0]
    _move(world, np.array([*grasp[:2] - (0.0, 0.1), 0.03]))
    target, _ = world.arm.inverse(world.joint_state().positions[:7], [*grasp[:2], 0.03], world.arm.down(0.3))
    world.set_arm_target(target, 0.5)
    world.advance(0.3)  # the hand is pushing the cube by now
    pushed = 0.0
    for _ in range(6):
        before = {"tool": world.tool_pose(), **world.object_poses()}
        world.advance(1.0 / world.physics_rate)
        after = {"tool": world.tool_pose(), **world.object_poses()}
        twists = {"tool": world.tool_twist(), **world.object_twists()}
        for name, (linear, angular) in twists.items():
            moved = (after[name][0] - before[name][0]) * world.physics_rate
            np.testing.assert_allclose(linear, moved, atol=0.01)
            turned = _turn(before[name][1], after[name][1]) * world.physics_rate
            np.testing.assert_allclose(angular, turned, atol=0.05)
        pushed = max(pushed, float(np.linalg.norm(twists["cube"][0])))
        assert np.linalg.norm(twists["tool"][0]) > 0.1
        assert abs(twists["tool"][1][2]) > 0.2
    assert pushed > 0.05


def _turn(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation vector (3,), rad, from one quaternion x, y, z, w to another; for small angles."""
    x, y, z, w = before
    # after * conjugate(before), its vector part.
    vector = -after[3] * before[:3] + w * after[:3] - np.cross(after[:3], (x, y, z))
    scalar = float(after @ before)
    turned: NDArray[np.float64] = 2.0 * vector / scalar
    return turned


def test_a_puck_slides_on_the_table_and_stops_where_friction_says(arm: Arm) -> None:
    scene = Scene.load(share_file("sim/scenes/slide.yaml"))
    with PyBulletArm(scene, arm, physics_rate=120.0) as world:
        world.reset(0)
        half = scene.objects[0].size[2] / 2
        start, _ = world.object_poses()["puck"]
        _hit(world, start)
        first = world.object_poses()["puck"][0]
        speed = float(np.linalg.norm(world.object_twists()["puck"][0][:2]))
        assert speed > 0.2
        for _ in range(60):
            world.advance(0.05)
            assert abs(world.object_poses()["puck"][0][2] - half) < 2e-3
        distance = float(np.linalg.norm(world.object_poses()["puck"][0][:2] - first[:2]))
        friction = scene.objects[0].friction * scene.table.friction
        assert distance == pytest.approx(speed**2 / (2 * friction * 9.81), rel=0.15)
        assert np.linalg.norm(world.object_twists()["puck"][0]) < 0.01


def _hit(world: PyBulletArm, puck: NDArray[np.float64]) -> None:
    """Goes behind the puck and knocks it forward."""
    x, y, _ = puck
    _move(world, np.array([x - 0.08, y, 0.1]))
    _move(world, np.array([x - 0.08, y, 0.02]))
    _move(world, np.array([x - 0.035, y, 0.02]), 0.1)
    world.advance(0.1)
