"""Message <-> array, on the bytes as they travel.

Live nodes subscribe to raw CDR and bags store raw CDR, so both go through the functions below and
nothing else: what a policy saw in training is what it sees on the robot.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from rl_ros.contract import Contract, Key

TYPESTORE = get_typestore(Stores.ROS2_KILTED)

_STAMP_LITTLE_ENDIAN = struct.Struct("<iI")
_STAMP_BIG_ENDIAN = struct.Struct(">iI")


class MessageError(ValueError):
    """A message that cannot serve its contract key; the text says what was expected and what came."""


def decode(message_type: str, cdr: bytes) -> Any:
    """CDR bytes to a message object of the type, such as `sensor_msgs/msg/Image`.

    Raises:
        MessageError: the bytes do not hold such a message.
    """
    try:
        return TYPESTORE.deserialize_cdr(cdr, message_type)
    except KeyError as error:
        raise MessageError(f"the type {message_type} is unknown") from error
    except (SerdeError, ValueError, IndexError, struct.error, AssertionError) as error:
        raise MessageError(f"{len(cdr)} bytes that are no {message_type}") from error


def encode(message_type: str, message: Any) -> bytes:
    """A message object to CDR bytes."""
    return bytes(TYPESTORE.serialize_cdr(message, message_type))


def stamp_of(cdr: bytes) -> int:
    """The header stamp in nanoseconds, read off the CDR bytes of any message that begins with a Header or a Time.

    Raises:
        MessageError: too few bytes to hold a stamp.
    """
    if len(cdr) < 12:
        raise MessageError(f"{len(cdr)} bytes hold no stamp")
    seconds, nanoseconds = (_STAMP_LITTLE_ENDIAN if cdr[1] & 1 else _STAMP_BIG_ENDIAN).unpack_from(cdr, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


@cache
def definition(message_type: str) -> tuple[str, str]:
    """The `.msg` text of a type with all it contains, and its RIHS01 hash, as bags embed them."""
    return TYPESTORE.generate_msgdef(message_type, ros_version=2)[0], TYPESTORE.hash_rihs01(message_type)


def is_stamped(message_type: str) -> bool:
    """Whether messages of the type begin with a Header, so that `stamp_of` holds for them."""
    return definition(message_type)[0].startswith("std_msgs/Header header")


def message(message_type: str, **fields: Any) -> Any:
    """A message object of the type; every field must be given."""
    return TYPESTORE.types[message_type](**fields)


def header(stamp: int, frame: str = "") -> Any:
    """A Header; `stamp` in nanoseconds."""
    seconds, nanoseconds = divmod(stamp, 1_000_000_000)
    time = message("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
    return message("std_msgs/msg/Header", stamp=time, frame_id=frame)


def clock_cdr(stamp: int) -> bytes:
    """rosgraph_msgs/Clock."""
    return encode("rosgraph_msgs/msg/Clock", message("rosgraph_msgs/msg/Clock", clock=header(stamp).stamp))


def image_cdr(stamp: int, frame: str, image: np.ndarray) -> bytes:
    """sensor_msgs/Image of encoding rgb8 from uint8 (H, W, 3)."""
    height, width, channels = image.shape
    return encode(
        "sensor_msgs/msg/Image",
        message(
            "sensor_msgs/msg/Image",
            header=header(stamp, frame),
            height=height,
            width=width,
            encoding="rgb8",
            is_bigendian=0,
            step=width * channels,
            data=np.ascontiguousarray(image).reshape(-1),
        ),
    )


def joint_state_cdr(
    stamp: int,
    names: Sequence[str],
    position: ArrayLike,
    velocity: ArrayLike = (),
    effort: ArrayLike = (),
    frame: str = "",
) -> bytes:
    """sensor_msgs/JointState; with positions alone it is our named vector."""
    return encode(
        "sensor_msgs/msg/JointState",
        message(
            "sensor_msgs/msg/JointState",
            header=header(stamp, frame),
            name=list(names),
            position=np.asarray(position, np.float64),
            velocity=np.asarray(velocity, np.float64),
            effort=np.asarray(effort, np.float64),
        ),
    )


def _xyz(message_type: str, numbers: ArrayLike) -> Any:
    x, y, z = np.asarray(numbers, np.float64).tolist()
    return message(message_type, x=x, y=y, z=z)


def pose_cdr(stamp: int, frame: str, position: ArrayLike, orientation: ArrayLike = (0.0, 0.0, 0.0, 1.0)) -> bytes:
    """geometry_msgs/PoseStamped from m (3,) and a quaternion x, y, z, w."""
    x, y, z, w = np.asarray(orientation, np.float64).tolist()
    turned = message("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)
    pose = message("geometry_msgs/msg/Pose", position=_xyz("geometry_msgs/msg/Point", position), orientation=turned)
    stamped = message("geometry_msgs/msg/PoseStamped", header=header(stamp, frame), pose=pose)
    return encode("geometry_msgs/msg/PoseStamped", stamped)


def twist_cdr(stamp: int, frame: str, linear: ArrayLike, angular: ArrayLike = (0.0, 0.0, 0.0)) -> bytes:
    """geometry_msgs/TwistStamped from m/s (3,) and rad/s (3,)."""
    vector = "geometry_msgs/msg/Vector3"
    twist = message("geometry_msgs/msg/Twist", linear=_xyz(vector, linear), angular=_xyz(vector, angular))
    stamped = message("geometry_msgs/msg/TwistStamped", header=header(stamp, frame), twist=twist)
    return encode("geometry_msgs/msg/TwistStamped", stamped)


def trajectory_cdr(stamp: int, names: Sequence[str], positions: ArrayLike, seconds: float) -> bytes:
    """trajectory_msgs/JointTrajectory with one point, to be reached `seconds` after the stamp."""
    whole, part = divmod(round(seconds * 1e9), 1_000_000_000)
    empty = np.zeros(0)
    point = message(
        "trajectory_msgs/msg/JointTrajectoryPoint",
        positions=np.asarray(positions, np.float64),
        velocities=empty,
        accelerations=empty,
        effort=empty,
        time_from_start=message("builtin_interfaces/msg/Duration", sec=whole, nanosec=part),
    )
    trajectory = message(
        "trajectory_msgs/msg/JointTrajectory", header=header(stamp), joint_names=list(names), points=[point]
    )
    return encode("trajectory_msgs/msg/JointTrajectory", trajectory)


def camera_info_cdr(stamp: int, frame: str, matrix: np.ndarray, height: int, width: int) -> bytes:
    """sensor_msgs/CameraInfo of a pinhole camera without distortion from its matrix (3, 3)."""
    region = message("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    info = message(
        "sensor_msgs/msg/CameraInfo",
        header=header(stamp, frame),
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=matrix.reshape(-1).astype(np.float64),
        r=np.eye(3).reshape(-1),
        p=np.hstack([matrix, np.zeros((3, 1))]).reshape(-1).astype(np.float64),
        binning_x=0,
        binning_y=0,
        roi=region,
    )
    return encode("sensor_msgs/msg/CameraInfo", info)


OK, WARN, ERROR = 0, 1, 2
"""Levels of a status."""


def status_cdr(stamp: int, name: str, text: str, values: Mapping[str, str], level: int = OK) -> bytes:
    """diagnostic_msgs/DiagnosticArray with one status."""
    pairs = [message("diagnostic_msgs/msg/KeyValue", key=key, value=item) for key, item in values.items()]
    status = message(
        "diagnostic_msgs/msg/DiagnosticStatus", level=level, name=name, message=text, hardware_id="", values=pairs
    )
    array = message("diagnostic_msgs/msg/DiagnosticArray", header=header(stamp), status=[status])
    return encode("diagnostic_msgs/msg/DiagnosticArray", array)


@dataclass(frozen=True)
class Status:
    """The first status of a DiagnosticArray."""

    stamp: int
    name: str
    text: str
    values: dict[str, str]
    level: int


def status_of(cdr: bytes) -> Status:
    """Read what `status_cdr` writes.

    Raises:
        MessageError: no DiagnosticArray, or one without a status.
    """
    array = decode("diagnostic_msgs/msg/DiagnosticArray", cdr)
    if not array.status:
        raise MessageError("a DiagnosticArray without a status")
    first = array.status[0]
    values = {pair.key: pair.value for pair in first.values}
    return Status(stamp_of(cdr), first.name, first.message, values, int(first.level))


def value(key: Key, cdr: bytes) -> np.ndarray:
    """The array that `key` takes from the CDR bytes of a message, of the key's shape and dtype.

    Read straight off the bytes, without a message object between: this runs for each message of each
    tick, live and from bags. Numbers are not judged here: the assembler and the guard refuse those that
    are not finite.

    Raises:
        MessageError: bytes cut short, or a wrong encoding, size or name.
    """
    try:
        if not cdr[1] & 1:  # big endian: rare enough to go the long way round
            cdr = encode(key.type, decode(key.type, cdr))
        return _READERS[key.type](key, cdr)
    except (SerdeError, struct.error, ValueError, IndexError) as error:
        if isinstance(error, MessageError):
            raise
        raise MessageError(f"{len(cdr)} bytes that are no {key.type}") from error


_UINT32 = struct.Struct("<I")
_BODY = 4  # CDR aligns from the end of its encapsulation header


def _aligned(offset: int, size: int) -> int:
    return (offset - _BODY + size - 1) // size * size + _BODY


def _string(cdr: bytes, offset: int) -> tuple[bytes, int]:
    """A string and the offset after it."""
    offset = _aligned(offset, 4)
    (length,) = _UINT32.unpack_from(cdr, offset)
    end = offset + 4 + length
    if end > len(cdr):
        raise MessageError("bytes cut short within a string")
    return cdr[offset + 4 : end - 1], end


def _after_header(cdr: bytes) -> int:
    return _string(cdr, 12)[1]


def _image(key: Key, cdr: bytes) -> np.ndarray:
    height, width, channels = key.shape
    offset = _aligned(_after_header(cdr), 4)
    found_height, found_width = struct.unpack_from("<II", cdr, offset)
    encoding, offset = _string(cdr, offset + 8)
    offset = _aligned(offset + 1, 4)
    step, size = struct.unpack_from("<II", cdr, offset)
    if encoding.decode("ascii", "replace") != key.encoding:
        raise MessageError(f"encoding {encoding.decode('ascii', 'replace')}, expected {key.encoding}")
    if (found_height, found_width) != (height, width):
        raise MessageError(f"an image of {found_width}x{found_height}, expected {width}x{height}")
    if step < width * channels or size != step * height:
        raise MessageError(f"{size} bytes in rows of {step}, expected {width * channels} a row")
    pixels = np.frombuffer(cdr, np.uint8, size, offset + 8)
    if step == width * channels:
        return pixels.reshape(key.shape)
    return np.ascontiguousarray(pixels.reshape(height, step)[:, : width * channels]).reshape(key.shape)


def _joint_state(key: Key, cdr: bytes) -> np.ndarray:
    offset = _aligned(_after_header(cdr), 4)
    (count,) = _UINT32.unpack_from(cdr, offset)
    offset += 4
    index = {}
    for position in range(count):
        name, offset = _string(cdr, offset)
        index[name.decode()] = position
    for field in ("position", "velocity", "effort"):
        offset = _aligned(offset, 4)
        (length,) = _UINT32.unpack_from(cdr, offset)
        offset += 4
        if length:
            offset = _aligned(offset, 8)
        if field == key.field:
            break
        offset += 8 * length
    missing = [name for name in key.names if name not in index]
    if missing:
        raise MessageError(f"no joint {', '.join(missing)} among {', '.join(index) or 'none'}")
    if length != count:
        raise MessageError(f"{length} numbers in {key.field} for {count} names")
    numbers = np.frombuffer(cdr, "<f8", length, offset)
    return numbers[[index[name] for name in key.names]].astype(key.dtype)


_VECTORS = {
    "pose.position": (0, 3),
    "pose.orientation": (24, 4),
    "twist.linear": (0, 3),
    "twist.angular": (24, 3),
    "wrench.force": (0, 3),
    "wrench.torque": (24, 3),
}
"""Offset in bytes and length of each vector after the header."""


def _vector(key: Key, cdr: bytes) -> np.ndarray:
    start, length = _VECTORS[key.field]
    return np.frombuffer(cdr, "<f8", length, _aligned(_after_header(cdr), 8) + start).astype(key.dtype)


_READERS: dict[str, Callable[[Key, bytes], np.ndarray]] = {
    "sensor_msgs/msg/Image": _image,
    "sensor_msgs/msg/JointState": _joint_state,
    "geometry_msgs/msg/PoseStamped": _vector,
    "geometry_msgs/msg/TwistStamped": _vector,
    "geometry_msgs/msg/WrenchStamped": _vector,
}


def action_cdrs(contract: Contract, stamp: int, action: np.ndarray) -> dict[str, bytes]:
    """The action vector (A,) as messages, by topic; each carries the stamp of the observation it answers."""
    parts = contract.split_action(np.asarray(action, np.float64))
    topics: dict[str, bytes] = {}
    for topic in {channel.topic: None for channel in contract.action.values()}:
        channels = {name: channel for name, channel in contract.action.items() if channel.topic == topic}
        first = next(iter(channels.values()))
        if first.type == "geometry_msgs/msg/TwistStamped":
            fields = {channel.field: parts[name] for name, channel in channels.items()}
            still = np.zeros(3)
            topics[topic] = twist_cdr(
                stamp, contract.frame, fields.get("twist.linear", still), fields.get("twist.angular", still)
            )
        else:
            names = [name for channel in channels.values() for name in channel.names]
            topics[topic] = joint_state_cdr(stamp, names, np.concatenate([parts[name] for name in channels]))
    return topics
