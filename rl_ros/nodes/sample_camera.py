"""sample_camera: images of 640x480 at 30 Hz, to see whether they reach another process."""

import numpy as np

from rl_ros.episodes import messages
from rl_ros.nodes.base import Node, steady

IMAGE = "preflight/image_raw"
SETTLE = 0.5
"""s from the first sight of a listener to the first image: both sides have found each other by then."""


class SampleCamera(Node):
    """Best effort, as cameras are. It waits for a listener, and is ended from outside."""

    def __init__(self) -> None:
        super().__init__("sample_camera")
        self.left = self.settings["frames"]
        self.found_at: float | None = None
        self.pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
        self.steady_timer(1.0 / self.settings["rate"], self.on_time)

    def on_time(self) -> None:
        """The next image."""
        if self.found_at is None and self.sender(IMAGE).get_subscription_count():
            self.found_at = steady()
        if self.left and self.found_at is not None and steady() - self.found_at > SETTLE:
            self.left -= 1
            stamp = self.get_clock().now().nanoseconds
            self.send(IMAGE, messages.image_cdr(stamp, "camera_optical_frame", self.pixels))
