"""Bags, bundles and configuration of strangers are data: what is wrong with them is a sentence, in bounded time."""

import dataclasses
import hashlib
import json
import os
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import onnx
import onnx.helper
import pytest
import torch
import yaml
import zstandard
from helpers import episode_messages, small_contract

from rl_ros import schema
from rl_ros.contract import Contract
from rl_ros.episodes import messages
from rl_ros.episodes.bags import find_bags, mcap_file, read_bag
from rl_ros.episodes.ingest import episodes_of
from rl_ros.episodes.messages import MessageError
from rl_ros.episodes.record import EpisodeFile
from rl_ros.errors import UserError
from rl_ros.networks.image_encoder import Calibration, load_encoder, save_encoder
from rl_ros.networks.vae import ImageVAE
from rl_ros.training.bundle import DESCRIPTION, POLICY, WEIGHTS, load_bundle, save_bundle
from rl_ros.training.representation import restored

MEMORY = 1 << 30
"""Bytes that a hostile file may make this process grow by, generously: the bombs below are larger."""


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Neither the memory nor the time of this process run away."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MEMORY, f"grew by {grown >> 20} MB"
    assert time.monotonic() - began < seconds


# Bags


def small_bag(directory: Path) -> Path:
    contract = small_contract()
    file = EpisodeFile(directory, "bag", contract.recorded_topics(), {"contract": contract.to_yaml(), "seed": "3"})
    for topic, stamp, cdr in episode_messages(contract, 5):
        file.write(topic, stamp, cdr)
    return file.close({"outcome": "success", "end": "1000400000000"})


def record(opcode: int, body: bytes) -> bytes:
    return struct.pack("<BQ", opcode, len(body)) + body


def chunk(compression: bytes, size: int, content: bytes) -> bytes:
    name = struct.pack("<I", len(compression)) + compression
    return record(6, struct.pack("<QQQI", 0, 0, size, 0) + name + struct.pack("<Q", len(content)) + content)


def mcap(*records: bytes) -> bytes:
    header = record(1, struct.pack("<I", 4) + b"ros2" + struct.pack("<I", 0))
    schema_record = record(3, struct.pack("<H", 1) + (struct.pack("<I", 1) + b"T") * 2 + struct.pack("<I", 0))
    channel = record(4, struct.pack("<HH", 1, 1) + (struct.pack("<I", 2) + b"/t") * 2 + struct.pack("<I", 0))
    magic = b"\x89MCAP0\r\n"
    return magic + header + schema_record + channel + b"".join(records) + record(2, bytes(20)) + magic


def zeros_zstd(size: int) -> bytes:
    """Frames of zeros that do not say how many."""
    compressor = zstandard.ZstdCompressor(level=1).compressobj()
    block = bytes(1 << 24)
    return b"".join([compressor.compress(block) for _ in range(size >> 24)] + [compressor.flush()])


HUGE = 3 << 29


@pytest.mark.parametrize("declared", [100, 1 << 29, 1 << 40, (1 << 64) - 1])
@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_chunk_that_unpacks_to_gigabytes_is_damage(compression: str, declared: int, tmp_path: Path) -> None:
    content = bomb(compression)
    path = tmp_path / "bomb.mcap"
    path.write_bytes(mcap(chunk(compression.encode(), declared, content)))
    with bounded(20.0):
        bag = read_bag(path)
        assert list(bag) == []
        assert "damaged after 0 messages" in bag.damage


@cache
def bomb(compression: str) -> bytes:
    """Gigabytes of zeros in little space."""
    return zeros_zstd(HUGE) if compression == "zstd" else lz4.frame.compress(bytes(HUGE))


def test_a_frame_that_lies_about_its_size_allocates_nothing(tmp_path: Path) -> None:
    # A single-segment frame with a content size of 2^60, and an empty last block.
    frame = struct.pack("<I", 0xFD2FB528) + bytes([0b11100000]) + struct.pack("<Q", 1 << 60) + b"\x01\x00\x00"
    path = tmp_path / "liar.mcap"
    path.write_bytes(mcap(chunk(b"zstd", 1000, frame)))
    with bounded(5.0):
        assert list(read_bag(path)) == []


