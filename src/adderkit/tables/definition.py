"""A table: its rows, each a recipe, perhaps with options of its own, and the figure that its source has for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from adderkit import strict_yaml
from adderkit.distill import method_names
from adderkit.options import Options
from adderkit.paths import recipes, shown
from adderkit.train import BaseConfig, load_recipe


class Row(Options):
    """One row of a table."""

    name: str = Field(min_length=1, pattern=r"^[^\r\n]*$")
    """as the source calls it, on one line"""
    recipe: str = Field(min_length=1)
    """path below the folder of the table's file, or below `recipes/`, or an absolute one"""
    options: dict[str, Any] = Field(default={})
    """keys of the recipe that this row sets otherwise, nested as there"""
    top1: float | None = Field(default=None, ge=0, le=100)
    """the source's top-1 accuracy in per cent"""
    top5: float | None = Field(default=None, ge=0, le=100)
    """the source's top-5 accuracy in per cent"""
    reference: str | None = None
    """the row that it is compared with, where that is not the table's: one of the same network and data set"""

    @property
    def folder(self) -> str:
        """The name as a folder's: `K + NP` becomes `k-np`."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") or "row"


class Table(Options):
    """A table of the paper."""

    title: str = Field(min_length=1)
    """what it shows, and where it stands"""
    reference: str
    """the row that the others are compared with, seed by seed"""
    note: str = ""
    """stands below the table: what a reader of the source's figures must know"""
    rows: tuple[Row, ...]
    """one at least, in the source's order"""

    @model_validator(mode="after")
    def _is_whole(self) -> Table:
        names = [row.name for row in self.rows]
        if not names:
            raise ValueError("`rows` must hold at least one row")
        folders: dict[str, str] = {}
        for row in self.rows:
            if row.folder in folders:
                raise ValueError(
                    f"the rows {folders[row.folder]!r} and {row.name!r} would share the folder `{row.folder}`:"
                    " names must differ in the letters a-z or in digits"
                )
            folders[row.folder] = row.name
        for reference in (self.reference, *(row.reference for row in self.rows)):
            if reference is not None and reference not in names:
                raise ValueError(f"`reference` (={reference}) must be one of the rows: {', '.join(names)}")
        return self

    def reference_of(self, row: Row) -> str | None:
        """The name of the row that this one is compared with, perhaps its own; None where the table lacks it."""
        name = row.reference or self.reference
        return name if any(row.name == name for row in self.rows) else None

    def chosen(self, names: tuple[str, ...]) -> Table:
        """The table with these rows alone; () means all.

        Raises:
            ValueError: a name that no row has.
        """
        known = [row.name for row in self.rows]
        for name in names:
            if name not in known:
                raise ValueError(f"`rows` (={name}) must be among: {', '.join(known)}")
        rows = tuple(row for row in self.rows if not names or row.name in names)
        reference = self.reference if any(row.name == self.reference for row in rows) else rows[0].name
        return self.model_copy(update={"reference": reference, "rows": rows})


def table_names() -> list[str]:
    """Names of the tables that are shipped."""
    return sorted(path.stem for path in (recipes() / "tables").glob("*.yaml"))


def load_table(name: str) -> Table:
    """A shipped table by its name, or any by its file.

    Raises:
        ValueError: no such table, or a file that is none.
    """
    path = recipes() / "tables" / f"{name}.yaml" if name in table_names() else Path(name)
    if not path.is_file():
        raise ValueError(f"`table` (={shown(name)}) must be a YAML file or one of: {', '.join(table_names())}")
    try:
        values = strict_yaml.load(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it must be a mapping of keys to values")
        table = Table(**values)
    except (OSError, ValueError) as error:
        raise ValueError(f"table `{shown(path)}`: {error}") from None
    rows = tuple(row.model_copy(update={"recipe": str(_recipe_path(row, path.parent))}) for row in table.rows)
    return table.model_copy(update={"rows": rows})


def _recipe_path(row: Row, folder: Path) -> Path:
    for path in (folder / row.recipe, recipes() / row.recipe):
        if path.is_file():
            return path
    raise ValueError(
        f"the row {row.name!r} names the recipe `{row.recipe}`, which is neither in {shown(folder)} nor in {recipes()}"
    )


def row_config(row: Row) -> BaseConfig:
    """What a row of a loaded table trains: its recipe with its options.

    Raises:
        ValueError: the recipe or the options can't be.
    """
    config = load_recipe(Path(row.recipe))
    if "seed" in row.options:
        raise ValueError(
            f"the options of the row {row.name!r}: `seed` (={row.options['seed']}) is not theirs to set: every row is"
            " trained with the same seeds, those of `--seeds`"
        )
    try:
        merged = type(config)(**_merged(config.model_dump(exclude_unset=True), row.options))
    except ValueError as error:
        raise ValueError(f"the options of the row {row.name!r}: {error}") from None
    unused = [key for key in row.options if key in method_names() and key != merged.method]
    if unused:
        raise ValueError(
            f"the options of the row {row.name!r}: `{unused[0]}` are options of another method than the row's"
            f" (`method` is {merged.method})"
        )
    return merged


def _merged(values: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """`values` with what `others` sets, group by group."""
    groups = {
        key: _merged(values[key], other)
        for key, other in others.items()
        if isinstance(other, dict) and isinstance(values.get(key), dict)
    }
    return values | others | groups
