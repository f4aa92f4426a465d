"""rl_ros: from a rosbag to a policy on the robot, with goals given as images."""

__version__ = "0.1.0"
