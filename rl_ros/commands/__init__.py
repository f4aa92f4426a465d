"""The commands of `rl_ros`, one file each: `add` says its arguments, `run` does the work."""
