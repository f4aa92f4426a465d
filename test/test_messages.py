"""Bytes to arrays: the readers against rosbags itself, and everything that can be wrong with bytes."""

import dataclasses
from typing import Any

import cv2
import numpy as np
import pytest

from rl_ros.contract import Contract, Key
from rl_ros.episodes import messages
from rl_ros.episodes.messages import TYPESTORE, MessageError

IMAGE = Key("/i", "sensor_msgs/msg/Image", "data", (3, 5, 3), "uint8", encoding="rgb8")
POSITION = Key("/j", "sensor_msgs/msg/JointState", "position", (2,), "float64", "rad", names=("a", "b"))
STAMP = 1_700_000_000_123_456_789


def key_of(message_type: str, field: str, unit: str, length: int = 3, dtype: Any = "float64") -> Key:
    return Key("/v", message_type, field, (length,), dtype, unit)


def joint_key(field: str, unit: str, names: tuple[str, ...], dtype: Any = "float64") -> Key:
    return Key("/j", "sensor_msgs/msg/JointState", field, (len(names),), dtype, unit, names=names)


def image_message(pixels: np.ndarray, encoding: str = "rgb8", padding: int = 0, frame: str = "", **changes: Any) -> Any:
    height, width, channels = pixels.shape
    rows = np.full((height, width * channels + padding), 255, np.uint8)
    rows[:, : width * channels] = pixels.reshape(height, -1)
    fields = {
        "header": messages.header(STAMP, frame),
        "height": height,
        "width": width,
        "encoding": encoding,
        "is_bigendian": 0,
        "step": rows.shape[1],
        "data": rows.reshape(-1),
    }
    return messages.message("sensor_msgs/msg/Image", **(fields | changes))


def big_endian(message_type: str, cdr: bytes) -> bytes:
    return bytes(TYPESTORE.serialize_cdr(messages.decode(message_type, cdr), message_type, little_endian=False))


def random_frame(rng: np.random.Generator) -> str:
    """A frame of any length, so that what follows begins at any alignment."""
    return "camera_frame"[: rng.integers(0, 12)]


