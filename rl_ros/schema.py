"""Typed dataclasses from YAML: one strict reader for every configuration file."""

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from rl_ros.errors import UserError

T = TypeVar("T")
LARGEST = 1 << 24
"""Characters of a YAML text."""
MOST = 1_000_000
"""Entries in it, aliases unfolded."""
DEEPEST = 40
"""Levels of nesting in it."""
SHOWN = 200
"""Characters of a wrong value that a sentence shows."""


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
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid YAML: it is no text.") from error
    return parse(cls, text, str(path))


def parse(cls: type[T], text: str, source: str) -> T:
    """Read YAML text into the dataclass `cls`; `source` names it in errors.

    Raises:
        UserError: as for `load`.
    """
    try:
        data = plain_yaml(text)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{source}: not valid YAML: {' '.join(str(error).split())[:300]}.") from error
    return typing.cast(T, convert(cls, data, source))


class _PlainLoader(yaml.SafeLoader):
    """Counts aliases as what they stand for: a few lines of them can unfold to billions of entries."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0
        self._sizes: dict[str, int] = {}
        """Of what each anchor names, in nodes; 0 while it is being read."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        anchor, before = getattr(event, "anchor", None), self._nodes
        if isinstance(event, yaml.AliasEvent):
            if self._sizes.get(event.anchor) == 0:
                raise yaml.YAMLError(f"'{event.anchor}' holds itself")
            self._nodes += self._sizes.get(event.anchor, 0)
        elif anchor is not None:
            self._sizes[anchor] = 0
        self._nodes += 1
        self._depth += 1
        if self._nodes > MOST or self._depth > DEEPEST:
            raise yaml.YAMLError(f"more than {MOST} entries, or nested more than {DEEPEST} deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if anchor is not None and not isinstance(event, yaml.AliasEvent):
            self._sizes[anchor] = self._nodes - before
        return node


def plain_yaml(text: str) -> Any:
    """YAML as plain data. Text of strangers is safe to give to it.

    Raises:
        yaml.YAMLError: it is no YAML, or larger than the limits above.
        ValueError: it holds a number or a date that is none.
    """
    if len(text) > LARGEST:
        raise yaml.YAMLError(f"{len(text)} characters, more than the {LARGEST} that are read")
    loader = _PlainLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


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


def meanings(cls: type) -> dict[str, str]:
    """What each field of a dataclass means, by its name: the text below it in the source, there or in a base class."""
    found: dict[str, str] = {}
    for each in filter(dataclasses.is_dataclass, reversed(cls.__mro__)):
        definition = ast.parse(textwrap.dedent(inspect.getsource(typing.cast(type, each)))).body[0]
        assert isinstance(definition, ast.ClassDef)
        for field, below in itertools.pairwise(definition.body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(text.split())
    return found


def _refuse(where: str, expected: str, value: Any) -> typing.NoReturn:
    shown = repr(value)
    raise UserError(f"{where}: expected {expected}, got {shown if len(shown) <= SHOWN else shown[:SHOWN] + '…'}.")
