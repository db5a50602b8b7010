"""The roofline: each layer's speed against what the machine's pipes and its memory allow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adderkit.train.files import write_atomically

_PANELS = (("forward", "adder"), ("input_gradient", "adder_input_gradient"))  # pass, limit of adder2d
_TITLES = {"forward": "forward", "input_gradient": "input gradient"}
_LIMITS = {
    "multiply_add": "multiply-add",
    "adder": "max + multiply-add",
    "adder_input_gradient": "subtract, clamp, multiply-add",
}
_COLOURS = {"adder2d": "tab:blue", "conv2d": "tab:orange"}
_MARKERS = {"1x1": "o", "1x1/2": "v", "3x3": "s", "3x3/2": "D"}


def draw_roofline(report: Mapping[str, Any], path: Path) -> None:
    """Draws the layers of a report of `measure_ops` into a PNG file: `roofline`.

    Raises:
        ValueError: where the report has no limits, or neither of the two passes.
    """
    figure = roofline(report)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))


def roofline(report: Mapping[str, Any]) -> Any:
    """The layers of a report of `measure_ops` below the machine's limits, as a figure of matplotlib.

    Across: operations for each byte that must move (input, filters and output read or written once; the input gradient
    reads one tensor more). Up: G operations a second. Lines: the lower of the pipes' limit and of the memory's; tensors
    that stay in a cache between calls can be above the latter.

    Raises:
        ValueError: where the report has no limits, or neither of the two passes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator

    limits, rows = report["limits"], report["rows"]
    panels = [panel for panel in _PANELS if any(row["pass_name"] == panel[0] for row in rows)]
    if limits is None or not panels:
        raise ValueError("a roofline needs the machine's limits, and the pass `forward` or `input_gradient`")
    figure = Figure(figsize=(6.4 * len(panels), 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (name, adder_limit) in zip(all_axes, panels, strict=True):
        found = [row for row in rows if row["pass_name"] == name and row["contestant"] in _COLOURS]
        _draw_panel(axes, name, found, limits, adder_limit)
    names = [name for name, _ in panels]
    speeds = [
        row["operations_per_s"] * 1e-9 for row in rows if row["pass_name"] in names and row["contestant"] in _COLOURS
    ]
    peaks = [limits[kind] * 1e-9 for kind in ("multiply_add", *(kind for _, kind in panels))]
    # From half of the slowest point, and low enough that the slopes are seen, to a little above all.
    bottom, top = min(min(speeds) / 2, min(peaks) / 3), max(*speeds, *peaks) * 1.3
    all_axes[0].set_yscale("log", base=2)
    all_axes[0].set(ylabel="G operations a second", ylim=(bottom, top))
    all_axes[0].yaxis.set_major_locator(FixedLocator(_ticks(bottom, top)))
    all_axes[0].yaxis.set_major_formatter("{x:g}")
    machine = report["machine"]
    figure.suptitle(
        f"{machine['processor']}, {machine['threads']} threads, batch {report['settings']['batch']}\n"
        f"adder2d: {machine['kernels']}, torch {machine['torch']}",
        fontsize="medium",
    )
    return figure


def _draw_panel(
    axes: Any, name: str, rows: list[dict[str, Any]], limits: Mapping[str, float], adder_limit: str
) -> None:
    from matplotlib.ticker import FixedLocator

    across = [row["operations_per_byte"] for row in rows]
    memory = limits["bytes_per_s"] * 1e-9
    kinds = {"adder2d": (adder_limit, "-"), "conv2d": ("multiply_add", "--")}
    knees = [limits[kind] / limits["bytes_per_s"] for kind, _ in kinds.values()]
    low, high = min(min(across) / 1.6, min(knees) / 4), max(max(across), max(knees)) * 1.6
    for (contestant, (kind, style)), knee in zip(kinds.items(), knees, strict=True):
        peak = limits[kind] * 1e-9
        axes.plot(
            [low, knee, high],
            [low * memory, peak, peak],
            style,
            color=_COLOURS[contestant],
            label=f"limit of {contestant}: {_LIMITS[kind]}, {peak:.0f} G/s",
        )
    for contestant, colour in _COLOURS.items():
        for shape, marker in _MARKERS.items():
            own = [row for row in rows if row["contestant"] == contestant and row["layer"].split()[1] == shape]
            if own:
                axes.plot(
                    [row["operations_per_byte"] for row in own],
                    [row["operations_per_s"] * 1e-9 for row in own],
                    marker,
                    color=colour,
                    markersize=5,
                    alpha=0.8,
                    label=f"{contestant} {shape}",
                )
    axes.set_xscale("log", base=2)
    axes.set(title=_TITLES[name], xlabel=f"operations per byte (memory: {memory:.0f} GB/s)", xlim=(low, high))
    axes.xaxis.set_major_locator(FixedLocator(_ticks(low, high)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    # Below the axes: inside them it would hide layers.
    axes.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, borderaxespad=0)


def _ticks(low: float, high: float) -> list[float]:
    """Three at the least where `high` is 3.9 times `low` or more: powers of two, with 1.5 times these between a few."""
    powers = [2.0**power for power in range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)]
    ticks = [tick for tick in powers if low <= tick <= high]
    if len(ticks) < 4:
        ticks = [tick for power in powers for tick in (power, 1.5 * power) if low <= tick <= high]
    return ticks[:: 1 + len(ticks) // 10]