@pytest.mark.parametrize("little_endian", [True, False])
def test_images_of_any_size_padding_and_frame_read_as_rosbags_wrote_them(little_endian: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        encoding, channels = (("rgb8", 3), ("mono8", 1))[rng.integers(0, 2)]
        shape = (int(rng.integers(1, 9)), int(rng.integers(1, 9)), channels)
        pixels = rng.integers(0, 256, shape, np.uint8)
        sent = image_message(pixels, encoding, int(rng.integers(0, 8)), random_frame(rng))
        cdr = bytes(TYPESTORE.serialize_cdr(sent, "sensor_msgs/msg/Image", little_endian=little_endian))
        key = Key("/i", "sensor_msgs/msg/Image", "data", shape, "uint8", encoding=encoding)
        read = messages.value(key, cdr)
        assert (read.dtype, read.shape) == (np.uint8, shape)
        np.testing.assert_array_equal(read, pixels)
        assert messages.stamp_of(cdr) == STAMP


@pytest.mark.parametrize("little_endian", [True, False])
@pytest.mark.parametrize(("field", "unit"), [("position", "rad"), ("velocity", "rad/s"), ("effort", "N*m")])
def test_joints_are_picked_by_name_whatever_their_order_and_number(field: str, unit: str, little_endian: bool) -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        count = int(rng.integers(1, 10))
        names = [f"{'joint_of_the_arm'[: rng.integers(0, 16)]}{number}" for number in range(count)]
        numbers = {name: rng.normal(size=count) for name in ("position", "velocity", "effort")}
        for other in numbers:
            if other != field and rng.random() < 0.4:
                numbers[other] = np.zeros(0)
        sent = messages.joint_state_cdr(STAMP, names, **numbers, frame=random_frame(rng))
        if not little_endian:
            sent = big_endian("sensor_msgs/msg/JointState", sent)
        chosen = rng.permutation(count)[: rng.integers(1, count + 1)]
        read = messages.value(joint_key(field, unit, tuple(names[index] for index in chosen)), sent)
        np.testing.assert_array_equal(read, numbers[field][chosen])


VECTORS = [
    ("geometry_msgs/msg/PoseStamped", "pose.position", "m", 3),
    ("geometry_msgs/msg/PoseStamped", "pose.orientation", "", 4),
    ("geometry_msgs/msg/TwistStamped", "twist.linear", "m/s", 3),
    ("geometry_msgs/msg/TwistStamped", "twist.angular", "rad/s", 3),
    ("geometry_msgs/msg/WrenchStamped", "wrench.force", "N", 3),
    ("geometry_msgs/msg/WrenchStamped", "wrench.torque", "N*m", 3),
]


def vector_cdr(message_type: str, frame: str, first: np.ndarray, second: np.ndarray) -> bytes:
    if message_type == "geometry_msgs/msg/PoseStamped":
        return messages.pose_cdr(STAMP, frame, first, second)
    if message_type == "geometry_msgs/msg/TwistStamped":
        return messages.twist_cdr(STAMP, frame, first, second)
    vectors = [
        messages.message("geometry_msgs/msg/Vector3", x=float(x), y=float(y), z=float(z)) for x, y, z in (first, second)
    ]
    wrench = messages.message("geometry_msgs/msg/Wrench", force=vectors[0], torque=vectors[1])
    return messages.encode(
        message_type, messages.message(message_type, header=messages.header(STAMP, frame), wrench=wrench)
    )


@pytest.mark.parametrize("little_endian", [True, False])
@pytest.mark.parametrize(("message_type", "field", "unit", "length"), VECTORS)
def test_vectors_read_as_rosbags_reads_them(
    message_type: str, field: str, unit: str, length: int, little_endian: bool
) -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        first = rng.normal(size=3)
        second = rng.normal(size=4 if message_type == "geometry_msgs/msg/PoseStamped" else 3)
        cdr = vector_cdr(message_type, random_frame(rng), first, second)
        if not little_endian:
            cdr = big_endian(message_type, cdr)
        decoded = messages.decode(message_type, cdr)
        for part in field.split("."):
            decoded = getattr(decoded, part)
        expected = [getattr(decoded, axis) for axis in "xyzw"[:length]]
        np.testing.assert_array_equal(messages.value(key_of(message_type, field, unit, length), cdr), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_come_in_the_type_of_the_key(dtype: str) -> None:
    cdr = messages.joint_state_cdr(STAMP, ["a", "b"], [0.1, 0.2])
    assert messages.value(dataclasses.replace(POSITION, dtype=dtype), cdr).dtype == dtype
    cdr = messages.pose_cdr(STAMP, "", [0.1, 0.2, 0.3])
    key = key_of("geometry_msgs/msg/PoseStamped", "pose.position", "m", dtype=dtype)
    assert messages.value(key, cdr).dtype == dtype


def examples() -> list[tuple[Key, bytes]]:
    """One message for every reader; each ends with the bytes its key takes."""
    pixels = np.arange(45, dtype=np.uint8).reshape(3, 5, 3)
    found = [
        (IMAGE, messages.image_cdr(STAMP, "camera", pixels)),
        (joint_key("effort", "N*m", ("b", "a")), messages.joint_state_cdr(STAMP, "ab", [1, 2], [3, 4], [5, 6], "base")),
    ]
    for message_type, field, unit, length in VECTORS[1::2]:
        orientation = np.array([0.1, 0.2, 0.3, 0.4])[:length]
        cdr = vector_cdr(message_type, "base", np.array([1.0, 2.0, 3.0]), orientation)
        found.append((key_of(message_type, field, unit, length), cdr))
    return found


@pytest.mark.parametrize("little_endian", [True, False])
@pytest.mark.parametrize(("key", "cdr"), examples(), ids=lambda part: getattr(part, "field", ""))
def test_bytes_cut_short_anywhere_are_refused(key: Key, cdr: bytes, little_endian: bool) -> None:
    if not little_endian:
        cdr = big_endian(key.type, cdr)
    whole = messages.value(key, cdr)
    for length in range(len(cdr)):
        try:
            read = messages.value(key, cdr[:length])
        except MessageError:
            continue
        # Only what pads the end of a message may be missing.
        assert len(cdr) - length < 4
        np.testing.assert_array_equal(read, whole)


@pytest.mark.parametrize(("key", "cdr"), examples(), ids=lambda part: getattr(part, "field", ""))
def test_damaged_bytes_give_a_value_of_the_right_shape_or_a_message_error(key: Key, cdr: bytes) -> None:
    rng = np.random.default_rng(3)
    for _ in range(1000):
        damaged = bytearray(cdr)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(0, len(cdr))] = rng.integers(0, 256)
        try:
            read = messages.value(key, bytes(damaged))
        except MessageError:
            continue
        assert read.shape == key.shape
        assert read.dtype == key.dtype


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        (
            image_message(np.zeros((3, 5, 1), np.uint8), "bayer_rggb8"),
            "encoding bayer_rggb8, expected one that rgb8 can be made of: rgb8, bgr8, rgba8, bgra8, mono8",
        ),
        (image_message(np.zeros((5, 3, 3), np.uint8)), "an image of 3x5, expected 5x3"),
        (image_message(np.zeros((3, 5, 3), np.uint8), step=14), "45 bytes in rows of 14, expected 15 a row"),
        (image_message(np.zeros((3, 5, 3), np.uint8), step=16), "45 bytes in rows of 16, expected 15 a row"),
        (
            image_message(np.zeros((3, 5, 3), np.uint8), data=np.zeros(44, np.uint8)),
            "44 bytes in rows of 15, expected 15 a row",
        ),
    ],
)
def test_an_image_that_is_not_as_agreed_is_refused_with_what_came(sent: Any, sentence: str) -> None:
    with pytest.raises(MessageError) as caught:
        messages.value(IMAGE, messages.encode("sensor_msgs/msg/Image", sent))
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("names", "position", "sentence"),
    [
        (["a"], [1.0], "no joint b among a"),
        (["x", "y"], [1.0, 2.0], "no joint a, b among x, y"),
        ([], [], "no joint a, b among none"),
        (["a", "b"], [1.0], "1 numbers in position for 2 names"),
        (["a", "b"], [], "0 numbers in position for 2 names"),
        (["a", "b"], [1.0, 2.0, 3.0], "3 numbers in position for 2 names"),
    ],
)
def test_joints_that_are_missing_are_named(names: list[str], position: list[float], sentence: str) -> None:
    with pytest.raises(MessageError) as caught:
        messages.value(POSITION, messages.joint_state_cdr(STAMP, names, position))
    assert str(caught.value) == sentence


