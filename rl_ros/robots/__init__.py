"""The arm: kinematics, limits, the guard's checks, and its PyBullet twin. No ROS here."""
