"""Episodes as a video, for people to look at."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from rl_ros.episodes.memory import Episode
from rl_ros.errors import UserError

HEIGHT = 384
"""Pixels of a video's picture, about; small cameras are enlarged by a whole number."""
BAR = 28
"""Pixels of the line of text below it."""
HOLD = 0.6
"""s that the last picture of an episode stays."""
DARK, GOOD, BAD = (38, 36, 34), (120, 190, 90), (90, 110, 225)
"""Blue, green, red."""


def write_video(path: Path, images: Iterable[np.ndarray], rate: float) -> None:
    """Images uint8 (height, width, 3 or 1), colours red first, as an MP4 file at `rate` images a second.

    Raises:
        UserError: there is no image, or this build of OpenCV writes no MP4.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = None
    for image in images:
        height, width = image.shape[:2]
        if writer is None:
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
            if not writer.isOpened():
                raise UserError(f"{path}: this build of OpenCV cannot write MP4.")
        writer.write(np.ascontiguousarray(np.broadcast_to(image[..., ::-1], (height, width, 3))))
    if writer is None:
        raise UserError(f"{path}: no image to make a video of.")
    writer.release()


def shown(episodes: Sequence[Episode], rate: float) -> Iterable[np.ndarray]:
    """The pictures of episodes, one after the other, enlarged, above a line that says which it is and how it ends.

    Args:
        episodes: with images of colours or greys among their observations.
        rate: of the ticks, Hz.

    Raises:
        UserError: they have none.
    """
    for number, episode in enumerate(episodes, start=1):
        images = next((v for v in episode.observation.values() if v.ndim == 4 and v.dtype == np.uint8), None)
        if images is None:
            raise UserError(f"{episode.source}: no camera in its observations, so there is nothing to show.")
        seconds = (episode.stamps - episode.stamps[0]) * 1e-9
        for tick, image in enumerate(images):
            is_last = tick == len(images) - 1
            title = f"{number}/{len(episodes)}   {seconds[tick]:.1f} s"
            colour = DARK if not is_last else GOOD if episode.success else BAD
            frame = _captioned(image, f"{title}   {episode.outcome}" if is_last else title, colour)
            for _ in range(1 + is_last * round(HOLD * rate)):
                yield frame


def _captioned(image: np.ndarray, text: str, colour: tuple[int, int, int]) -> np.ndarray:
    times = max(1, round(HEIGHT / image.shape[0]))
    large = image.repeat(times, axis=0).repeat(times, axis=1)
    bar = np.full((BAR, large.shape[1], 3), colour, np.uint8)
    cv2.putText(bar, text, (8, BAR - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([np.broadcast_to(large, (*large.shape[:2], 3)), bar[..., ::-1]])
