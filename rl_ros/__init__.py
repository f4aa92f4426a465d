"""rl_ros: from a rosbag to a policy on the robot, with goals given as images."""

import os

__version__ = "0.1.0"

# A few kilobytes of PNG can unpack to gigabytes. OpenCV reads this when it is first imported.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 26))
