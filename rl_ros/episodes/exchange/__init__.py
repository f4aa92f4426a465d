"""Data sets of other libraries: Minari, LeRobotDataset v3 and d3rlpy's MDPDataset."""
