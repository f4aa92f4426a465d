"""`ros2 launch rl_ros bin_grasp.launch.py robot:=pybullet`: the graph of config/graphs/bin_grasp.yaml."""

from rl_ros.bringup import launch_description


def generate_launch_description():
    """What `ros2 launch` asks a launch file for."""
    return launch_description("bin_grasp")
