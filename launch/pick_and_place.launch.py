"""`ros2 launch rl_ros pick_and_place.launch.py robot:=pybullet`: the graph of config/graphs/pick_and_place.yaml."""

from rl_ros.bringup import launch_description


def generate_launch_description():
    """What `ros2 launch` asks a launch file for."""
    return launch_description("pick_and_place")
