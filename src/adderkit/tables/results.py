"""What the finished trainings of a table gave, and statistics over seeds."""

from __future__ import annotations

import math
import statistics
from typing import NamedTuple

from scipy import stats

from adderkit.tables.cells import Cell
from adderkit.tables.definition import Table


class Images(NamedTuple):
    """What a training was trained and tested on; all but the name None for trainings of versions that did not say."""

    dataset: str
    train: int | None
    test: int | None
    classes: int | None
    digest: str | None


class Run(NamedTuple):
    """A finished training; accuracies in per cent, of the test images; top-5 is 100 where there are up to 5 classes."""

    seed: int
    student: str
    last_top1: float
    last_top5: float
    best_top1: float
    best_epoch: int
    teacher_top1: float | None
    seconds: float
    epochs: int
    images: Images


class Estimate(NamedTuple):
    """A mean, the deviation of one value, and half the width of the mean's 95 % interval (Student's t).

    `deviation` and `half` are None for a single value.
    """

    mean: float
    deviation: float | None
    half: float | None
    values: int


class Result(NamedTuple):
    """A row of a table: its runs by seed, and what they say together.

    Attributes:
        reference: the row that it is compared with; None where that is not shown.
        difference: to that row, over the seeds that both have; None for that row itself, or without a common seed.
    """

    name: str
    paper_top1: float | None
    paper_top5: float | None
    runs: tuple[Run, ...]
    last: Estimate | None
    best: Estimate | None
    top5: Estimate | None
    reference: str | None
    difference: Estimate | None


def estimate(values: list[float]) -> Estimate | None:
    """Mean, deviation (n - 1) and interval; None without values."""
    if not values:
        return None
    mean, count = statistics.fmean(values), len(values)
    if count == 1:
        return Estimate(mean, None, None, 1)
    deviation = statistics.stdev(values)
    return Estimate(mean, deviation, float(stats.t.ppf(0.975, count - 1)) * deviation / math.sqrt(count), count)


def read_results(table: Table, cells: list[Cell]) -> list[Result]:
    """The rows of a table from the folders of its trainings; those that are not finished are missing.

    Raises:
        ValueError: a damaged summary, or one of another configuration.
    """
    runs: dict[str, dict[int, Run]] = {row.name: {} for row in table.rows}
    for cell in sorted(cells, key=lambda cell: cell.seed):
        run = _read(cell)
        if run is not None:
            runs[cell.row.name][cell.seed] = run
    results: list[Result] = []
    for row in table.rows:
        own, name = runs[row.name], table.reference_of(row)
        reference = {} if name is None else runs[name]
        common = [seed for seed in own if seed in reference]
        differences = [own[seed].last_top1 - reference[seed].last_top1 for seed in common]
        results.append(
            Result(
                name=row.name,
                paper_top1=row.top1,
                paper_top5=row.top5,
                runs=tuple(own.values()),
                last=estimate([run.last_top1 for run in own.values()]),
                best=estimate([run.best_top1 for run in own.values()]),
                top5=estimate([run.last_top5 for run in own.values()]),
                reference=name,
                difference=None if row.name == name else estimate(differences),
            )
        )
    return results


def _read(cell: Cell) -> Run | None:
    summary = cell.summary()
    if summary is None:
        return None
    teacher = summary["teacher_final_top1"]
    images = summary.get("images")
    if not isinstance(images, dict):  # of a version that did not say
        images = {}
    return Run(
        seed=cell.seed,
        student=summary["student"],
        last_top1=100 * summary["final_top1"],
        last_top5=100 * summary["final_top5"],
        best_top1=100 * summary["best_top1"],
        best_epoch=summary["best_epoch"],
        teacher_top1=None if teacher is None else 100 * teacher,
        seconds=summary["seconds"],
        epochs=summary["epochs"],
        images=Images(summary["dataset"], *(images.get(key) for key in Images._fields[1:])),
    )