@pytest.mark.parametrize("name", ["bomb.mcap.zstd", "bomb.db3.zstd"])
def test_a_file_that_unpacks_to_gigabytes_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(bomb("zstd"))
    with bounded(20.0), pytest.raises(UserError, match=r"unpacks to more than 256 MB, so it is no bag"):
        list(read_bag(tmp_path / name))


def test_metadata_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret.db3"
    secret.write_bytes(b"SQLite format 3\0 of somebody else")
    bag = tmp_path / "bag"
    bag.mkdir()
    (bag / "bag_0.db3").write_bytes(b"")
    for path in ("../secret.db3", str(secret)):
        information = {
            "version": 5, "storage_identifier": "sqlite3", "relative_file_paths": [path], "message_count": 1,
            "duration": {"nanoseconds": 1}, "starting_time": {"nanoseconds_since_epoch": 1},
            "topics_with_message_count": [], "compression_format": "", "compression_mode": "",
        }  # fmt: skip
        (bag / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": information}))
        (bag / "bag_0.db3").write_bytes(b"no database")
        with pytest.raises(UserError, match=r"bag: cannot be opened|Some database files are missing"):
            list(read_bag(bag))


def test_mutated_bags_give_episodes_or_sentences(tmp_path: Path) -> None:
    contract, rng = small_contract(), np.random.default_rng(0)
    whole = mcap_file(small_bag(tmp_path)).read_bytes()
    path = tmp_path / "mutated.mcap"
    outcomes = {"read": 0, "refused": 0}
    with bounded(60.0):
        for _ in range(250):
            mutated = bytearray(whole)
            for _ in range(rng.integers(1, 6)):
                where, kind = int(rng.integers(8, len(mutated))), rng.integers(0, 4)
                if kind == 0:
                    mutated[where] ^= 1 << int(rng.integers(0, 8))
                elif kind == 1:
                    mutated[where : where + 8] = struct.pack("<Q", (0, 1, 2**31, 2**63, 2**64 - 1)[rng.integers(0, 5)])
                elif kind == 2:
                    del mutated[where : where + int(rng.integers(1, 64))]
                else:
                    mutated[where:where] = rng.bytes(int(rng.integers(1, 16)))
            path.write_bytes(mutated)
            try:
                refused: list[str] = []
                bag = read_bag(path)
                list(episodes_of(bag, bag.contract or contract, refused))
                _ = bag.missing, bag.damage, bag.topics
                outcomes["read"] += 1
            except UserError as error:
                assert "\n" not in str(error)
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 10, outcomes


def test_messages_with_impossible_lengths_are_message_errors() -> None:
    contract, rng = Contract.load("lift"), np.random.default_rng(1)
    image = np.zeros((64, 64, 3), np.uint8)
    wholes = {
        "image": messages.image_cdr(1, "camera", image),
        "finger_position": messages.joint_state_cdr(1, ["panda_finger_joint1", "panda_finger_joint2"], [0.0, 0.1]),
        "tool_position": messages.pose_cdr(1, "base", [0.1, 0.2, 0.3]),
    }
    with bounded(30.0):
        for name, whole in wholes.items():
            key = contract.observation[name]
            assert messages.value(key, whole).shape == key.shape
            for _ in range(300):
                cut = bytearray(whole[: rng.integers(0, len(whole) + 1)])
                if len(cut) > 12:
                    where = int(rng.integers(0, min(len(cut) - 4, 120)))
                    cut[where : where + 4] = struct.pack("<I", int(rng.choice([0, 7, 2**31 - 1, 2**32 - 1])))
                for read in (lambda c: messages.value(key, c), lambda c: messages.decode(key.type, c)):  # noqa: B023
                    try:
                        read(bytes(cut))
                    except MessageError:
                        continue


def test_a_picture_of_a_billion_pixels_is_not_decoded(tmp_path: Path) -> None:
    import zlib

    def part(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    picture = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0))
    picture += part(b"IDAT", zlib.compress(bytes(1 << 20))) + part(b"IEND", b"")
    kind = "sensor_msgs/msg/CompressedImage"
    data = np.frombuffer(picture, np.uint8)
    cdr = messages.encode(kind, messages.message(kind, header=messages.header(1), format="png", data=data))
    key = dataclasses.replace(Contract.load("lift").observation["image"], type=kind)
    with bounded(10.0), pytest.raises(MessageError):
        messages.value(key, cdr)
    # Because of its size, and not because its data end: in a process of its own, as OpenCV knows one limit a process.
    (tmp_path / "picture.png").write_bytes(picture)
    code = "import rl_ros, cv2, sys; cv2.imread(sys.argv[1])"
    command = [sys.executable, "-c", code, str(tmp_path / "picture.png")]
    told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert "CV_IO_MAX_IMAGE_PIXELS" in told.stderr


