"""Which part of an image is looked at."""

from typing import Any, NamedTuple


class View(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, image: Any) -> Any:
        """That part of an array or tensor (…, height, width, channels)."""
        return image[..., self.top : self.top + self.height, self.left : self.left + self.width, :]
