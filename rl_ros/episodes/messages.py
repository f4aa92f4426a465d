"""Message <-> array, on the bytes as they travel.

Live nodes subscribe to raw CDR and bags store raw CDR, so both go through the functions below and
nothing else: what a policy saw in training is what it sees on the robot.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from rl_ros.contract import ACTORS, Contract, Key

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


IN_SPACE = ("geometry_msgs/msg/PoseStamped", "geometry_msgs/msg/TwistStamped")
"""Types whose numbers mean nothing without the frame that they are in."""


def frame_of(cdr: bytes) -> str:
    """The header's `frame_id` of any message that begins with a Header.

    Raises:
        MessageError: too few bytes to hold one.
    """
    try:
        return _string(cdr, 12)[0].decode("utf-8", "replace")
    except struct.error as error:
        raise MessageError(f"{len(cdr)} bytes hold no frame") from error


@cache
def definition(message_type: str) -> tuple[str, str]:
    """The `.msg` text of a type with all it contains, and its RIHS01 hash, as bags embed them."""
    return TYPESTORE.generate_msgdef(message_type, ros_version=2)[0], TYPESTORE.hash_rihs01(message_type)


@cache
def is_stamped(message_type: str) -> bool:
    """Whether messages of the type begin with a Header, so that `stamp_of` holds for them."""
    if message_type not in TYPESTORE.fielddefs:
        return False  # one of somebody's own types
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


def actor_cdr(stamp: int, actor: str) -> bytes:
    """Who chose the action of the tick with that stamp: one of `contract.ACTORS`, or `contract.NOBODY`."""
    return joint_state_cdr(stamp, ACTORS, [float(name == actor) for name in ACTORS])


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
    numbers = np.asarray(positions, np.float64)
    template, offset = _trajectory(tuple(names), len(numbers), seconds)
    cdr = bytearray(template)
    _STAMP_LITTLE_ENDIAN.pack_into(cdr, 4, *divmod(stamp, 1_000_000_000))
    cdr[offset : offset + numbers.nbytes] = numbers.tobytes()
    return bytes(cdr)


@lru_cache(maxsize=64)
def _trajectory(names: tuple[str, ...], count: int, seconds: float) -> tuple[bytes, int]:
    """A trajectory to fill in, and where its positions go: every command differs in its stamp and positions alone."""
    whole, part = divmod(round(seconds * 1e9), 1_000_000_000)
    empty, marks = np.zeros(0), np.sqrt(np.arange(2.0, count + 2.0))
    point = message(
        "trajectory_msgs/msg/JointTrajectoryPoint",
        positions=marks,
        velocities=empty,
        accelerations=empty,
        effort=empty,
        time_from_start=message("builtin_interfaces/msg/Duration", sec=whole, nanosec=part),
    )
    trajectory = message(
        "trajectory_msgs/msg/JointTrajectory", header=header(0), joint_names=list(names), points=[point]
    )
    cdr = encode("trajectory_msgs/msg/JointTrajectory", trajectory)
    return cdr, cdr.index(marks.tobytes())


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


def service_event_of(cdr: bytes) -> tuple[int, bool]:
    """Stamp in nanoseconds of a service event, and whether it is that of an answer (else of a request).

    Raises:
        MessageError: too few bytes.
    """
    if len(cdr) < 16:
        raise MessageError(f"{len(cdr)} bytes hold no service event")
    seconds, nanoseconds = (_STAMP_LITTLE_ENDIAN if cdr[1] & 1 else _STAMP_BIG_ENDIAN).unpack_from(cdr, 8)
    # ServiceEventInfo: request sent 0, received 1; response sent 2, received 3.
    return int(seconds) * 1_000_000_000 + int(nanoseconds), cdr[4] >= 2


def value(key: Key, cdr: bytes) -> np.ndarray:
    """The array that `key` takes from the CDR bytes of one message, of the key's `message_shape` and dtype.

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


