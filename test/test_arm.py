"""The arm's kinematics against published parameters, finite differences and itself."""

import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from rl_ros.errors import UserError
from rl_ros.resources import share_directory
from rl_ros.robots.arm import Arm

# Franka Control Interface documentation, "Denavit-Hartenberg parameters", Craig's convention.
_A = (0.0, 0.0, 0.0, 0.0825, -0.0825, 0.0, 0.088, 0.0)
_D = (0.333, 0.0, 0.316, 0.0, 0.384, 0.0, 0.0, 0.107)
_ALPHA = (0.0, -np.pi / 2, np.pi / 2, np.pi / 2, -np.pi / 2, np.pi / 2, np.pi / 2, 0.0)


def _craig(a: float, alpha: float, d: float, theta: float) -> NDArray[np.float64]:
    ca, sa, ct, st = np.cos(alpha), np.sin(alpha), np.cos(theta), np.sin(theta)
    return np.array(
        [
            [ct, -st, 0.0, a],
            [st * ca, ct * ca, -sa, -d * sa],
            [st * sa, ct * sa, ca, d * ca],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def _published_tool_pose(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    pose = np.eye(4)
    for a, alpha, d, theta in zip(_A, _ALPHA, _D, (*positions, 0.0), strict=True):
        pose = pose @ _craig(a, alpha, d, theta)
    return pose @ _craig(0.0, 0.0, 0.1034, -np.pi / 4)


@pytest.fixture(scope="module")
def arm() -> Arm:
    return Arm()


def _near_home(arm: Arm, generator: np.random.Generator) -> NDArray[np.float64]:
    """A configuration whose tool points down somewhere over the table."""
    position = generator.uniform((0.38, -0.2, 0.02), (0.62, 0.2, 0.35))
    positions, error = arm.inverse(arm.home, position, arm.down(generator.uniform(-0.5, 0.5)), iterations=100)
    assert error < 1e-6
    return positions


def test_limits_are_the_published_ones(arm: Arm) -> None:
    assert arm.joint_names == tuple(f"panda_joint{i}" for i in range(1, 8))
    assert arm.finger_joint_names == ("panda_finger_joint1", "panda_finger_joint2")
    assert arm.lower.tolist() == [-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973]
    assert arm.upper.tolist() == [2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973]
    assert arm.velocity_limit.tolist() == [2.175] * 4 + [2.61] * 3
    assert arm.effort_limit.tolist() == [87.0] * 4 + [12.0] * 3
    assert arm.home.dtype == np.float64
    assert ((arm.home > arm.lower) & (arm.home < arm.upper)).all()


def test_forward_agrees_with_published_parameters(arm: Arm) -> None:
    for positions in np.random.default_rng(0).uniform(arm.lower, arm.upper, (300, 7)):
        position, rotation = arm.forward(positions)
        expected = _published_tool_pose(positions)
        np.testing.assert_allclose(position, expected[:3, 3], rtol=0, atol=1e-6)
        np.testing.assert_allclose(rotation, expected[:3, :3], rtol=0, atol=1e-6)


def test_home_points_straight_down_above_the_table(arm: Arm) -> None:
    position, rotation = arm.forward(arm.home)
    np.testing.assert_allclose(position, (0.50, 0.0, 0.23), atol=1e-3)
    np.testing.assert_allclose(rotation, arm.down(), atol=1e-9)


def test_down_turns_about_the_vertical() -> None:
    rotation = Arm.down(0.3)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    np.testing.assert_allclose(rotation[:, 2], (0.0, 0.0, -1.0), atol=1e-12)
    np.testing.assert_allclose(rotation[:, 0], (np.cos(0.3), np.sin(0.3), 0.0), atol=1e-12)


def test_jacobian_agrees_with_finite_differences(arm: Arm) -> None:
    delta = 1e-6
    for positions in np.random.default_rng(1).uniform(arm.lower, arm.upper, (50, 7)):
        jacobian = arm.jacobian(positions)
        assert jacobian.shape == (6, 7)
        for column, offset in enumerate(np.eye(7) * delta):
            after, before = arm.forward(positions + offset), arm.forward(positions - offset)
            linear = (after[0] - before[0]) / (2 * delta)
            spin = (after[1] - before[1]) @ arm.forward(positions)[1].T / (2 * delta)
            angular = np.array((spin[2, 1], spin[0, 2], spin[1, 0]))
            np.testing.assert_allclose(jacobian[:, column], np.concatenate((linear, angular)), atol=1e-6)


def test_inverse_reaches_small_steps_quickly(arm: Arm) -> None:
    generator = np.random.default_rng(2)
    cases = []
    for _ in range(100):
        seed = _near_home(arm, generator)
        direction = generator.normal(size=3)
        step = 0.03 * direction / np.linalg.norm(direction)
        position, rotation = arm.forward(seed)
        turn = generator.uniform(-0.1, 0.1)
        cosine, sine = np.cos(turn), np.sin(turn)
        turned = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]]) @ rotation
        cases.append((seed, position + step, turned))
    start = time.perf_counter()
    solved = [arm.inverse(*case) for case in cases]
    elapsed = (time.perf_counter() - start) / len(cases)
    for (seed, position, rotation), (positions, error) in zip(cases, solved, strict=True):
        reached = arm.forward(positions)
        assert np.linalg.norm(reached[0] - position) < 1e-5
        assert np.abs(reached[1] - rotation).max() < 1e-5
        assert error < 1e-5
        assert np.abs(positions - seed).max() < 0.35
    assert elapsed < 5e-3  # about 0.2 ms; the slack is for busy machines


