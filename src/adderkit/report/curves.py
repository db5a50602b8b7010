"""The curves of a run as a picture."""

from __future__ import annotations

import csv
from pathlib import Path

from adderkit.train.files import write_atomically

_STYLES = {"student": ("tab:blue", "-"), "teacher": ("tab:orange", "--")}


def draw_curves(folder: Path) -> Path:
    """Draws test accuracy and training loss terms of a run by epoch into `curves.png`, from its `metrics.csv`.

    Returns:
        The picture's path.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    accuracy, loss = figure.subplots(1, 2)
    for net in dict.fromkeys(row["net"] for row in rows):
        own = [row for row in rows if row["net"] == net]
        colour, style = _STYLES[net]
        epochs, top1 = _series(own, "test_top1")
        last = f"{net} (last {100 * top1[-1]:.2f} %, best {100 * max(top1):.2f} %)"
        accuracy.plot(epochs, [100 * value for value in top1], color=colour, linestyle=style, label=last)
        for term in (key for key in own[0] if key.startswith("loss.")):
            epochs, values = _series(own, term)
            if values:
                loss.plot(epochs, values, linestyle=style, label=f"{net} {term[5:]}")
    accuracy.set(xlabel="epoch", ylabel="test top-1 (%)")
    loss.set(xlabel="epoch", ylabel="training loss, weighted terms", yscale="log")
    for axes in (accuracy, loss):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axes.lines:
            axes.legend(fontsize="small")
    path = folder / "curves.png"
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
    return path


def _series(rows: list[dict[str, str]], key: str) -> tuple[list[int], list[float]]:
    points = [(int(row["epoch"]), float(row[key])) for row in rows if row.get(key)]
    return [epoch for epoch, _ in points], [value for _, value in points]
