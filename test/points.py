"""A point that steps towards goals, and changes its mind: recordings small enough to learn from in seconds."""

import numpy as np

from rl_ros.episodes.memory import Episode, ReplayMemory

SPEED = 0.1
"""Of the point, at most, along each axis, a tick."""

POINT = """
format: 1
name: point
task: point
control_rate: 10.0
episode_length: 30
frame: base
reference: point
observation:
  point: {topic: /point, type: sensor_msgs/msg/JointState, field: position, names: [x, y], shape: [2], unit: m}
action:
  step:
    {topic: /step, type: sensor_msgs/msg/JointState, field: position, names: [x, y], shape: [2], low: [-0.1, -0.1],
     high: [0.1, 0.1], unit: m}
goal:
  achieved_goal: point
  desired_goal: {topic: /goal, type: sensor_msgs/msg/JointState, field: position, names: [x, y], shape: [2], unit: m}
"""


def point_episode(points: np.ndarray, actions: np.ndarray, goal: np.ndarray, gap: int = -1) -> Episode:
    """A recording of a point (T, 2) and its steps (T - 1, 2); nothing begins at the tick `gap`."""
    ticks = len(points)
    numbers = np.arange(ticks)
    return Episode(
        stamps=1_000_000_000_000 + 100_000_000 * numbers.astype(np.int64),
        observation={"point": points.astype(np.float32)},
        auxiliary={},
        desired_goal=np.tile(goal, (ticks, 1)).astype(np.float32),
        action=np.concatenate([actions, np.zeros((1, 2))]).astype(np.float32),
        reward=np.full(ticks, -1.0, np.float32),
        terminated=np.zeros(ticks, bool),
        truncated=numbers == ticks - 2,
        has_transition=(numbers < ticks - 1) & (numbers != gap),
        outcome="timeout",
        seed=0,
        source="",
    )


def detours(episodes: int = 150, ticks: int = 31) -> ReplayMemory:
    """A point that goes after a target, and changes its mind about the target every few ticks."""
    rng, made = np.random.default_rng(0), []
    for _ in range(episodes):
        point, target = rng.uniform(-1, 1, 2), rng.uniform(-1, 1, 2)
        points, actions = [point], []
        for _ in range(ticks - 1):
            if rng.random() < 0.3:
                target = rng.uniform(-1, 1, 2)
            action = np.clip(target - points[-1] + rng.normal(0, 0.05, 2), -SPEED, SPEED)
            points.append(points[-1] + action + rng.normal(0, 1e-3, 2))  # no point twice
            actions.append(action)
        made.append(point_episode(np.stack(points), np.stack(actions), rng.uniform(-1, 1, 2)))
    return ReplayMemory(made, achieved_goal="point")
