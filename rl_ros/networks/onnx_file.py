"""Models as ONNX files: made from torch, and run on one thread, without torch.

A file of a stranger may hold a computation, and nothing that reaches beyond it. Tensors can name other files that
onnxruntime would read (external data), and operators can come from other libraries. Both are refused before onnxruntime
sees the file. The file is read here as the protocol buffer that it is, so that a robot needs no other package.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from rl_ros.errors import UserError

if TYPE_CHECKING:
    import torch

Input = tuple[str, Sequence[int]]
"""Type, as numpy names it, and shape of what goes into a model."""

ONNX_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    MemoryError,
    *(
        getattr(_state, name)
        for name in (
            "EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile",
            "NotImplemented", "RuntimeException",
        )
        if hasattr(_state, name)
    ),
)  # fmt: skip
"""What loading or running a damaged file can raise."""
LARGEST = 1 << 28
"""Numbers of one tensor."""
DEEPEST = 40
"""Levels of graphs within graphs."""
DOMAINS = ("", "ai.onnx")
"""Where operators may come from."""

# Field numbers of onnx.proto3, and what message each holds; other fields are skipped.
_HOLDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function", 20: "training"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_NODE_DOMAIN, _TENSOR_DIMS, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 7, 1, 13, 14
_TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)", "float64": "tensor(double)"}


def onnx_of(module: torch.nn.Module, inputs: Mapping[str, torch.Tensor], output: str) -> bytes:
    """A module as an ONNX file, exported with examples of its inputs, in their order."""
    import torch

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the TorchScript exporter announces its age; the new one needs onnxscript
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            file,  # type: ignore[arg-type]
            input_names=list(inputs),
            output_names=[output],
            opset_version=17,
            dynamo=False,
        )
    return file.getvalue()


def session_of(
    model: bytes, source: str, inputs: Mapping[str, Input], output: Sequence[int]
) -> onnxruntime.InferenceSession:
    """A model, ready to run on one thread.

    Args:
        model: the file.
        source: names it in sentences.
        inputs: what it may be given, by name; it need not take all.
        output: shape of what it gives, float32.

    Raises:
        UserError: it is refused by `refuse_strange_onnx`, cannot be loaded, takes something else or gives something
            else.
    """
    refuse_strange_onnx(model, source)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except ONNX_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{source}: onnxruntime cannot load it: {reason}; copy it again.") from error
    wanted = {name: (_TYPES[dtype], list(shape)) for name, (dtype, shape) in inputs.items()}
    for entry in session.get_inputs():
        if wanted.get(entry.name) != (entry.type, list(entry.shape)):
            expected = ", ".join(f"{name} {shape}" for name, (_, shape) in wanted.items())
            raise UserError(
                f"{source}: its input {entry.name} {entry.shape} is none of those expected, or of another shape or "
                f"type: {expected}."
            )
    given = [(entry.type, list(entry.shape)) for entry in session.get_outputs()]
    if given != [(_TYPES["float32"], list(output))]:
        raise UserError(f"{source}: its output is not one of shape {list(output)}.")
    return session


def refuse_strange_onnx(model: bytes, source: str) -> None:
    """Look through a model; `source` names it in sentences.

    Raises:
        UserError: it is no ONNX file, names other files, uses operators of other libraries, or holds a tensor of
            impossible size.
    """
    try:
        found = _look(memoryview(model), "model", 0)
        if not found:
            raise ValueError("no graph")
    except (ValueError, IndexError) as error:
        raise UserError(f"{source}: no ONNX model, or a damaged one: {error}; copy it again.") from error
    except _StrangeError as error:
        raise UserError(f"{source}: {error}; nothing that rl_ros makes does, so it is refused.") from error


class _StrangeError(Exception):
    pass


def _look(data: memoryview, kind: str, depth: int) -> int:
    """Look through one message; returns how many graphs are in it."""
    if depth > DEEPEST:
        raise _StrangeError(f"graphs are nested more than {DEEPEST} deep")
    graphs = int(kind == "graph")
    dims: list[int] = []
    for field, value in _fields(data):
        if kind == "tensor":
            if field == _TENSOR_EXTERNAL or (field == _TENSOR_LOCATION and value):
                raise _StrangeError("a tensor is in another file (external data)")
            if field == _TENSOR_DIMS:
                dims += list(_varints(value)) if isinstance(value, memoryview) else [value]
        elif kind == "node" and field == _NODE_DOMAIN and isinstance(value, memoryview):
            if (domain := bytes(value).decode(errors="replace")) not in DOMAINS:
                raise _StrangeError(f"an operator is of '{domain[:40]}' and not of ONNX itself")
        elif field in _HOLDS[kind] and isinstance(value, memoryview):
            graphs += _look(value, _HOLDS[kind][field], depth + 1)
    if dims and (min(dims) < 0 or max(dims) >= 1 << 63 or math.prod(dims) > LARGEST):
        raise _StrangeError(f"a tensor has the shape {dims[:8]}")
    return graphs


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and value of each field of a protocol buffer message."""
    offset = 0
    while offset < len(data):
        tag, offset = _varint(data, offset)
        wire = tag & 7
        if wire == 0:
            value, offset = _varint(data, offset)
            yield tag >> 3, value
            continue
        if wire == 2:
            length, offset = _varint(data, offset)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"a field of wire type {wire}")
        if offset + length > len(data):
            raise ValueError("cut short")
        yield tag >> 3, data[offset : offset + length]
        offset += length


def _varint(data: memoryview, offset: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, offset
    raise ValueError("a number without an end")


def _varints(data: memoryview) -> Iterator[int]:
    offset = 0
    while offset < len(data):
        value, offset = _varint(data, offset)
        yield value