def test_numbers_that_are_not_finite_come_through_for_the_assembler_to_refuse() -> None:
    cdr = messages.joint_state_cdr(STAMP, ["a", "b"], [np.nan, np.inf])
    np.testing.assert_array_equal(messages.value(POSITION, cdr), [np.nan, np.inf])


@pytest.mark.parametrize("stamp", [0, 1, 999_999_999, 1_000_000_000, STAMP, (2**31 - 1) * 10**9 + 999_999_999])
def test_stamps_are_read_to_the_nanosecond(stamp: int) -> None:
    cdr = messages.pose_cdr(stamp, "base", [0.0, 0.0, 0.0])
    assert messages.stamp_of(cdr) == stamp
    assert messages.stamp_of(big_endian("geometry_msgs/msg/PoseStamped", cdr)) == stamp
    assert messages.stamp_of(messages.clock_cdr(stamp)) == stamp


def test_bytes_that_hold_no_stamp_are_refused() -> None:
    cdr = messages.clock_cdr(STAMP)
    for length in range(12):
        with pytest.raises(MessageError, match=f"{length} bytes hold no stamp"):
            messages.stamp_of(cdr[:length])


def test_decode_gives_back_what_encode_took() -> None:
    sent = image_message(np.arange(45, dtype=np.uint8).reshape(3, 5, 3), frame="camera")
    read = messages.decode("sensor_msgs/msg/Image", messages.encode("sensor_msgs/msg/Image", sent))
    np.testing.assert_array_equal(read.data, sent.data)
    assert (read.header, read.height, read.step, read.encoding) == (sent.header, 3, 15, "rgb8")


def test_decode_refuses_an_unknown_type_and_other_bytes() -> None:
    with pytest.raises(MessageError, match="the type my_msgs/msg/Thing is unknown"):
        messages.decode("my_msgs/msg/Thing", b"\0\1\0\0")
    with pytest.raises(MessageError, match="7 bytes that are no sensor_msgs/msg/Image"):
        messages.decode("sensor_msgs/msg/Image", b"\0\1\0\0abc")


