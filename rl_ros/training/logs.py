"""What a training run says as it goes, in two files at once: a CSV for programs, events for TensorBoard."""

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

DECIMALS = {"seconds": ".2f"}
"""How a column is written where it is not with six digits."""


class RunLog:
    """Rows of figures, each on disk as soon as it is written.

    The first figure of a row is its step, such as the number of updates. A figure may appear in a later row for the
    first time (a policy that learns only now and then): its column is then empty above.

    Args:
        file: the CSV; the events go beside it, so that `tensorboard --logdir` of any directory above finds them.
        append: go on below what an earlier part of the run has written, instead of in its place.
    """

    def __init__(self, file: Path, append: bool = False) -> None:
        # Here, because whoever only reads a run does not need it.
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        if not append:
            file.unlink(missing_ok=True)
        self._columns = file.read_text().partition("\n")[0].split(",") if file.exists() else []
        self._stream: BinaryIO = events_file(file).open("ab" if append else "wb")
        self._records = RecordWriter(self._stream)
        if not self._stream.tell():
            self._records.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())

    def write(self, row: Mapping[str, float]) -> None:
        """Add a row; the first entry is its step."""
        cells = {name: _text(name, value) for name, value in row.items()}
        if new := [name for name in cells if name not in self._columns]:
            self._widen(new)
        with self._file.open("a", newline="") as stream:
            csv.DictWriter(stream, self._columns).writerow(cells)
        step, *names = row
        values = [self._summary.Value(tag=tag(name), simple_value=row[name]) for name in names if name != "seconds"]
        event = self._event(wall_time=time.time(), step=int(row[step]), summary=self._summary(value=values))
        self._records.write(event.SerializeToString())
        self._stream.flush()

    def close(self) -> None:
        """Close the events; the CSV is never left open."""
        self._stream.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _widen(self, new: list[str]) -> None:
        """Write what is there again, with more columns."""
        rows = []
        if self._columns:
            with self._file.open(newline="") as stream:
                rows = list(csv.DictReader(stream))
        self._columns += new
        with self._file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, self._columns)
            writer.writeheader()
            writer.writerows(rows)


def events_file(file: Path) -> Path:
    """Where the events of a CSV are; TensorBoard goes by `tfevents` in the name."""
    return file.with_name(f"events.out.tfevents.{file.stem}")


def tag(name: str) -> str:
    """The name of a figure in TensorBoard, which groups by what is before the slash."""
    group, figure = ("validation", name.removeprefix("validation_")) if "validation_" in name else ("training", name)
    return f"{group}/{figure}"


def _text(name: str, value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:{DECIMALS.get(name, '.6g')}}"
