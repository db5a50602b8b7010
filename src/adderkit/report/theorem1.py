"""Theorem 1 in figures: how fast the truncated series comes to the kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.table import Table

from adderkit.distill import theorem1
from adderkit.train.files import write_atomically

# Monomials up to which the feature map is compared as well: the default command peaks at 695 MiB, torch with it; with
# ten times as many it took 2.2 GB.
_FEATURES = 10_000


class Row(NamedTuple):
    """One degree: relative errors, largest and median over the vectors; the explicit kernels' deviation from it."""

    degree: int
    monomials: int
    largest: float
    median: float
    explicit: float | None


def truncation(sigma: float, dimensions: int, degrees: int, seed: int = 0, count: int = 200) -> list[Row]:
    """Errors of the series for pairs of normal vectors, in float64.

    Args:
        sigma: of the kernel, in units of the vectors' elements, which have a deviation of 1.
        dimensions: of the vectors: C_in K^2 of a layer.
        degrees: the last degree.
        count: pairs.

    Returns:
        A row for each degree from 0. `explicit` is the largest difference between the series and the sum of the
        explicit feature maps' products, relative to the largest |term|; None where these have too many entries.

    Raises:
        ValueError: a sigma at which the kernel of some pair is beyond float64.
    """
    generator = torch.Generator().manual_seed(seed)
    x, f = (torch.randn(count, dimensions, generator=generator, dtype=torch.float64) for _ in range(2))
    products = (x * f).sum(1)
    exact = theorem1.exact(products, sigma)
    if not (exact.isfinite() & (exact > 0)).all():
        raise ValueError(f"`sigma` (={sigma:g}): the kernel of some pairs is beyond float64; it must be wider")
    rows: list[Row] = []
    explicit = torch.zeros_like(products)
    scale = torch.zeros((), dtype=torch.float64)
    for degree in range(degrees + 1):
        series = theorem1.truncated(products, sigma, degree)
        errors = (series - exact).abs() / exact
        size = theorem1.monomials(dimensions, degree)
        deviation = None
        if size <= _FEATURES and (not rows or rows[-1].explicit is not None):
            term = theorem1.polynomial_kernel(x, f, sigma, degree)
            explicit = explicit + term
            scale = torch.maximum(scale, term.abs().max())
            deviation = float(((explicit - series).abs() / scale).max())
        rows.append(Row(degree, size, float(errors.max()), float(errors.median()), deviation))
    return rows


def truncation_table(rows: list[Row], sigma: float, dimensions: int) -> Table:
    """The rows, for a terminal."""
    table = Table(title=f"exp(-x.f / (2 sigma^2)) by its series: sigma {sigma:g}, {dimensions} dimensions")
    for column in ("degree", "monomials", "largest error", "median error", "explicit features - series"):
        table.add_column(column, justify="right")
    for row in rows:
        explicit = "too many" if row.explicit is None else f"{row.explicit:.1e}"
        table.add_row(str(row.degree), f"{row.monomials:,}", f"{row.largest:.1e}", f"{row.median:.1e}", explicit)
    return table


def draw_truncation(curves: dict[float, list[Row]], path: Path) -> None:
    """Draws the errors over the degree, a curve for each sigma, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots()
    for sigma, rows in curves.items():
        degrees = [row.degree for row in rows]
        (line,) = axes.plot(degrees, [row.largest for row in rows], label=f"sigma {sigma:g}: largest")
        axes.plot(degrees, [row.median for row in rows], "--", color=line.get_color(), label=f"sigma {sigma:g}: median")
    axes.set_yscale("log")
    axes.set(xlabel="last degree of the series", ylabel="relative error", title="Theorem 1: truncated series")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
