"""The reports of `adderkit bench` as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from adderkit.bench.verify import TOLERANCE

Report = Mapping[str, Any]


def ops_tables(report: Report) -> list[Table]:
    """Speeds and errors by layer, the means, the rivals where they took part, errors of the longest sums."""
    tables = [_layers(report), _summary(report)]
    if report["settings"]["rivals"]:
        tables.append(_rivals(report))
    tables.append(_forward_errors(report))
    return [*tables, _limits(report)] if report["limits"] is not None else tables


def train_tables(report: Report) -> list[Table]:
    """Both networks, quiet and busy, and the ratios."""
    settings = report["settings"]
    title = f"a training step of {settings['network']}, batch {settings['batch']}, medians of {settings['steps']} steps"
    columns = ["milliseconds (10-90 %)", "time / conv's (10-90 %)", "peak MiB"]
    table = new_table(title, "network", columns)
    for row in report["rows"]:
        times = f"{1e3 * row['median_s']:.1f} ({1e3 * row['p10_s']:.1f}-{1e3 * row['p90_s']:.1f})"
        ratios = f"{row['ratio']:.2f} ({row['ratio_p10']:.2f}-{row['ratio_p90']:.2f})"
        peak = "not measured" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
        name = row["layer"] + (", one core busy" if row["condition"] == "busy" else "")
        table.add_row(name, times, ratios, peak)
    summary = new_table("adder / conv", "what", ["ratio"])
    for key, what in _TRAIN_SUMMARY.items():
        if report["summary"][key] is not None:
            summary.add_row(what, f"{report['summary'][key]:.3f}")
    return [table, summary]


_TRAIN_SUMMARY = {
    "time_ratio": "time of a step",
    "busy_time_ratio": "time of a step, one core busy",
    "memory_ratio": "peak memory",
    "adder_busy_slowdown": "adder: busy / quiet",
    "conv_busy_slowdown": "conv: busy / quiet",
}


def new_table(title: str, first: str, columns: Sequence[str]) -> Table:
    """An empty table whose first column names the rows."""
    table = Table(title=title, title_justify="left", min_width=len(title) + 2)
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _by_layer(report: Report, contestants: Sequence[str]) -> dict[tuple[str, str], dict[tuple[str, str], Any]]:
    """(network, layer) to (pass, contestant) to row."""
    found: dict[tuple[str, str], dict[tuple[str, str], Any]] = {}
    for row in report["rows"]:
        if row["contestant"] in contestants:
            layer = found.setdefault((row["network"], row["layer"]), {})
            layer[row["pass_name"], row["contestant"]] = row
    return found


def _layers(report: Report) -> Table:
    settings = report["settings"]
    passes = list(dict.fromkeys(row["pass_name"] for row in report["rows"]))
    columns = [f"{name.replace('+', ' + ')}\nG/s | conv2d's | ratio (10-90 %, n)" for name in passes]
    title = f"time of adder2d / conv2d, batch {settings['batch']}, {settings['layout']}, medians of n rounds"
    if not report["complete"]:
        title += "; interrupted: layers are missing"
    table = new_table(title, "layer", [*columns, "errors: y, dx, df"])
    errors = {
        (row["network"], row["layer"]): row for row in report["errors"] if row["contestant"] == "adder2d"
    }  # fractions of the magnitudes added up
    for layer, rows in _by_layer(report, ("adder2d", "conv2d")).items():
        cells: list[str] = []
        for name in passes:
            adder, conv = rows[name, "adder2d"], rows[name, "conv2d"]
            speeds = f"{adder['operations_per_s'] * 1e-9:.1f} | {conv['operations_per_s'] * 1e-9:.1f}"
            ends = f"{adder['ratio_p10']:.2f}-{adder['ratio_p90']:.2f}"
            cells.append(f"{speeds} | {adder['ratio']:.2f} ({ends}, {adder['rounds']})")
        kinds = ("forward", "input_gradient", "filter_gradient")
        table.add_row(" ".join(layer), *cells, ", ".join(f"{errors[layer][kind]:.0e}" for kind in kinds))
    return table


def _summary(report: Report) -> Table:
    table = new_table("over all layers", "time", ["pass", "geometric mean", "lowest", "highest"])
    for ratio, passes in report["summary"].items():
        for name, figures in passes.items():
            ends = (f"{figures[end]:.2f} ({figures[f'{end}_layer']})" for end in ("lowest", "highest"))
            table.add_row(ratio, name, f"{figures['geometric_mean']:.2f}", *ends)
    return table


def _rivals(report: Report) -> Table:
    kinds = [("forward", "cdist"), ("forward", "official"), ("forward+backward", "official")]
    kinds = [kind for kind in kinds if any((row["pass_name"], row["contestant"]) == kind for row in report["rows"])]
    columns = [f"{contestant}, {name.replace('+', ' + ')}" for name, contestant in kinds]
    table = new_table(
        "older formulations: how many times slower than adder2d, per image", "layer", ["images", *columns]
    )
    for layer, rows in _by_layer(report, ("cdist", "official")).items():
        images = str(next(iter(rows.values()))["images"])
        table.add_row(" ".join(layer), images, *(f"{rows[kind]['ratio']:.1f}" for kind in kinds))
    return table


def _forward_errors(report: Report) -> Table:
    title = f"forward error at K = 4608, as a fraction of sum(|x| + |f|); allowed {TOLERANCE:.0e}"
    table = new_table(title, "x", ["f", "error"])
    for row in report["forward_errors"]:
        table.add_row(row["x"], row["f"], f"{row['error']:.1e}")
    return table


def _limits(report: Report) -> Table:
    table = new_table("limits of this machine, measured", "what", ["a second"])
    for key, what in (
        ("multiply_add", "multiply-add: an operation of conv2d"),
        ("adder", "max and multiply-add: one of adder2d"),
        ("adder_input_gradient", "subtract, clamp, multiply-add: one of its input gradient"),
    ):
        table.add_row(what, f"{report['limits'][key] * 1e-9:.1f} G")
    table.add_row("memory, copied (read and written)", f"{report['limits']['bytes_per_s'] * 1e-9:.1f} GB")
    return table
