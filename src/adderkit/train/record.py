"""The record of a run: `metrics.csv`, `summary.json`, TensorBoard events."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.record_writer import RecordWriter

from adderkit.data.sift import Skipped
from adderkit.train.files import WriteError, make_folder, remove, write_atomically, write_text

SKIPPED_FILE = "skipped.csv"
Row = dict[str, Any]

# What a summary must have to be shown.
_OF_STUDENT = ("final_top1", "best_top1", "final_top5")
_OF_TEACHER = ("teacher_final_top1", "teacher_best_top1")  # None without one, or for one that was not tested
_SHOWN = ("method", "dataset", "student", "teacher", "layer", "epochs", "best_epoch", *_OF_STUDENT, *_OF_TEACHER)


@dataclass
class Record:
    """Rows of metrics, one per epoch and net, kept in memory and rewritten whole: a reader never sees half a row.

    Args:
        folder: of the run.
        rows: of the epochs before, when a run goes on.
    """

    folder: Path
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Appends a row: `epoch` (from 1), `net` ("student" or "teacher"), then any figures."""
        self.rows.append(row)

    def write(self) -> None:
        """Writes `metrics.csv`, atomically; without rows, removes it."""
        path = self.folder / "metrics.csv"
        if not self.rows:
            remove(path)
            return
        columns = list(dict.fromkeys(key for row in self.rows for key in row))

        def write(temporary: Path) -> None:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns, restval="")
                writer.writeheader()
                writer.writerows(
                    {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
                    for row in self.rows
                )

        write_atomically(path, write)

    def of(self, net: str) -> list[Row]:
        """The rows of one net, in the order of epochs."""
        return [row for row in self.rows if row["net"] == net]

    def tested(self, net: str) -> list[Row]:
        """Those of them that hold the test's figures."""
        return [row for row in self.of(net) if "test_top1" in row]


def checked_rows(rows: Any, epochs: int) -> list[Row]:
    """The rows of a checkpoint, which may be anything.

    Raises:
        ValueError: they are not the rows of so many epochs.
    """
    plain = (int, float, str, NoneType)
    for row in rows:
        if not all(isinstance(key, str) and isinstance(value, plain) for key, value in row.items()):
            raise ValueError("its rows of metrics hold other things than figures")
        for text in (part for part in (*row, *row.values()) if isinstance(part, str)):
            text.encode()  # what UTF-8 can't write would fail later
        figures = [row[key] for key in ("test_loss", "test_top1", "test_top5") if key in row]
        if len(figures) not in (0, 3) or not all(isinstance(one, float) and math.isfinite(one) for one in figures):
            raise ValueError("its rows of metrics lack the test's figures")
        if type(row["epoch"]) is not int:
            raise ValueError(f"its rows of metrics are of an epoch {row['epoch']!r:.100}")
        if row["net"] not in ("student", "teacher") or not 1 <= row["epoch"] <= epochs:
            raise ValueError(f"its rows of metrics are of the net {row['net']!r} in epoch {row['epoch']!r}")
    if [row["epoch"] for row in rows if row["net"] == "student"] != list(range(1, epochs + 1)):
        raise ValueError(f"its rows of metrics are not those of {epochs} epochs")
    return list(rows)


class Events:
    """TensorBoard events of a run: one tag per figure and net, the step is the epoch.

    Each sitting writes a file of its own, which tells TensorBoard to forget those before and begins with all rows so
    far: whatever a crash left, the curves are those of the record. torch's SummaryWriter is not used, because a full
    disk raises in a thread of its own there.

    Args:
        folder: of the run.
        rows: of the epochs so far.
    """

    def __init__(self, folder: Path, rows: list[Row]) -> None:
        folder = folder / "tensorboard"
        # TensorBoard reads files in the order of their names.
        self._path = folder / f"events.out.tfevents.{time.time_ns():020d}"
        try:
            make_folder(folder)
            self._file = open(self._path, "xb")  # noqa: SIM115 (closed in `__exit__`)
        except OSError as error:
            raise WriteError(self._path, error) from error
        self._writer = RecordWriter(self._file)
        begin = SessionLog(status=SessionLog.START)
        self._write([Event(file_version="brain.Event:2"), Event(step=1, session_log=begin)])
        self.add(rows)

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def add(self, rows: list[Row]) -> None:
        """Appends rows."""
        self._write(
            [
                Event(step=row["epoch"], summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))
                for row in rows
                for tag, value in ((f"{row['net']}/{key}", value) for key, value in row.items())
                if isinstance(value, float)
            ]
        )

    def _write(self, events: list[Event]) -> None:
        try:
            for event in events:
                event.wall_time = time.time()
                self._writer.write(event.SerializeToString())
            self._file.flush()
        except OSError as error:
            self._close()
            raise WriteError(self._path, error) from error

    def _close(self) -> None:
        with suppress(OSError):  # all was flushed: what can fail here is what failed there
            self._file.close()


def write_skipped(folder: Path, skipped: Sequence[Skipped]) -> None:
    """Writes `skipped.csv`, atomically: a line per image that `data.on_bad_image` (=skip) left out."""

    def write(path: Path) -> None:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Skipped._fields)
            writer.writerows(skipped)

    write_atomically(folder / SKIPPED_FILE, write)


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Writes `summary.json`, atomically: its presence says that the run is finished."""
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The summary of a finished run, or None.

    Raises:
        ValueError: a damaged file.
    """
    path = folder / "summary.json"
    if not path.exists():
        return None
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"`{path}` can't be read: {error}") from None
    missing = [key for key in _SHOWN if not isinstance(summary, dict) or key not in summary]
    if missing:
        raise ValueError(f"`{path}` is no summary of a run: it lacks {', '.join(missing)}")
    for key in ("epochs", "best_epoch", "seconds", *_OF_STUDENT, *_OF_TEACHER):
        is_optional = key in _OF_TEACHER
        value = summary.get(key)
        if not (is_optional and value is None) and not _is_finite_number(value):
            raise ValueError(f"`{path}` is no summary of a run: its {key} is {value!r:.100}, no finite number")
    return summary


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