def test_inverse_is_a_function_of_its_arguments(arm: Arm) -> None:
    position, rotation = arm.forward(arm.home)
    target = position + (0.02, -0.01, 0.02)
    seed = arm.home.copy()
    first, _ = arm.inverse(seed, target, rotation)
    arm.inverse(arm.home + 0.2, position, rotation)
    arm.jacobian(arm.home - 0.3)
    second, _ = arm.inverse(seed, target, rotation)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(seed, arm.home)


def test_repeated_steps_do_not_drift(arm: Arm) -> None:
    """Two hundred loops of a square come back to nearly the same joints, not only the same tool pose."""
    start, rotation = arm.forward(arm.home)
    corners = [start + (x, y, 0.0) for x, y in ((0.05, 0.1), (0.05, -0.1), (-0.05, -0.1), (-0.05, 0.1))]
    positions = arm.home
    for loop in range(200):
        for corner in corners:
            current, _ = arm.forward(positions)
            for share in np.linspace(0.0, 1.0, 6)[1:]:
                positions, error = arm.inverse(positions, current + share * (corner - current), rotation)
                assert error < 1e-5
        if loop == 20:
            early = positions
    np.testing.assert_allclose(positions, early, atol=1e-3)
    assert np.abs(positions - arm.home).max() < 0.6


def test_inverse_keeps_to_the_limits(arm: Arm) -> None:
    generator = np.random.default_rng(3)
    for _ in range(100):
        seed = generator.uniform(arm.lower - 0.5, arm.upper + 0.5)
        position = generator.uniform(-1.5, 1.5, 3)
        positions, error = arm.inverse(seed, position, arm.down(generator.uniform(-3, 3)))
        assert ((positions >= arm.lower) & (positions <= arm.upper)).all()
        assert np.isfinite(error)
    assert arm.inverse(arm.home, (2.0, 0.0, 0.0), arm.down())[1] > 0.5


def test_numbers_that_are_not_finite_are_refused(arm: Arm) -> None:
    broken = arm.home.copy()
    broken[3] = np.nan
    position, rotation = arm.forward(arm.home)
    for call in (
        lambda: arm.forward(broken),
        lambda: arm.jacobian(broken),
        lambda: arm.inverse(broken, position, rotation),
        lambda: arm.inverse(arm.home, position * np.inf, rotation),
        lambda: arm.inverse(arm.home, position, rotation * np.nan),
        lambda: arm.down(np.nan),
        lambda: arm.forward(arm.home[:6]),
    ):
        with pytest.raises(ValueError, match="finite|shape"):
            call()


def robot_like(name: str, directory: Path, **changed: object) -> str:
    """The path of a robot that differs in something from one that ships."""
    robot = yaml.safe_load((share_directory() / "config" / "robots" / f"{name}.yaml").read_text()) | changed
    path = directory / "other.yaml"
    path.write_text(yaml.safe_dump(robot))
    return str(path)


def test_a_urdf_that_does_not_fit_is_named(tmp_path) -> None:
    broken = tmp_path / "broken.urdf"
    broken.write_text("<robot name='broken'>")
    with pytest.raises(UserError, match="broken.urdf"):
        Arm(urdf=broken)
    with pytest.raises(UserError, match="missing.urdf"):
        Arm(urdf=tmp_path / "missing.urdf")
    with pytest.raises(UserError, match="no_such_frame"):
        Arm(robot_like("panda", tmp_path, tool_frame="no_such_frame"))
    with pytest.raises(UserError, match="7 arm joints; panda has 6 revolute joints"):
        six = dict.fromkeys(("home", "joint_acceleration", "joint_jerk"), [1.0] * 6)
        Arm(robot_like("panda", tmp_path, **six))