_ENCODINGS: dict[str, tuple[str, ...]] = {
    "rgb8": ("rgb8", "bgr8", "rgba8", "bgra8", "mono8"),
    "mono8": ("mono8", "rgb8", "bgr8", "rgba8", "bgra8"),
    "depth": ("16UC1", "32FC1"),
}
"""What each encoding of a key can be made of."""
_PIXELS: dict[str, tuple[str, int]] = {
    "rgb8": ("u1", 3),
    "bgr8": ("u1", 3),
    "rgba8": ("u1", 4),
    "bgra8": ("u1", 4),
    "mono8": ("u1", 1),
    "16UC1": ("u2", 1),
    "32FC1": ("f4", 1),
}
"""Type of one number and numbers to a pixel."""


class _ImageLayout(NamedTuple):
    """Where the pixels of an Image are."""

    height: int
    width: int
    encoding: str
    big_endian: bool
    step: int
    size: int
    offset: int


def _image_layout(cdr: bytes) -> _ImageLayout:
    offset = _aligned(_after_header(cdr), 4)
    height, width = struct.unpack_from("<II", cdr, offset)
    encoding, offset = _string(cdr, offset + 8)
    big_endian = bool(cdr[offset])
    offset = _aligned(offset + 1, 4)
    step, size = struct.unpack_from("<II", cdr, offset)
    return _ImageLayout(height, width, encoding.decode("ascii", "replace"), big_endian, step, size, offset + 8)


def _image(key: Key, cdr: bytes) -> np.ndarray:
    found = _image_layout(cdr)
    height, width, pixel = key.message_shape
    as_wanted = found.encoding == key.encoding and found.height == height and found.width == width
    if as_wanted and found.step == width * pixel and found.size == found.step * height:
        # As most images come; what follows gives the same, in twice the time.
        return np.frombuffer(cdr, np.uint8, found.size, found.offset).reshape(height, width, pixel)
    if found.encoding not in _ENCODINGS[key.encoding]:
        able = ", ".join(_ENCODINGS[key.encoding])
        raise MessageError(f"encoding {found.encoding}, expected one that {key.encoding} can be made of: {able}")
    kind, channels = _PIXELS[found.encoding]
    dtype = np.dtype(kind).newbyteorder(">" if found.big_endian else "<")
    row = found.width * channels * dtype.itemsize
    _check_size(key, found.height, found.width)
    if found.step < row or found.size != found.step * found.height:
        raise MessageError(f"{found.size} bytes in rows of {found.step}, expected {row} a row")
    pixels = np.frombuffer(cdr, np.uint8, found.size, found.offset)
    if found.step != row:
        pixels = np.ascontiguousarray(pixels.reshape(found.height, found.step)[:, :row])
    image = pixels.view(dtype).reshape(found.height, found.width, channels)
    if key.encoding == "depth":
        return _metres(key, _reduced(key, image))
    if found.encoding != key.encoding:
        return _converted(_reduced(key, image), found.encoding, key.encoding)
    return _reduced(key, image)


def _check_size(key: Key, height: int, width: int) -> None:
    """An image may be larger than the shape, and never smaller: detail cannot be made up."""
    wanted_height, wanted_width = key.message_shape[:2]
    if height < wanted_height or width < wanted_width:
        raise MessageError(f"an image of {width}x{height}, expected {wanted_width}x{wanted_height}")


def _reduced(key: Key, image: np.ndarray) -> np.ndarray:
    height, width = key.message_shape[:2]
    if image.shape[:2] == (height, width):
        return image
    import cv2

    # Areas are averaged; a depth is not, as it would mix what is near with what is far and with no measurement.
    how = cv2.INTER_NEAREST if key.encoding == "depth" else cv2.INTER_AREA
    image = image.astype(image.dtype.newbyteorder("="), copy=False)
    return cv2.resize(image, (width, height), interpolation=how).reshape(height, width, image.shape[2])