def test_an_image_leaves_as_any_ros_tool_expects_it() -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (4, 6, 3), np.uint8)
    # A view that is not contiguous, such as a cropped camera image.
    read = messages.decode("sensor_msgs/msg/Image", messages.image_cdr(STAMP, "camera", pixels[:, ::2]))
    assert (read.height, read.width, read.step, read.encoding, read.header.frame_id) == (4, 3, 9, "rgb8", "camera")
    np.testing.assert_array_equal(read.data.reshape(4, 3, 3), pixels[:, ::2])


def test_a_trajectory_has_one_point_that_is_due_after_the_given_time() -> None:
    cdr = messages.trajectory_cdr(STAMP, ["a", "b"], [0.1, 0.2], 1.25)
    read = messages.decode("trajectory_msgs/msg/JointTrajectory", cdr)
    assert read.joint_names == ["a", "b"]
    assert len(read.points) == 1
    assert read.points[0].positions.tolist() == [0.1, 0.2]
    due = read.points[0].time_from_start
    assert (due.sec, due.nanosec) == (1, 250_000_000)
    assert messages.stamp_of(cdr) == STAMP


def test_camera_information_is_that_of_the_pinhole() -> None:
    matrix = np.array([[50.0, 0.0, 32.0], [0.0, 50.0, 24.0], [0.0, 0.0, 1.0]])
    read = messages.decode("sensor_msgs/msg/CameraInfo", messages.camera_info_cdr(STAMP, "camera", matrix, 48, 64))
    assert (read.height, read.width) == (48, 64)
    np.testing.assert_array_equal(read.k.reshape(3, 3), matrix)
    np.testing.assert_array_equal(read.p.reshape(3, 4)[:, :3], matrix)


def test_a_status_is_read_as_it_was_written() -> None:
    cdr = messages.status_cdr(STAMP, "end", "it is over", {"outcome": "success", "note": ""}, messages.WARN)
    status = messages.status_of(cdr)
    assert status == messages.Status(STAMP, "end", "it is over", {"outcome": "success", "note": ""}, messages.WARN)


def test_a_status_array_without_a_status_is_refused() -> None:
    array = messages.message("diagnostic_msgs/msg/DiagnosticArray", header=messages.header(STAMP), status=[])
    with pytest.raises(MessageError, match="without a status"):
        messages.status_of(messages.encode("diagnostic_msgs/msg/DiagnosticArray", array))


def test_an_action_goes_out_on_its_topics_and_reads_back_through_the_contract() -> None:
    contract = Contract.load("lift")
    action = np.array([0.1, -0.2, 0.3, 1.0])
    topics = messages.action_cdrs(contract, STAMP, action)
    assert list(topics) == ["/policy/action", "/policy/gripper"]
    read = [messages.value(channel, topics[channel.topic]) for channel in contract.action.values()]
    np.testing.assert_array_equal(np.concatenate(read), action.astype(np.float32))
    assert {messages.stamp_of(cdr) for cdr in topics.values()} == {STAMP}
    frame = messages.decode("geometry_msgs/msg/TwistStamped", topics["/policy/action"]).header.frame_id
    assert frame == contract.frame


def test_channels_that_share_a_topic_share_one_message() -> None:
    contract = Contract.load("lift")
    linear = contract.action["linear_velocity"]
    angular = dataclasses.replace(linear, field="twist.angular", unit="rad/s")
    other = dataclasses.replace(contract.action["gripper"], names=("other",))
    channels = {"linear": linear, "angular": angular, "gripper": contract.action["gripper"], "other": other}
    topics = messages.action_cdrs(
        dataclasses.replace(contract, action=channels), STAMP, np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    )
    assert list(topics) == ["/policy/action", "/policy/gripper"]
    read = [messages.value(channel, topics[channel.topic]).tolist() for channel in channels.values()]
    assert read == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0], [8.0]]


def test_types_that_carry_a_stamp_are_known() -> None:
    assert messages.is_stamped("sensor_msgs/msg/Image")
    assert messages.is_stamped("diagnostic_msgs/msg/DiagnosticArray")
    assert not messages.is_stamped("std_msgs/msg/Bool")


