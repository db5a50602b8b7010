"""The report of `adderkit bench infer` as tables and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from adderkit.bench.tables import new_table
from adderkit.train.files import write_atomically

Report = Mapping[str, Any]


def infer_tables(report: Report) -> list[Table]:
    """Times and ratios for each batch, sizes on disk, operations and energy."""
    settings = report["settings"]
    height, width, _ = settings["image"]
    tables: list[Table] = []
    for batch in settings["batches"]:
        title = f"{settings['network']}, {height}x{width} pixels, batch {batch}, {settings['rounds']} rounds"
        columns = ["milliseconds (10-90 %)", "images/s", "adder int8's time over it (10-90 %)"]
        table = new_table(title, "network", columns)
        for row in report["rows"]:
            if row["batch"] == batch:
                times = f"{1e3 * row['median_s']:.3f} ({1e3 * row['p10_s']:.3f}-{1e3 * row['p90_s']:.3f})"
                ratios = f"{row['ratio']:.2f} ({row['ratio_p10']:.2f}-{row['ratio_p90']:.2f})"
                table.add_row(row["contestant"], times, f"{row['images_per_s']:.0f}", ratios)
        tables.append(table)
    sizes = new_table("on disk", "network", ["KiB"])
    for name, size in report["bytes"].items():
        sizes.add_row(name, f"{size / 1024:.0f}")
    return [*tables, sizes, _energy(report)]


def _energy(report: Report) -> Table:
    title = "arithmetic of an image, 45 nm (Horowitz 2014), without memory and control"
    columns = ["|x - f|, M", "x f, M", "outputs, k", "int8, uJ (+ scaling)", "float32, uJ (+ scaling)"]
    table = new_table(title, "network", columns)
    for name, found in report["operations"].items():
        kind = name.split()[0]
        cells = [
            "{arithmetic:.2f} (+ {scaling:.2f})".format(**report["energy"][f"{kind} {what}"])
            for what in ("int8", "float32")
        ]
        counts = f"{found['adder'] * 1e-6:.2f}", f"{found['multiply'] * 1e-6:.2f}", f"{found['outputs'] * 1e-3:.0f}"
        table.add_row(kind, *counts, *cells)
    return table


def draw_times(report: Report, path: Path) -> None:
    """Draws every contestant's time per image, a panel for each batch, into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    batches = report["settings"]["batches"]
    figure = Figure(figsize=(5.2 * len(batches), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, batch in zip(figure.subplots(1, len(batches), squeeze=False)[0], batches, strict=True):
        rows = [row for row in report["rows"] if row["batch"] == batch][::-1]
        times = [1e3 * row["median_s"] / batch for row in rows]
        ends = [[1e3 * abs(row[end] - row["median_s"]) / batch for row in rows] for end in ("p10_s", "p90_s")]
        colours = ["tab:blue" if row["contestant"].startswith("adder") else "tab:orange" for row in rows]
        bars = axes.barh([row["contestant"] for row in rows], times, xerr=ends, color=colours)
        axes.bar_label(bars, [f"{time:.3g} ms" for time in times], padding=6)
        axes.margins(x=0.4)
        axes.set(title=f"batch {batch}", xlabel="milliseconds an image")
    machine, settings = report["machine"], report["settings"]
    figure.suptitle(f"{settings['network']}: {machine['processor']}, {machine['threads']} threads", fontsize="medium")
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
