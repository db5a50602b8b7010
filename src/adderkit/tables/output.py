"""A table as Markdown, CSV and PNG."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from adderkit.tables.definition import Table
from adderkit.tables.results import Estimate, Result
from adderkit.train.files import write_atomically, write_text


def write_table(out: Path, table: Table, results: list[Result], notes: list[str]) -> None:
    """Writes `table.md`, `table.csv` (a line per training) and `table.png` into a folder.

    Args:
        notes: what differs from the source, and what failed: sentences below the table.
    """
    write_text(out / "table.md", markdown(table, results, notes))
    _write_csv(out / "table.csv", results)
    if any(result.last for result in results):
        _draw(out / "table.png", table, results)


def markdown(table: Table, results: list[Result], notes: list[str]) -> str:
    """The table; accuracies in per cent."""
    with_top5 = any(result.paper_top5 is not None for result in results)
    columns = ["", "paper", "last epoch", "best epoch", f"last epoch, less {table.reference}", "seeds"]
    if with_top5:
        columns.insert(3, "last epoch, top-5")
    lines = [f"# {table.title}", "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for result in results:
        paper = _number(result.paper_top1)
        if result.paper_top5 is not None:
            paper += f" / {_number(result.paper_top5)}"
        cells = [result.name, paper, _with_interval(result.last), _with_deviation(result.best)]
        if with_top5:
            cells.insert(3, _with_deviation(result.top5))
        cells += [_with_interval(result.difference, sign=True), str(len(result.runs))]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Top-1 on the test images in per cent: mean ± deviation of a seed, in brackets the mean's 95 % interval "
        "(Student's t over seeds; of the differences, over pairs of one seed). The best epoch is chosen on the test "
        "images, so it flatters every row.",
        "",
        *(f"- {note}" for note in notes),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _with_deviation(found: Estimate | None, sign: bool = False) -> str:
    if found is None:
        return ""
    mean = f"{found.mean:+.2f}" if sign else f"{found.mean:.2f}"
    return mean if found.deviation is None else f"{mean} ± {found.deviation:.2f}"


def _with_interval(found: Estimate | None, sign: bool = False) -> str:
    text = _with_deviation(found, sign)
    if found is None or found.half is None:
        return text
    low, high = found.mean - found.half, found.mean + found.half
    return text + (f" ({low:+.2f} to {high:+.2f})" if sign else f" ({low:.2f} to {high:.2f})")


def _write_csv(path: Path, results: list[Result]) -> None:
    rows: list[dict[str, Any]] = [
        {"row": result.name, "paper_top1": _number(result.paper_top1), **run._asdict()}
        for result in results
        for run in result.runs
    ]

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else ["row"])
            writer.writeheader()
            writer.writerows(
                {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
                for row in rows
            )

    write_atomically(path, write)


def _draw(path: Path, table: Table, results: list[Result]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2 + 0.45 * len(results)), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots()
    for place, result in enumerate(results):
        if result.last is not None:
            half = result.last.half or 0.0
            axes.errorbar(result.last.mean, place, xerr=half, fmt="o", color="tab:blue", capsize=3)
            seeds = [run.last_top1 for run in result.runs]
            axes.plot(seeds, [place] * len(seeds), "|", color="tab:blue", alpha=0.6)
        if result.paper_top1 is not None:
            axes.plot(result.paper_top1, place, "D", color="tab:orange", markersize=5, fillstyle="none")
    axes.set_yticks(range(len(results)), [result.name for result in results])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set(xlabel="test top-1 (%): ● mean of the last epoch with 95 % interval, | seeds, ◇ paper", title=table.title)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