def test_the_definition_of_a_type_is_what_every_reader_of_bags_needs() -> None:
    text, digest = messages.definition("geometry_msgs/msg/PoseStamped")
    assert "MSG: geometry_msgs/Quaternion" in text
    # As published by ROS 2: `ros2 topic info --verbose` prints it for every publisher.
    assert digest == "RIHS01_10f3786d7d40fd2b54367835614bff85d4ad3b5dab62bf8bca0cc232d73b4cd8"


ENCODINGS = {
    "rgb8": lambda rgb: rgb,
    "bgr8": lambda rgb: rgb[..., ::-1],
    "rgba8": lambda rgb: np.concatenate([rgb, np.full_like(rgb[..., :1], 7)], axis=2),
    "bgra8": lambda rgb: np.concatenate([rgb[..., ::-1], np.full_like(rgb[..., :1], 7)], axis=2),
}


def image_key(shape: tuple[int, ...], encoding: Any = "rgb8", **changes: Any) -> Key:
    fields: dict[str, Any] = {"dtype": "uint8", "encoding": encoding} | changes
    return Key("/i", "sensor_msgs/msg/Image", "data", shape, **fields)


@pytest.mark.parametrize("encoding", list(ENCODINGS))
def test_images_of_other_encodings_are_converted(encoding: str) -> None:
    rgb = np.random.default_rng(5).integers(0, 256, (3, 5, 3), np.uint8)
    cdr = messages.encode("sensor_msgs/msg/Image", image_message(ENCODINGS[encoding](rgb), encoding, padding=3))
    np.testing.assert_array_equal(messages.value(image_key((3, 5, 3)), cdr), rgb)
    mono = messages.value(image_key((3, 5, 1), "mono8"), cdr)
    assert mono.shape == (3, 5, 1)
    np.testing.assert_allclose(mono[..., 0], rgb @ np.array([0.299, 0.587, 0.114]), atol=1.0)


def test_a_grey_image_has_three_equal_channels_as_rgb() -> None:
    grey = np.arange(15, dtype=np.uint8).reshape(3, 5, 1)
    cdr = messages.encode("sensor_msgs/msg/Image", image_message(grey, "mono8"))
    np.testing.assert_array_equal(messages.value(image_key((3, 5, 3)), cdr), np.repeat(grey, 3, axis=2))


def test_a_larger_image_is_reduced_by_averaging_areas_and_a_smaller_one_refused() -> None:
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:2, :2] = [[[10, 0, 0], [20, 0, 0]], [[30, 0, 0], [40, 0, 0]]]
    cdr = messages.encode("sensor_msgs/msg/Image", image_message(pixels))
    assert messages.value(image_key((2, 4, 3)), cdr)[0, 0].tolist() == [25, 0, 0]
    with pytest.raises(MessageError, match="an image of 8x4, expected 4x5"):
        messages.value(image_key((5, 4, 3)), cdr)


def depth_message(depth: np.ndarray, encoding: str, **changes: Any) -> bytes:
    height, width = depth.shape
    fields = {"height": height, "width": width, "encoding": encoding, "step": width * depth.itemsize}
    fields |= {"data": np.frombuffer(depth.tobytes(), np.uint8)}
    return messages.encode("sensor_msgs/msg/Image", image_message(np.zeros((1, 1, 1), np.uint8), **(fields | changes)))


def depth_key(shape: tuple[int, ...], invalid: float = -1.0) -> Key:
    return image_key(shape, "depth", dtype="float32", unit="m", invalid=invalid)


def test_depth_in_millimetres_or_metres_becomes_metres_with_what_is_invalid_marked() -> None:
    whole = np.array([[0, 1], [1500, 65535]], np.uint16)
    expected = np.array([[-1, 0.001], [1.5, 65.535]], np.float32)[..., None]
    key = depth_key((2, 2, 1))
    np.testing.assert_array_equal(messages.value(key, depth_message(whole, "16UC1")), expected)
    swapped = depth_message(whole.astype(">u2"), "16UC1", is_bigendian=1)
    np.testing.assert_array_equal(messages.value(key, swapped), expected)
    metres = np.array([[np.nan, 0.25], [0.0, np.inf]], np.float32)
    read = messages.value(depth_key((2, 2, 1), 9.0), depth_message(metres, "32FC1"))
    assert (read.dtype, read[..., 0].tolist()) == (np.float32, [[9.0, 0.25], [9.0, 9.0]])


