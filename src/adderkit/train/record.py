"""The record of a run: `metrics.csv`, `summary.json`, TensorBoard events."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from adderkit.train.checkpoint import write_atomically, write_text

Row = dict[str, Any]


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
        """Writes `metrics.csv`, atomically."""
        columns = list(dict.fromkeys(key for row in self.rows for key in row))

        def write(path: Path) -> None:
            with open(path, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns, restval="")
                writer.writeheader()
                writer.writerows(
                    {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
                    for row in self.rows
                )

        write_atomically(self.folder / "metrics.csv", write)

    def of(self, net: str) -> list[Row]:
        """The rows of one net, in the order of epochs."""
        return [row for row in self.rows if row["net"] == net]


class Events:
    """TensorBoard events of a run: one tag per figure and net, the step is the epoch."""

    def __init__(self, folder: Path, first_epoch: int) -> None:
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_epoch)

    def add(self, row: Row) -> None:
        for key, value in row.items():
            if isinstance(value, float):
                self._writer.add_scalar(f"{row['net']}/{key}", value, row["epoch"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


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
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"`{path}` can't be read: {error}") from None
