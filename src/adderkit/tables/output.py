"""A table as Markdown, CSV and PNG."""

from __future__ import annotations

import csv
import textwrap
from itertools import compress
from pathlib import Path
from typing import Any

from adderkit.tables.definition import Table
from adderkit.tables.results import Estimate, Images, Result
from adderkit.train.files import remove, write_atomically, write_text


def write_table(out: Path, table: Table, results: list[Result], notes: list[str]) -> None:
    """Writes `table.md`, `table.csv` (a line per row), `trainings.csv` (a line per training) and `table.png`.

    Args:
        out: the folder.
        notes: what differs from the source, and what failed: sentences below the table.
    """
    write_text(out / "table.md", markdown(table, results, notes))
    _write_csv(out / "table.csv", [_row_values(result) for result in results])
    _write_csv(out / "trainings.csv", [values for result in results for values in _run_values(result)])
    if any(result.last for result in results):
        _draw(out / "table.png", table, results)
    else:
        remove(out / "table.png")


def markdown(table: Table, results: list[Result], notes: list[str]) -> str:
    """The table; accuracies in per cent."""
    with_paper = any(result.paper_top1 is not None for result in results)
    with_top5 = any(result.paper_top5 is not None for result in results)
    digits = _digits(results)
    references = list(dict.fromkeys(result.reference for result in results if result.reference))
    less = f"less {_cell(references[0])}" if len(references) == 1 else "less the reference"
    rows = [["", "paper", "last epoch", "last epoch, top-5", "best epoch", less, "seeds"]]
    for result in results:
        paper = _number(result.paper_top1, digits)
        if result.paper_top5 is not None:
            paper += f" / {_number(result.paper_top5, digits)}"
        estimates = _with_interval(result.last), _with_deviation(result.top5), _with_deviation(result.best)
        rows.append([_cell(result.name), paper, *estimates, _difference(result), str(len(result.runs))])
    wanted = [True, with_paper, True, with_top5, True, bool(references), True]
    lines = ["| " + " | ".join(compress(row, wanted)) + " |" for row in rows]
    lines = [f"# {table.title}", "", lines[0], "|---" * sum(wanted) + "|", *lines[1:]]
    lines += [
        "",
        "Top-1 on the test images in per cent: mean ± deviation of a seed, in brackets the mean's 95 % interval "
        "(Student's t over seeds; of the differences in the last epoch, over pairs of one seed, as many as seeds "
        "unless said). The best epoch is chosen on the test images, so it flatters every row.",
        "",
        *([f"- {table.note}"] if table.note else []),
        *(f"- {line}" for line in _references(results) if len(references) > 1),
        *(f"- {line}" for line in _trained_on(results)),
        *(f"- {note}" for note in notes),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _digits(results: list[Result]) -> int:
    """As many as the source states: YAML's 92.20 is 92.2."""
    figures = [figure for one in results for figure in (one.paper_top1, one.paper_top5) if figure is not None]
    return 1 if all(round(figure, 1) == figure for figure in figures) else 2


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


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


def _difference(result: Result) -> str:
    found = result.difference
    text = _with_interval(found, sign=True)
    if found is None or found.values == len(result.runs):
        return text
    return f"{text}, {found.values} pair{'s' if found.values > 1 else ''}"


def _references(results: list[Result]) -> list[str]:
    """A sentence for every row that others are compared with."""
    rows: dict[str, list[str]] = {}
    for result in results:
        if result.reference not in (None, result.name):
            rows.setdefault(result.reference, []).append(result.name)
    return [f"compared with {reference}: {'; '.join(members)}" for reference, members in rows.items()]


def _trained_on(results: list[Result]) -> list[str]:
    """A sentence for every data set: the rows are named where there are several."""
    rows: dict[Images, list[str]] = {}
    for result in results:
        for images in dict.fromkeys(run.images for run in result.runs):
            rows.setdefault(images, []).append(result.name)
    names = [images.dataset for images in rows]
    sentences: list[str] = []
    for images, members in rows.items():
        text = f"trained on {images.dataset}"
        if images.train is not None:
            text += f": {images.train:,} training images, {images.test:,} test images, {images.classes} classes"
        if names.count(images.dataset) > 1:
            text += f", digest {images.digest or 'not recorded'}"
        sentences.append(text if len(rows) == 1 else f"{text} ({', '.join(members)})")
    return sentences


def _row_values(result: Result) -> dict[str, Any]:
    values: dict[str, Any] = {
        "row": result.name,
        "paper_top1": result.paper_top1,
        "paper_top5": result.paper_top5,
        "seeds": len(result.runs),
    }
    for name, found in (
        ("last_top1", result.last),
        ("best_top1", result.best),
        ("last_top5", result.top5),
        ("difference", result.difference),
    ):
        mean, deviation, half, _ = found or (None, None, None, None)
        low, high = (None, None) if mean is None or half is None else (mean - half, mean + half)
        values |= {name: mean, f"{name}_deviation": deviation, f"{name}_low": low, f"{name}_high": high}
    pairs = 0 if result.difference is None else result.difference.values
    return values | {"difference_to": result.reference, "difference_pairs": pairs}


def _run_values(result: Result) -> list[dict[str, Any]]:
    values = [{"row": result.name, **run._asdict(), **run.images._asdict()} for run in result.runs]
    return [{key: value for key, value in run.items() if key != "images"} for run in values]


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
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

    figure = Figure(figsize=(8, 2 + 0.45 * len(results)), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots()
    for place, result in enumerate(results):
        if result.last is not None:
            half = result.last.half or 0.0
            label = "mean of the last epoch, 95 % interval"
            axes.errorbar(result.last.mean, place, xerr=half, fmt="o", color="tab:blue", capsize=3, label=label)
            seeds = [run.last_top1 for run in result.runs]
            axes.plot(seeds, [place] * len(seeds), "|", color="tab:blue", alpha=0.6, label="seeds")
        if result.paper_top1 is not None:
            style = {"color": "tab:orange", "markersize": 5, "fillstyle": "none"}
            axes.plot(result.paper_top1, place, "D", label="paper", **style)
    axes.set_yticks(range(len(results)), ["\n".join(textwrap.wrap(result.name, 36)) for result in results])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("test top-1 (%)")
    axes.set_title("\n".join([*textwrap.wrap(table.title, 60), *textwrap.wrap(_subtitle(results), 75)]), fontsize=10)
    by_label = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(by_label.values(), by_label.keys(), loc="outside lower center", ncols=3, fontsize="small")
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))


def _subtitle(results: list[Result]) -> str:
    """What was trained here, beside which the source's figures stand."""
    runs = [run for result in results for run in result.runs]
    students = ", ".join(dict.fromkeys(run.student for run in runs))
    datasets = ", ".join(dict.fromkeys(run.images.dataset for run in runs))
    epochs = sorted({run.epochs for run in runs})
    span = f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
    return f"trained here: {students} on {datasets}, {span} epochs"
