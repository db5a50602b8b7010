"""`adderkit theorem1`: parses, computes, prints, draws."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import Field, PositiveFloat
from rich.console import Console

from adderkit import report
from adderkit.cli_options import parse, values
from adderkit.options import Options


class Theorem1Options(Options):
    """Shows how Theorem 1's truncated series comes to the kernel."""

    sigmas: tuple[PositiveFloat, ...] = Field(default=(1.0, 2.0, 4.0), min_length=1)
    """widths of the kernel, for vectors of deviation 1"""
    dimensions: int = Field(default=9, ge=1, le=100_000)
    """of the vectors: C_in K^2 of a layer"""
    degrees: int = Field(default=24, ge=0, le=1000)
    """the last degree of the series"""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """of the vectors"""


def run(arguments: list[str], description: str) -> int:
    """Runs `adderkit theorem1 ...` and returns its exit code.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    figure: Any = Annotated[Path | None, tyro.conf.arg(help="draw the errors, as PNG", metavar="FILE")]
    given = parse("adderkit theorem1", description, Theorem1Options(), [("figure", figure, None)], arguments)
    options = Theorem1Options(**values(given, Theorem1Options))
    if given.figure is not None and not given.figure.absolute().parent.is_dir():
        raise ValueError(f"`figure` (={given.figure}) must be a file in a folder that exists")
    curves = {s: report.truncation(s, options.dimensions, options.degrees, options.seed) for s in options.sigmas}
    console = Console()
    for sigma, rows in curves.items():
        console.print(report.truncation_table(rows, sigma, options.dimensions))
    if given.figure is not None:
        report.draw_truncation(curves, given.figure)
        print(f"figure: {given.figure}")
    return 0
