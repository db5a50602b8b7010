"""Sentences below a table: in what its trainings differ from the recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adderkit.tables.cells import Cell
from adderkit.tables.definition import Table, row_config
from adderkit.train.folder import decisive


def of_rows(table: Table) -> list[str]:
    """Sentences on the rows that are not a recipe as it stands: which, and what they set otherwise."""
    return [
        f"{row.name}: {Path(row.recipe).name} with {', '.join(f'`{key}` {value}' for key, value in _flat(row.options))}"
        for row in table.rows
        if row.options
    ]


def _flat(options: dict[str, Any], group: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in options.items():
        found += _flat(value, f"{group}{key}.") if isinstance(value, dict) else [(f"{group}{key}", value)]
    return found


def of_command_line(cells: list[Cell]) -> list[str]:
    """Sentences on what the command line changed in the trainings, alike for all rows or row by row."""
    changes: dict[str, list[str]] = {}
    configs = {cell.row.name: cell for cell in cells}
    for row, cell in configs.items():
        before, after = decisive(row_config(cell.row)), decisive(cell.config)
        for key in dict.fromkeys([*before, *after]):
            if before.get(key) != after.get(key) and key != "seed":
                changes.setdefault(f"`{key}` is {after.get(key)}, in the recipe {before.get(key)}", []).append(row)
    everywhere = [change for change, rows in changes.items() if len(rows) == len(configs)]
    return [f"differs from the recipe: {c}" for c in everywhere] + [
        f"differs from the recipe ({', '.join(rows)}): {change}"
        for change, rows in changes.items()
        if change not in everywhere
    ]
