"""Goals given as images: whatever somebody's camera or file holds, as an image like those of the contract's camera."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from rl_ros.contract import Key
from rl_ros.episodes.messages import MessageError, decode, value
from rl_ros.errors import UserError

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


def picture(message_type: str, cdr: bytes, camera: Key) -> np.ndarray:
    """The image of a message, of any size and encoding, as the contract's camera would show it.

    An image from the camera itself comes out as it does of the camera's own topic, bit for bit. One of other
    proportions is squeezed, as the camera's are.

    Args:
        message_type: Image or CompressedImage.
        camera: its shape and encoding are those of what is returned, uint8 (height, width, channels).

    Raises:
        MessageError: the bytes hold no such image.
    """
    height, width = _size(message_type, cdr)
    return fitted(value(replace(camera, type=message_type, shape=(height, width, camera.shape[2])), cdr), camera)


def read_picture(file: Path) -> np.ndarray:
    """A PNG, JPEG or the like as RGB, uint8 (height, width, 3).

    Raises:
        UserError: there is no such file, or it is no image.
    """
    import cv2

    if not file.is_file():
        raise UserError(f"{file}: there is no such picture.")
    found = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
    if found is None:
        raise UserError(f"{file}: this is no picture that can be read; a PNG or JPEG can.")
    return np.ascontiguousarray(found)


def fitted(image: np.ndarray, camera: Key) -> np.ndarray:
    """An image (height, width, channels) in the camera's size: areas are averaged, or pixels drawn larger."""
    import cv2

    height, width, channels = camera.shape
    if image.shape[:2] == (height, width):
        return image
    smaller = image.shape[0] >= height and image.shape[1] >= width
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.ascontiguousarray(cv2.resize(image, (width, height), interpolation=how).reshape(height, width, channels))


def _size(message_type: str, cdr: bytes) -> tuple[int, int]:
    message = decode(message_type, cdr)
    if message_type == IMAGE:
        height, width = int(message.height), int(message.width)
    else:
        import cv2

        try:
            found = cv2.imdecode(np.asarray(message.data, np.uint8), cv2.IMREAD_GRAYSCALE)
        except cv2.error:
            found = None
        height, width = (0, 0) if found is None else found.shape
    if not (height and width):
        raise MessageError(f"{len(cdr)} bytes that are no image")
    return height, width