def _converted(image: np.ndarray, found: str, wanted: str) -> np.ndarray:
    """uint8 (H, W, C) of encoding `found` as rgb8 or mono8."""
    if found == "mono8":
        return np.repeat(image, 3, axis=2)
    rgb = image[..., 2::-1] if found.startswith("bgr") else image[..., :3]
    if wanted == "rgb8":
        return np.ascontiguousarray(rgb)
    import cv2

    return cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)[..., None]


def _metres(key: Key, image: np.ndarray) -> np.ndarray:
    """Depth as float32 metres, from whole millimetres or from metres."""
    depth = image.astype(np.float32)
    if image.dtype.kind == "u":
        depth /= 1000
    # 0 and NaN are no measurement, and so are the infinities of too near and too far (REP 117).
    depth[~(np.isfinite(depth) & (depth > 0))] = key.invalid
    return depth


def _compressed_image(key: Key, cdr: bytes) -> np.ndarray:
    name, offset = _string(cdr, _after_header(cdr))
    offset = _aligned(offset, 4)
    (size,) = _UINT32.unpack_from(cdr, offset)
    import cv2

    data = np.frombuffer(cdr, np.uint8, size, offset + 4)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB if key.encoding == "rgb8" else cv2.IMREAD_GRAYSCALE)
    except cv2.error:
        image = None
    if image is None:
        raise MessageError(f"{size} bytes of format '{name.decode('ascii', 'replace')}' that are no JPEG or PNG image")
    _check_size(key, *image.shape[:2])
    return _reduced(key, image.reshape(*image.shape[:2], -1))


class _JointLayout(NamedTuple):
    """Where the numbers of a JointState's field are."""

    offset: int
    length: int
    chosen: np.ndarray
    fixed: list[tuple[int, int]]
    """The bytes that tell so, as spans."""


_joint_layouts: dict[tuple[str, tuple[str, ...]], tuple[list[tuple[int, int, bytes]], _JointLayout]] = {}
"""What was found last for each field and names, and the bytes that told so: a publisher's messages differ in their
stamps and numbers alone."""


def _joint_layout(key: Key, cdr: bytes) -> _JointLayout:
    known = _joint_layouts.get((key.field, key.names))
    if known is not None and all(cdr[begin:end] == told for begin, end, told in known[0]):
        return known[1]
    found = _new_joint_layout(key, cdr)
    _joint_layouts[key.field, key.names] = [(begin, end, cdr[begin:end]) for begin, end in found.fixed], found
    return found


def _new_joint_layout(key: Key, cdr: bytes) -> _JointLayout:
    offset = _aligned(_after_header(cdr), 4)
    (count,) = _UINT32.unpack_from(cdr, offset)
    offset += 4
    index = {}
    for position in range(count):
        name, offset = _string(cdr, offset)
        index[name.decode()] = position
    fixed, begin = [], 12
    for field in ("position", "velocity", "effort"):
        offset = _aligned(offset, 4)
        (length,) = _UINT32.unpack_from(cdr, offset)
        offset += 4
        if length:
            offset = _aligned(offset, 8)
        fixed.append((begin, offset))
        if field == key.field:
            break
        offset += 8 * length
        begin = offset
    missing = [name for name in key.names if name not in index]
    if missing:
        raise MessageError(f"no joint {', '.join(missing)} among {', '.join(index) or 'none'}")
    if length != count:
        raise MessageError(f"{length} numbers in {key.field} for {count} names")
    return _JointLayout(offset, length, np.array([index[name] for name in key.names], np.intp), fixed)


def _joint_state(key: Key, cdr: bytes) -> np.ndarray:
    found = _joint_layout(key, cdr)
    return np.frombuffer(cdr, "<f8", found.length, found.offset)[found.chosen].astype(key.dtype, copy=False)


