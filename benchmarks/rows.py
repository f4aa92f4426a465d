"""Results that are kept row by row, so that a benchmark of hours goes on where it was interrupted."""

import csv
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

Row = TypeVar("Row", bound=NamedTuple)


def read(kind: type[Row], file: Path) -> list[Row]:
    """The rows that there are; `kind` has annotations of `str`, `int` and `float`."""
    if not file.exists():
        return []
    types: list[type[Any]] = list(kind.__annotations__.values())
    with file.open(newline="") as lines:
        rows = list(csv.reader(lines))[1:]
    return [kind(*(convert(text) for convert, text in zip(types, row, strict=True))) for row in rows]


def append(file: Path, row: NamedTuple) -> None:
    """Add a row, at once and in one piece."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        file.write_text(",".join(row._fields) + "\n")
    with file.open("a") as stream:
        stream.write(",".join(map(str, row)) + "\n")
