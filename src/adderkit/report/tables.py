"""Tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def run_table(summary: dict[str, Any]) -> Table:
    """A finished run's nets and their accuracies, from its summary."""
    table = Table(title=f"{summary['method']} on {summary['dataset']}, {summary['epochs']} epochs")
    for column in ("net", "network", "layer", "final top-1", "best top-1"):
        table.add_column(column, justify="right" if "top-1" in column else "left")
    best = f"{_percent(summary['best_top1'])} (epoch {summary['best_epoch']})"
    table.add_row("student", summary["student"], summary["layer"], _percent(summary["final_top1"]), best)
    if summary["teacher"] is not None:
        teacher_best = _percent(summary["teacher_best_top1"])
        table.add_row("teacher", summary["teacher"], "conv", _percent(summary["teacher_final_top1"]), teacher_best)
    return table