_VECTORS = {
    "pose.position": (0, 3),
    "pose.orientation": (24, 4),
    "twist.linear": (0, 3),
    "twist.angular": (24, 3),
    "twist.angular.z": (40, 1),
    "wrench.force": (0, 3),
    "wrench.torque": (24, 3),
}
"""Offset in bytes and length of each vector after the header."""


def _vector(key: Key, cdr: bytes) -> np.ndarray:
    start, length = _VECTORS[key.field]
    return np.frombuffer(cdr, "<f8", length, _aligned(_after_header(cdr), 8) + start).astype(key.dtype)


_READERS: dict[str, Callable[[Key, bytes], np.ndarray]] = {
    "sensor_msgs/msg/Image": _image,
    "sensor_msgs/msg/CompressedImage": _compressed_image,
    "sensor_msgs/msg/JointState": _joint_state,
    "geometry_msgs/msg/PoseStamped": _vector,
    "geometry_msgs/msg/TwistStamped": _vector,
    "geometry_msgs/msg/WrenchStamped": _vector,
}


def column(key: Key, cdrs: Sequence[bytes]) -> np.ndarray:
    """`value` of many messages at once, (n, *message_shape); the same bits, many times faster if they are alike.

    Messages of one publisher differ in their stamps and numbers alone. Where the bytes that say how to read them are
    equal, reading the first tells how to read all.

    Raises:
        MessageError: `value` refuses one of them.
    """
    if len({len(cdr) for cdr in cdrs}) == 1 and len(cdrs[0]) > 12 and cdrs[0][1] & 1:
        layout = _layout(key, cdrs[0])
        if layout is not None:
            offset, kind, count, chosen, fixed = layout
            table = np.frombuffer(b"".join(cdrs), np.uint8).reshape(len(cdrs), -1)
            if all((table[:, a:b] == table[0, a:b]).all() for a, b in fixed):
                numbers = table[:, offset : offset + count * np.dtype(kind).itemsize]
                if kind == "u1":
                    return numbers.reshape(len(cdrs), *key.message_shape)
                return np.ascontiguousarray(numbers).view(kind)[:, chosen].astype(key.dtype)
    return np.stack([value(key, cdr) for cdr in cdrs])


_Layout = tuple[int, str, int, Any, list[tuple[int, int]]]
"""Offset, type and count of the numbers, which of them to take, and the spans of bytes that say so."""


def _layout(key: Key, cdr: bytes) -> _Layout | None:
    """How to read messages that are like this one; None where each has to be read by itself."""
    try:
        if key.type == "sensor_msgs/msg/Image":
            image = _image_layout(cdr)
            height, width, channels = key.message_shape
            alike = (image.height, image.width, image.encoding, image.step) == (
                height, width, key.encoding, width * channels,
            )  # fmt: skip
            if not alike or image.size != image.step * height or image.offset + image.size > len(cdr):
                return None
            return image.offset, "u1", image.size, slice(None), [(0, 4), (12, image.offset)]
        if key.type == "sensor_msgs/msg/JointState":
            joints = _joint_layout(key, cdr)
            if joints.offset + 8 * joints.length > len(cdr):
                return None
            return joints.offset, "<f8", joints.length, joints.chosen, [(0, 4), *joints.fixed]
        if key.field in _VECTORS:
            start, length = _VECTORS[key.field]
            offset = _aligned(_after_header(cdr), 8) + start
            return (offset, "<f8", length, slice(None), [(0, 4), (12, 16)]) if offset + 8 * length <= len(cdr) else None
    except (MessageError, struct.error, ValueError, IndexError):
        pass  # `value` says what is wrong
    return None


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
            about_z = np.array([0.0, 0.0, *fields.get("twist.angular.z", still[:1])])
            topics[topic] = twist_cdr(
                stamp, contract.frame, fields.get("twist.linear", still), fields.get("twist.angular", about_z)
            )
        else:
            names = [name for channel in channels.values() for name in channel.names]
            topics[topic] = joint_state_cdr(stamp, names, np.concatenate([parts[name] for name in channels]))
    return topics
