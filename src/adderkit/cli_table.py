"""`adderkit table`: parses, runs the trainings, writes the table."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from pydantic import Field, NonNegativeInt
from rich.console import Console
from rich.markdown import Markdown

from adderkit import tables
from adderkit.cli_options import parse, values
from adderkit.options import Options
from adderkit.tables.definition import row_config
from adderkit.train import BaseConfig, config_type
from adderkit.train.folder import decisive

_OWN_DIFFERENCES = {"seed", "device", "data.root", "data.workers"}  # which change no figure that a paper states


class TableOptions(Options):
    """Runs a table of the paper: every row's training for every seed."""

    seeds: tuple[NonNegativeInt, ...] = Field(default=(0,), min_length=1)
    """of the trainings; a row's mean and deviation are over them"""
    rows: tuple[str, ...] = ()
    """only these rows, by name; default: all"""
    jobs: int | None = Field(default=None, ge=1, le=4096)
    """trainings at a time; default: one for each core, a single one on a GPU"""


def run(arguments: list[str], description: str) -> int:
    """Runs `adderkit table ...`; 1 where a training failed, 75 or 130 where a signal stopped them.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    name: Any = Annotated[
        tyro.conf.Positional[str], tyro.conf.arg(help=f"one of {', '.join(tables.table_names())}, or a YAML file")
    ]
    out: Any = Annotated[Path, tyro.conf.arg(help="the table's folder: a folder per row, a run per seed")]
    own, others = _split(arguments)
    given = parse(
        "adderkit table", description, TableOptions(), [("table", name, tyro.MISSING), ("out", out, tyro.MISSING)], own
    )
    options = TableOptions(**values(given, TableOptions))
    if len(set(options.seeds)) < len(options.seeds):
        raise ValueError(f"`seeds` (={options.seeds}) must differ")
    table = tables.load_table(given.table).chosen(options.rows)
    stated = {row.name: row_config(row) for row in table.rows}
    configs = {row: _overridden(config, others) for row, config in stated.items()}
    wanted = tables.cells(table, options.seeds, configs, given.out)
    jobs, threads = _shared_cores(options.jobs, len(wanted), next(iter(configs.values())))
    differences = _differences(stated, configs)

    def write(failed: list[tables.Failed]) -> None:
        given.out.mkdir(parents=True, exist_ok=True)
        notes = [
            *differences,
            *(
                f"{f.cell.row.name}, seed {f.cell.seed}: failed with exit code {f.code}: "
                f"{f.reason.splitlines()[-1] if f.reason else 'it says nothing'}"
                for f in failed
            ),
        ]
        tables.write_table(given.out, table, tables.read_results(table, wanted), notes)

    try:
        failed = tables.run_cells(wanted, jobs, threads, _note, lambda: write([]))
    except tables.Stopped as stop:
        write([])
        print(f"stopped; every training has saved its state. The same command goes on: {given.out}", file=sys.stderr)
        return 130 if stop.number == 2 else 75
    write(failed)
    Console().print(Markdown((given.out / "table.md").read_text(encoding="utf-8")))
    print(f"table: {given.out / 'table.md'}")
    for failure in failed:
        print(f"{failure.cell.log}:\n{failure.reason}", file=sys.stderr)
    return 1 if failed else 0


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The table's own words, and those of the trainings: options of a recipe, with their values."""
    own_names = {"--out", *(f"--{name}" for name in TableOptions.model_fields), "-h", "--help"}
    own: list[str] = []
    others: list[str] = []
    target = own
    for word in arguments:
        if word.startswith("--"):
            target = own if word.split("=")[0].replace("-", "_").replace("__", "--", 1) in own_names else others
        target.append(word)
    return own, others


def _overridden(config: BaseConfig, words: list[str]) -> BaseConfig:
    kind = type(config)
    given = parse("adderkit table", "Options of every training, as `adderkit train` takes them.", config, [], words)
    return config_type()(**values(given, kind))


def _shared_cores(jobs: int | None, trainings: int, config: BaseConfig) -> tuple[int, int]:
    """Trainings at a time, threads of each. One thread each does most: threads of a small net wait for each other."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    jobs = min(jobs or (1 if on_gpu else cores), trainings)
    return jobs, max(1, cores // jobs)


def _differences(stated: dict[str, BaseConfig], configs: dict[str, BaseConfig]) -> list[str]:
    """Sentences on what the command line changed, alike for all rows or row by row."""
    changes: dict[str, list[str]] = {}
    for row, config in configs.items():
        before, after = decisive(stated[row]), decisive(config)
        for key in dict.fromkeys([*before, *after]):
            if before.get(key) != after.get(key) and key not in _OWN_DIFFERENCES:
                changes.setdefault(f"`{key}` is {after.get(key)}, in the recipe {before.get(key)}", []).append(row)
    everywhere = [change for change, rows in changes.items() if len(rows) == len(configs)]
    return [f"differs from the recipe: {c}" for c in everywhere] + [
        f"differs from the recipe ({', '.join(rows)}): {change}"
        for change, rows in changes.items()
        if change not in everywhere
    ]


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
