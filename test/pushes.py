"""A small world in which everything is known: a cart on a line that is pushed.

s' = 0.8 s + 0.2 a + noise, and the reward is where it arrives. Pushing with a constant action makes s decay to it, so
what that is worth can be said in one line.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rl_ros.contract import Contract
from rl_ros.episodes.exchange.bags import write_bags
from rl_ros.episodes.memory import Episode

DISCOUNT, KEPT, TICKS = 0.9, 0.8, 20
CONTRACT = Contract.from_yaml(
    f"""
format: 1
name: cart
task: cart
control_rate: 10.0
episode_length: {TICKS}
frame: base
reference: position
observation:
  position: {{topic: /cart, type: sensor_msgs/msg/JointState, field: position, names: [cart], shape: [1], unit: m}}
action:
  push: {{topic: /push, type: sensor_msgs/msg/JointState, field: position, names: [cart], shape: [1], low: [-1.0],
          high: [1.0], unit: m}}
goal:
  desired_goal: {{topic: /goal, type: sensor_msgs/msg/JointState, field: position, names: [cart], shape: [1], unit: m,
                  alignment: held}}
  policy_input: false
""",
    "cart.yaml",
)


@dataclass(frozen=True)
class Pushes:
    """Random pushes: episodes of `TICKS` transitions, then cut off."""

    state: np.ndarray
    """(episodes, TICKS + 1)."""
    action: np.ndarray
    """(episodes, TICKS), from -1 to 1."""


def pushes(episodes: int, seed: int = 0) -> Pushes:
    """Uniformly random pushes from uniformly random starts."""
    rng = np.random.default_rng(seed)
    state = np.zeros((episodes, TICKS + 1))
    state[:, 0] = rng.uniform(-1, 1, episodes)
    action = rng.uniform(-1, 1, (episodes, TICKS))
    for tick in range(TICKS):
        noise = rng.normal(0, 0.05, episodes)
        state[:, tick + 1] = KEPT * state[:, tick] + (1 - KEPT) * action[:, tick] + noise
    return Pushes(state, action)


def truth(start: np.ndarray, action: float) -> float:
    """The discounted return, for ever, of pushing with a constant action, in the mean over starts."""
    decaying = KEPT / (1 - KEPT * DISCOUNT)
    return float(np.mean(start * decaying + action * (1 / (1 - DISCOUNT) - decaying)))


def cart_episodes(count: int, seed: int = 0) -> list[Episode]:
    """The same as episodes of `CONTRACT`."""
    made = pushes(count, seed)
    has, last = np.arange(TICKS + 1) < TICKS, np.arange(TICKS + 1) == TICKS - 1
    return [
        Episode(
            stamps=(1 + np.arange(TICKS + 1, dtype=np.int64)) * CONTRACT.period_ns,
            observation={"position": state[:, None].astype(np.float32)},
            auxiliary={},
            desired_goal=np.zeros((TICKS + 1, 1), np.float32),
            action=np.append(action, 0.0)[:, None].astype(np.float32),
            reward=np.append(state[1:], 0.0).astype(np.float32),
            terminated=np.zeros(TICKS + 1, bool),
            truncated=last,
            has_transition=has,
            outcome="timeout",
            seed=number,
            source=f"episode {number}",
        )
        for number, (state, action) in enumerate(zip(made.state, made.action, strict=True))
    ]


def cart_bags(directory: Path, count: int = 40, seed: int = 0) -> Path:
    """The same as bags; returns their directory."""
    write_bags(cart_episodes(count, seed), CONTRACT, directory)
    return directory
