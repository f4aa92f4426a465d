"""`ros2 launch rl_ros lift.launch.py robot:=pybullet`: the graph of config/graphs/lift.yaml."""

from rl_ros.bringup import launch_description


def generate_launch_description():
    """What `ros2 launch` asks a launch file for."""
    return launch_description("lift")
