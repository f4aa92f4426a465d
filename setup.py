"""Package data, the ament index marker and `lib/rl_ros/<executable>`, for colcon and pip alike."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
NODES = (
    "arm_guard",
    "arm_sim",
    "episode_manager",
    "goal",
    "goal_encoder",
    "operator",
    "policy",
    "probe",
    "recorder",
    "replay",
    "reward",
    "sample_camera",
    "tool_state",
    "trainer",
)
EXECUTABLES = (*NODES, "compose")

# `ros2 run` and `ros2 launch` look for executables in lib/rl_ros. The interpreter is the one beside
# them (a virtual environment), else the first on the path (a ROS install).
EXECUTABLE = """#!/bin/sh
python="$(dirname "$0")/../../bin/python3"
[ -x "$python" ] || python=python3
exec "$python" -m rl_ros.nodes {node}"$@"
"""


def executables() -> list[str]:
    """Writes one script per executable into build/ and returns their paths."""
    directory = HERE / "build" / "executables"
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in EXECUTABLES:
        path = directory / name
        path.write_text(EXECUTABLE.format(node="" if name == "compose" else f"{name} "))
        path.chmod(0o755)
        paths.append(str(path.relative_to(HERE)))
    return paths


def shared() -> list[tuple[str, list[str]]]:
    """Every file of the data directories, each to its place under share/rl_ros."""
    found: dict[str, list[str]] = {}
    for top in ("config", "launch", "urdf", "sim", "policies"):
        for path in sorted((HERE / top).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                relative = path.relative_to(HERE)
                found.setdefault(f"share/rl_ros/{relative.parent}", []).append(str(relative))
    return list(found.items())


setup(
    name="rl_ros",
    version="0.1.0",
    description="From a rosbag to a policy on the robot, with goals given as images",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["rl_ros", "rl_ros.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/rl_ros"]),
        ("share/rl_ros", ["package.xml"]),
        *shared(),
        ("lib/rl_ros", executables()),
    ],
    extras_require={"ray": ["ray==2.49.0"]},  # for runs in parts on several machines
    entry_points={"console_scripts": ["rl_ros = rl_ros.cli:main"]},
    zip_safe=False,
)