# Configuration


def laughs(levels: int = 9, times: int = 9) -> str:
    lines = ["a: &a [x, x]"]
    for level in range(levels):
        name, other = chr(ord("b") + level), chr(ord("a") + level)
        lines.append(f"{name}: &{name} [{', '.join([f'*{other}'] * times)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        laughs(),
        "a: &a [*a]",
        "[" * 500 + "]" * 500,
        "{a: " * 500 + "}" * 500,
        "!!python/object/apply:os.system ['true']",
        "a: !!timestamp 2026-99-99",
        "a: " + "9" * 5000,
        "a: 1" * 3,
        "\x00",
        "a: &x 1\na: *y",
    ],
)
def test_malformed_yaml_is_a_sentence(text: str) -> None:
    with bounded(5.0), pytest.raises(UserError) as caught:
        Contract.from_yaml(text, "contract.yaml")
    assert str(caught.value).startswith("contract.yaml")
    assert len(str(caught.value)) < 1000


def test_yaml_with_a_few_aliases_is_read() -> None:
    assert schema.plain_yaml("a: &a [1, 2]\nb: *a") == {"a": [1, 2], "b": [1, 2]}


def test_mutated_contracts_are_contracts_or_sentences() -> None:
    text, rng = Contract.load("lift").to_yaml(), np.random.default_rng(2)
    refused = 0
    with bounded(60.0):
        for _ in range(60):
            mutated = list(text)
            for _ in range(rng.integers(1, 5)):
                where = int(rng.integers(0, len(mutated)))
                mutated[where : where + int(rng.integers(0, 9))] = rng.choice(list(" :-[]{}&*!'\n0e.aé\t"))
            try:
                Contract.from_yaml("".join(mutated), "mutated")
            except UserError:
                refused += 1
    assert refused > 20


def test_a_contract_of_impossible_shape_is_refused() -> None:
    text = Contract.load("lift").to_yaml()
    huge = text.replace("- 64\n    - 64\n    - 3", "- 1000000\n    - 1000000\n    - 3")
    assert huge != text
    with pytest.raises(UserError, match=r"observation: image: shape: expected at most 268435456 numbers"):
        Contract.from_yaml(huge, "contract.yaml")


# Bundles


class Still(torch.nn.Module):
    """Always the same action."""

    def forward(self, observation: dict[str, torch.Tensor], goal: torch.Tensor) -> torch.Tensor:
        position = observation["tool_position"]
        return position * 0.0 + 0.01 * goal


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return save_bundle(
        tmp_path / "bundle", contract=Contract.load("reach"), algorithm_name="bc", configuration={"seed": 0},
        policy_module=Still(), state_tensors={"networks.policy.w": torch.ones(3)}, normalisation={}, metrics={},
        source_episodes=["somewhere"],
    )  # fmt: skip


def resigned(directory: Path, name: str, content: bytes, description: str = DESCRIPTION) -> None:
    """A file of a bundle replaced by one who also knows how to make a hash."""
    (directory / name).write_bytes(content)
    data = json.loads((directory / description).read_text())
    data["sha256"][name] = hashlib.sha256(content).hexdigest()
    (directory / description).write_text(json.dumps(data))