def test_a_reduced_depth_image_mixes_no_two_pixels() -> None:
    depth = np.tile(np.array([[0, 1000], [2000, 4000]], np.uint16), (4, 4))
    read = messages.value(depth_key((4, 4, 1)), depth_message(depth, "16UC1"))
    assert set(read.reshape(-1).tolist()) <= {-1.0, 1.0, 2.0, 4.0}


def compressed(data: np.ndarray | bytes, form: str = "jpeg") -> bytes:
    fields = {"header": messages.header(STAMP, "camera"), "format": form, "data": np.frombuffer(bytes(data), np.uint8)}
    return messages.encode(
        "sensor_msgs/msg/CompressedImage", messages.message("sensor_msgs/msg/CompressedImage", **fields)
    )


def compressed_key(shape: tuple[int, ...], encoding: Any = "rgb8") -> Key:
    return Key("/i", "sensor_msgs/msg/CompressedImage", "data", shape, "uint8", encoding=encoding)


def test_compressed_images_are_decoded_and_reduced() -> None:
    rgb = np.zeros((16, 32, 3), np.uint8)
    rgb[:, :16] = [200, 100, 50]
    png = cv2.imencode(".png", rgb[..., ::-1])[1]
    np.testing.assert_array_equal(messages.value(compressed_key((16, 32, 3)), compressed(png, "png")), rgb)
    reduced = messages.value(compressed_key((4, 8, 3)), compressed(png, "png"))
    np.testing.assert_array_equal(reduced[0, :, 0], [200] * 4 + [0] * 4)
    jpeg = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
    read = messages.value(compressed_key((16, 32, 3)), compressed(jpeg))
    away_from_the_edge = np.r_[:12, 20:32]
    np.testing.assert_allclose(read[:, away_from_the_edge].astype(int), rgb[:, away_from_the_edge], atol=4)
    grey = messages.value(compressed_key((16, 32, 1), "mono8"), compressed(jpeg))
    assert (grey.shape, grey.dtype) == ((16, 32, 1), np.uint8)
    with pytest.raises(MessageError, match="an image of 32x16, expected 64x64"):
        messages.value(compressed_key((64, 64, 3)), compressed(jpeg))


@pytest.mark.parametrize("data", [b"", b"no picture at all", b"\xff\xd8\xff\xe0"])
def test_bytes_that_are_no_picture_are_refused_with_their_format(data: bytes) -> None:
    with pytest.raises(MessageError, match=f"^{len(data)} bytes of format 'rvl' that are no JPEG or PNG image$"):
        messages.value(compressed_key((4, 4, 3)), compressed(data, "rvl"))


@pytest.mark.parametrize(("key", "cdr"), examples(), ids=lambda part: getattr(part, "field", ""))
def test_a_column_holds_the_same_bits_as_its_messages_alike_or_not(key: Key, cdr: bytes) -> None:
    rng = np.random.default_rng(6)
    read = refused = 0
    for _ in range(300):
        column = []
        for _ in range(rng.integers(1, 5)):
            one = bytearray(cdr)
            for _ in range(rng.choice([0, 0, 1, 2])):
                one[rng.integers(0, len(cdr))] = rng.integers(0, 256)
            column.append(big_endian(key.type, cdr) if rng.random() < 0.05 else bytes(one))
        try:
            expected = np.stack([messages.value(key, one) for one in column])
        except MessageError:
            refused += 1
            with pytest.raises(MessageError):
                messages.column(key, column)
            continue
        found = messages.column(key, column)
        assert (found.dtype, found.tobytes()) == (expected.dtype, expected.tobytes())
        read += 1
    assert min(read, refused) > 10


def test_the_time_of_a_service_event_and_its_side_are_read_off_its_bytes() -> None:
    # ServiceEventInfo: type, stamp, 16 bytes of client, sequence number.
    for kind, answered in ((0, False), (1, False), (2, True), (3, True)):
        cdr = b"\0\1\0\0" + bytes([kind, 0, 0, 0]) + (5).to_bytes(4, "little") + (7).to_bytes(4, "little") + bytes(24)
        assert messages.service_event_of(cdr) == (5_000_000_007, answered)
    with pytest.raises(MessageError, match="hold no service event"):
        messages.service_event_of(b"\0\1\0\0")
