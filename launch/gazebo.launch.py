"""`ros2 launch rl_ros gazebo.launch.py`: Gazebo with the Panda, its controllers and the bridge; no node of rl_ros."""

from rl_ros.bringup import gazebo_description


def generate_launch_description():
    """What `ros2 launch` asks a launch file for."""
    return gazebo_description()
