"""The trainings of a table, a cell for each row and seed, and what is finished of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from adderkit.tables.definition import Row
from adderkit.train import BaseConfig
from adderkit.train.folder import differences
from adderkit.train.record import read_summary
from adderkit.train.teacher import identity, is_teacher, teacher_config, trained_first


class Cell(NamedTuple):
    """One training of a table.

    Attributes:
        row: which it belongs to.
        seed: of it.
        config: what is trained.
        folder: the run's; its log lies beside it.
    """

    row: Row
    seed: int
    config: BaseConfig
    folder: Path

    def __str__(self) -> str:
        return f"{self.row.name}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """What the training prints, of all sittings."""
        return self.folder.with_suffix(".log")

    def summary(self) -> dict[str, Any] | None:
        """The summary of the finished training; None while it is not finished.

        Raises:
            ValueError: it is damaged, or that of another configuration.
        """
        try:
            summary = read_summary(self.folder)
            differing = "" if summary is None else differences(self.folder, self.config)
        except ValueError as error:
            raise ValueError(f"{error}; delete the folder `{self.folder}`, and it is trained anew") from None
        if differing:
            raise ValueError(
                f"`{self.folder}` holds a training of other options: {differing}; choose another `--out`, or delete the"
                " folder"
            )
        return summary


def cells(configs: Sequence[tuple[Row, BaseConfig]], seeds: Iterable[int], out: Path) -> list[Cell]:
    """The trainings of a table, all rows of the first seed first: the table is whole early and then gains seeds.

    Of each seed, the first row with a fixed teacher, or that is this CNN, trains it; the others with the same one come
    last: they would wait for it, and hold up what could be trained meanwhile.

    Args:
        configs: the rows, each with what it trains; the seed is set here.
        out: the table's folder.
    """
    return [
        Cell(row, seed, config, out / row.folder / f"seed-{seed}")
        for seed in seeds
        for row, config in _ordered([(row, config.model_copy(update={"seed": seed})) for row, config in configs])
    ]


def _ordered(configs: Sequence[tuple[Row, BaseConfig]]) -> list[tuple[Row, BaseConfig]]:
    first: list[tuple[Row, BaseConfig]] = []
    between: list[tuple[Row, BaseConfig]] = []
    last: list[tuple[Row, BaseConfig]] = []
    met: list[dict[str, Any]] = []
    for row, config in configs:
        teacher = teacher_config(config) if is_teacher(config) else trained_first(config)
        if teacher is None:
            between.append((row, config))
        elif identity(teacher) in met:
            last.append((row, config))
        else:
            met.append(identity(teacher))
            first.append((row, config))
    return [*first, *between, *last]


def finished_seeds(row: Row, out: Path) -> list[int]:
    """The seeds of which a row has a finished training in the table's folder."""
    names = (path.parent.name.removeprefix("seed-") for path in (out / row.folder).glob("seed-*/summary.json"))
    return sorted(int(name) for name in names if name.isascii() and name.isdigit() and str(int(name)) == name)
