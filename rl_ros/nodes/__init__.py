"""ROS 2 nodes: wiring only. What they compute is a plain function further down the house."""
