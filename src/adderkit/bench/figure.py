"""The roofline: each layer's speed against what the machine's pipes and its memory allow."""

from __future__ import annotations

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
    """Draws the layers of a report of `measure_ops` into a PNG file.

    Across: operations for each byte that must move (input, filters and output read or written once; the input gradient
    reads one tensor more). Up: G operations a second. Lines: the lower of the pipes' limit and of the memory's; tensors
    that stay in a cache between calls can be above the latter.

    Raises:
        ValueError: where the report has no limits, or neither of the two passes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    limits, rows = report["limits"], report["rows"]
    panels = [panel for panel in _PANELS if any(row["pass_name"] == panel[0] for row in rows)]
    if limits is None or not panels:
        raise ValueError("a roofline needs the machine's limits, and the pass `forward` or `input_gradient`")
    figure = Figure(figsize=(6.4 * len(panels), 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (name, adder_limit) in zip(all_axes, panels, strict=True):
        found = [row for row in rows if row["pass_name"] == name and row["contestant"] in _COLOURS]
        _draw_panel(axes, name, found, limits, adder_limit)
    all_axes[0].set_ylabel("G operations a second")
    machine = report["machine"]
    figure.suptitle(
        f"{machine['processor']}, {machine['threads']} threads, {machine['kernels']}, torch {machine['torch']}, "
        f"batch {report['settings']['batch']}",
        fontsize="medium",
    )
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))


def _draw_panel(
    axes: Any, name: str, rows: list[dict[str, Any]], limits: Mapping[str, float], adder_limit: str
) -> None:
    across = [row["operations_per_byte"] for row in rows]
    low, high = min(across) / 1.6, max(across) * 1.6
    memory = limits["bytes_per_s"] * 1e-9
    for contestant, kind, style in (("adder2d", adder_limit, "-"), ("conv2d", "multiply_add", "--")):
        peak = limits[kind] * 1e-9
        knee = peak / memory
        points = [low, *([knee] if low < knee < high else []), high]
        label = f"limit of {contestant}: {_LIMITS[kind]}, {peak:.0f} G/s"
        axes.plot(points, [min(peak, x * memory) for x in points], style, color=_COLOURS[contestant], label=label)
    for contestant, colour in reversed(_COLOURS.items()):
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
    axes.set(title=_TITLES[name], xlabel=f"operations per byte (memory: {memory:.0f} GB/s)", xlim=(low, high))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", loc="lower right")
