"""Typed dataclasses from YAML: one strict reader for every configuration file."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from rl_ros.errors import UserError

T = TypeVar("T")


def load(cls: type[T], path: Path) -> T:
    """Read a YAML file into the dataclass `cls`.

    Raises:
        UserError: the file is missing, is not YAML, or holds a wrong key, type or value; the
            sentence names the file, the key and what was expected.
    """
    try:
        text = path.read_text()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{path}: no such file; check the path.") from error
    return parse(cls, text, str(path))


def parse(cls: type[T], text: str, source: str) -> T:
    """Read YAML text into the dataclass `cls`; `source` names it in errors.

    Raises:
        UserError: as for `load`.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{source}: not valid YAML: {' '.join(str(error).split())}.") from error
    return typing.cast(T, convert(cls, data, source))


def convert(kind: Any, value: Any, where: str) -> Any:
    """Check `value` against the type `kind` and convert it (sequences to tuples, mappings to dataclasses).

    Raises:
        UserError: naming `where` and what was expected there.
    """
    origin = get_origin(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(typing.cast(type, kind), value, where)
    if origin in (Union, types.UnionType):
        alternatives = [k for k in get_args(kind) if k is not types.NoneType]
        if value is None and len(alternatives) < len(get_args(kind)):
            return None
        if len(alternatives) == 1:
            return convert(alternatives[0], value, where)
        for alternative in alternatives:
            if type(value) is alternative:
                return value
        _refuse(where, " or ".join(k.__name__ for k in alternatives), value)
    if origin is Literal:
        if value not in get_args(kind):
            _refuse(where, "one of " + ", ".join(map(str, get_args(kind))), value)
        return value
    if origin is tuple:
        return _convert_tuple(get_args(kind), value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            _refuse(where, "a mapping", value)
        return {str(k): convert(get_args(kind)[1], v, f"{where}: {k}") for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (int, float, str, bool):
        # NaN passes every bound that is checked later, so it is refused here.
        if type(value) is not kind or value != value:
            _refuse(where, {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind], value)
        return value
    raise TypeError(f"schema cannot hold {kind!r}")


def _convert_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        _refuse(where, "a list", value)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        _refuse(where, f"a list of {len(kinds)}", value)
    return tuple(
        convert(kind, item, f"{where}[{index}]") for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _convert_dataclass(cls: type, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        _refuse(where, "a mapping", value)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in value:
        if key not in fields:
            raise UserError(f"{where}: unknown key '{key}'; expected one of: {', '.join(fields)}.")
    arguments = {key: convert(hints[key], item, f"{where}: {key}") for key, item in value.items()}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in arguments:
            raise UserError(f"{where}: the key '{name}' is missing; it holds {describe(hints[name])}.")
    try:
        return cls(**arguments)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def describe(kind: Any) -> str:
    """What a value of this type is called in an error message."""
    if kind in (int, float, str, bool):
        return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind]
    if get_origin(kind) is tuple:
        return "a list"
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    return "a mapping"


def _refuse(where: str, expected: str, value: Any) -> typing.NoReturn:
    raise UserError(f"{where}: expected {expected}, got {value!r}.")
