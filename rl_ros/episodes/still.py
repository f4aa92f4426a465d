"""Pictures that do not change although the arm moves: a camera, or its driver, that is frozen."""

from collections.abc import Mapping

import numpy as np

from rl_ros.contract import Key
from rl_ros.episodes.assemble import Tick

MOVED = {"m": 0.005, "rad": 0.025}
"""How far a measurement must have moved, by its unit, for a picture of it to have changed."""


class StillPictures:
    """Compares the pictures of each tick with those of the tick before. No clock: it is about content.

    A camera in the world is never still to the last bit; a simulated one may be, but not while what it sees moves.

    Args:
        keys: what a tick holds; those with an encoding are pictures, those in m or rad tell whether anything moves.
    """

    def __init__(self, keys: Mapping[str, Key]) -> None:
        self._pictures = tuple(name for name, key in keys.items() if key.encoding)
        self._moving = {name: MOVED[key.unit] for name, key in keys.items() if key.unit in MOVED and not key.encoding}
        self.restart()

    def restart(self) -> None:
        """A new episode: nothing is known."""
        self._shown: dict[str, np.ndarray] = {}
        """The last picture of each key that differed from the one before."""
        self._stamps: dict[str, int] = {}
        """Of the last message of each picture, ns."""
        self._then: dict[str, dict[str, np.ndarray]] = {}
        """What was measured when it came, by the picture's key."""

    def judge(self, tick: Tick) -> tuple[str, ...]:
        """What is wrong with a valid tick, each as `key: reason`."""
        problems, values = [], tick.values
        for picture in self._pictures:
            image, shown = values[picture], self._shown.get(picture)
            stamp = tick.stamp - round(tick.ages[picture] * 1e9)
            if self._stamps.get(picture) == stamp:
                continue  # a slow camera: the same message again
            self._stamps[picture] = stamp
            if shown is None or not np.array_equal(image, shown):
                self._shown[picture] = image
                self._then[picture] = {name: values[name] for name in self._moving}
            elif moved := self._moved(picture, values):
                problems.append(f"{picture}: frozen, the same picture to the last bit although {moved}")
        return tuple(problems)

    def _moved(self, picture: str, values: Mapping[str, np.ndarray]) -> str:
        for name, enough in self._moving.items():
            distance = float(np.max(np.abs(values[name] - self._then[picture][name])))
            if distance > enough:
                return f"{name} moved by {distance:.3f}"
        return ""