def mutations(wholes: Mapping[str, bytes], count: int) -> Iterator[tuple[str, bytes]]:
    """Names of files, in turn, and contents with a few bytes that are others, or gone."""
    rng = np.random.default_rng(3)
    names = list(wholes)
    for turn in range(count):
        name = names[turn % len(names)]
        mutated = bytearray(wholes[name])
        for _ in range(rng.integers(1, 4)):
            where = int(rng.integers(0, len(mutated)))
            if rng.random() < 0.7:
                mutated[where] = int(rng.integers(0, 256))
            else:
                del mutated[where : where + int(rng.integers(1, 32))]
        yield name, bytes(mutated)


def refusal(bundle: Path) -> str:
    with bounded(20.0), pytest.raises(UserError) as caught:
        loaded = load_bundle(bundle)
        loaded.policy()
        loaded.state()
    return str(caught.value)


def changed_model(bundle: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load_from_string((bundle / POLICY).read_bytes())
    change(model)
    resigned(bundle, POLICY, model.SerializeToString())


def test_a_model_that_names_other_files_is_refused(bundle: Path, tmp_path: Path) -> None:
    def external(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer.add(name="secret", dims=[8], data_type=onnx.TensorProto.FLOAT)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../etc/hostname")

    changed_model(bundle, external)
    assert "a tensor is in another file (external data)" in refusal(bundle)


def test_external_data_is_found_within_graphs_within_graphs(bundle: Path) -> None:
    def hidden(model: onnx.ModelProto) -> None:
        tensor = onnx.TensorProto(name="deep", dims=[8], data_type=onnx.TensorProto.FLOAT)
        tensor.external_data.add(key="location", value="/etc/hostname")
        node = model.graph.node.add(op_type="If", input=["x"], output=["y"])
        branch = onnx.GraphProto(name="branch", initializer=[tensor])
        node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g.CopyFrom(branch)

    changed_model(bundle, hidden)
    assert "external data" in refusal(bundle)


def test_operators_of_other_libraries_and_giant_tensors_are_refused(bundle: Path) -> None:
    whole = (bundle / POLICY).read_bytes()
    changed_model(bundle, lambda model: model.graph.node.add(op_type="Run", domain="com.example"))
    assert "an operator is of 'com.example'" in refusal(bundle)
    resigned(bundle, POLICY, whole)
    changed_model(bundle, lambda m: m.graph.initializer.add(name="big", dims=[1 << 40, 1 << 20], data_type=1))
    assert "a tensor has the shape [1099511627776, 1048576]" in refusal(bundle)


def test_a_model_of_another_contract_is_refused(bundle: Path) -> None:
    whole = (bundle / POLICY).read_bytes()
    changed_model(bundle, lambda model: setattr(model.graph.input[0], "name", "camera"))
    assert refusal(bundle)
    resigned(bundle, POLICY, whole)

    def wider(model: onnx.ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
            value.type.tensor_type.shape.dim[0].dim_value = 1

    changed_model(bundle, wider)
    assert "is none of those expected, or of another shape or type" in refusal(bundle)


def test_mutated_bundles_load_or_are_a_sentence(bundle: Path) -> None:
    wholes = {name: (bundle / name).read_bytes() for name in (POLICY, WEIGHTS, DESCRIPTION)}
    outcomes = {"read": 0, "refused": 0}
    with bounded(60.0):
        for name, content in mutations(wholes, 150):
            for other, whole in wholes.items():
                (bundle / other).write_bytes(whole)
            if name == DESCRIPTION:
                (bundle / name).write_bytes(content)
            else:
                resigned(bundle, name, content)
            try:
                loaded = load_bundle(bundle)
                loaded.policy()
                loaded.state()
                outcomes["read"] += 1
            except UserError as error:
                assert "\n" not in str(error)
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 0, outcomes


@pytest.mark.parametrize(
    "content", [b"[]", b"3", b'{"format": 1}', b"[" * 100_000, b'{"format": 1, "sha256": [], "contract": 3}', b"\xff"]
)
def test_a_description_that_is_none_is_a_sentence(content: bytes, bundle: Path) -> None:
    (bundle / DESCRIPTION).write_bytes(content)
    assert "damaged" in refusal(bundle)


def test_a_file_without_an_end_is_not_read(bundle: Path) -> None:
    (bundle / POLICY).unlink()
    os.symlink("/dev/zero", bundle / POLICY)
    assert "missing, so the policy bundle is not whole" in refusal(bundle)


# Image encoders


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model, settings = ImageVAE((16, 16, 3), 2, features=8, hidden_size=8), {"features": 8, "hidden_size": 8}
    return save_encoder(tmp_path / "encoder", model, Calibration(1.0, 1.0, 1.0, 1.0), settings).directory


def encoder_refusal(encoder: Path) -> str:
    with bounded(20.0), pytest.raises(UserError) as caught:
        restored(load_encoder(encoder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def described(encoder: Path, **changes: Any) -> None:
    description = json.loads((encoder / "encoder.json").read_text()) | changes
    (encoder / "encoder.json").write_text(json.dumps(description))


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx"])
def test_an_encoder_that_names_other_files_is_refused(name: str, encoder: Path) -> None:
    model = onnx.load_from_string((encoder / name).read_bytes())
    tensor = model.graph.initializer.add(name="secret", dims=[8], data_type=onnx.TensorProto.FLOAT)
    tensor.external_data.add(key="location", value="/etc/hostname")
    resigned(encoder, name, model.SerializeToString(), "encoder.json")
    assert f"{name}: a tensor is in another file (external data)" in encoder_refusal(encoder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shape": 3}, "shape: expected a list, got 3"),
        ({"shape": [16, 16]}, "shape: expected a list of 3"),
        ({"shape": [8, 16, 3]}, "its input image [16, 16, 3] is none of those expected"),
        ({"latent": 3}, "its output is not one of shape [3]"),
        ({"latent": "2"}, "latent: expected a whole number, got '2'"),
        ({"calibration": {"mean_error": 1.0}}, "the key 'block_error' is missing"),
        ({"sha256": []}, "damaged (sha256 is no dict)"),
        ({"sha256": {}}, "damaged (its SHA-256 is not the one saved)"),
        ({"configuration": {"view": [0, 0, 17, 16]}}, "is no part of an image of 16x16 pixels"),
        ({"configuration": {"view": [0, 0, 8]}}, "view: expected a list of 4"),
        ({"configuration": {"features": "8"}}, "configuration: features: expected a whole number"),
        ({"configuration": {"features": 16}}, "its weights do not fit its configuration"),
        ({"other": 1}, "unknown key 'other'"),
    ],
)
def test_a_wrong_description_of_an_encoder_is_a_sentence(changes: dict[str, Any], sentence: str, encoder: Path) -> None:
    described(encoder, **changes)
    assert sentence in encoder_refusal(encoder)


def test_mutated_encoders_load_or_are_a_sentence(encoder: Path) -> None:
    names = ("encoder.onnx", "decoder.onnx", "weights.safetensors", "encoder.json")
    wholes = {name: (encoder / name).read_bytes() for name in names}
    outcomes = {"read": 0, "refused": 0}
    image = np.zeros((16, 16, 3), np.uint8)
    with bounded(60.0):
        for name, content in mutations(wholes, 120):
            for other, whole in wholes.items():
                (encoder / other).write_bytes(whole)
            if name == "encoder.json":
                (encoder / name).write_bytes(content)
            else:
                resigned(encoder, name, content, "encoder.json")
            try:
                restored(load_encoder(encoder)).model.encode(torch.from_numpy(image[None]))
                outcomes["read"] += 1
            except UserError as error:
                assert "\n" not in str(error)
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 0, outcomes


def test_find_bags_is_not_led_out_of_the_directory(tmp_path: Path) -> None:
    small_bag(tmp_path / "bags")
    outside = tmp_path / "outside"
    small_bag(outside)
    os.symlink(outside, tmp_path / "bags" / "linked")
    assert [path.name for path in find_bags(tmp_path / "bags")] == ["bag"]
