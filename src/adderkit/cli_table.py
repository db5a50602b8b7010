"""`adderkit table`: parses, runs the trainings, writes the table."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from pydantic import Field, NonNegativeInt
from rich.console import Console
from rich.markdown import Markdown

from adderkit import tables
from adderkit.cli_options import parse, values
from adderkit.distill import TeacherNeed, method_type
from adderkit.options import Options
from adderkit.tables import notes
from adderkit.train import BaseConfig, config_type
from adderkit.train.folder import locked


class TableOptions(Options):
    """Runs a table of the paper: every row's training for every seed."""

    seeds: tuple[NonNegativeInt, ...] = Field(default=(0,), min_length=1)
    """of the trainings, instead of the recipes' own; a row's mean and deviation are over them"""
    rows: tuple[str, ...] = ()
    """train only these rows, by name; default: all. The table shows what else is finished in its folder"""
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
    table = tables.load_table(given.table)
    asked = table.chosen(options.rows).rows
    stated = {row.name: tables.row_config(row) for row in asked}
    configs, unused = _overridden(stated, others)
    for key, value in unused.items():
        which = "a fixed teacher" if key == "teacher_run" else "a teacher"
        raise ValueError(f"`{key}` (={value}): none of the rows has {which}")
    wanted = tables.cells([(row, configs[row.name]) for row in asked], options.seeds, given.out)
    jobs, threads = _shared_cores(options.jobs, len(wanted), next(iter(configs.values())))
    with locked(given.out):
        return _run(given.out, table, wanted, (jobs, threads), others)


def _run(
    out: Path,
    table: tables.Table,
    wanted: list[tables.Cell],
    shares: tuple[int, int],
    words: list[str],
) -> int:
    """Trains in a folder that is locked, and keeps the table there up to date."""
    found, left_out = _found(table, wanted, out, words)
    shown = table.chosen(tuple({cell.row.name for cell in [*wanted, *found]}))
    for line in left_out:
        _note(line)
    below = [*notes.of_rows(shown), *notes.of_command_line([*found, *wanted]), *left_out]

    def write(failed: list[tables.Failed]) -> None:
        bad = {failure.cell.folder for failure in failed}
        readable = [cell for cell in [*wanted, *found] if cell.folder not in bad]
        tables.write_table(out, shown, tables.read_results(shown, readable), [*below, *map(str, failed)])

    stopped = 0
    try:
        failed = tables.run_cells(wanted, *shares, _note, write)
    except tables.Stopped as stop:
        failed, stopped = stop.failed, 130 if stop.number == signal.SIGINT else 75
    write(failed)
    if not stopped:
        Console().print(Markdown((out / "table.md").read_text(encoding="utf-8")))
    print(f"table: {out / 'table.md'}")
    for failure in failed:
        log = f", {failure.cell.log}" if failure.cell.log.exists() else ""
        print(f"{failure.cell}{log}:\n{failure.reason}", file=sys.stderr)
    if stopped:
        which = "every other training" if failed else "every training"
        print(f"stopped; {which} has saved its state. The same command goes on: {out}", file=sys.stderr)
    return stopped or int(bool(failed))


def _found(
    table: tables.Table, wanted: list[tables.Cell], out: Path, words: list[str]
) -> tuple[list[tables.Cell], list[str]]:
    """Other finished trainings in the folder, asked for before, with other `--rows` or `--seeds`: the table shows them.

    Returns:
        Them, and sentences on what is left out: damaged, or of another configuration.
    """
    asked = {cell.folder for cell in wanted}
    cells: list[tables.Cell] = []
    left_out: list[str] = []
    for row in table.rows:
        seeds = tables.finished_seeds(row, out)
        if not seeds:
            continue
        try:
            config = _overridden({row.name: tables.row_config(row)}, words)[0][row.name]
        except ValueError as error:
            left_out.append(f"{row.name}: left out: {'; '.join(str(error).splitlines())}")
            continue
        for cell in tables.cells([(row, config)], seeds, out):
            if cell.folder in asked:
                continue
            try:
                cell.summary()
            except ValueError as error:
                left_out.append(f"{cell}: left out: {'; '.join(str(error).splitlines())}")
            else:
                cells.append(cell)
    return cells, left_out


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The table's own words, and those of the trainings: options of a recipe, with their values.

    Raises:
        ValueError: the table's name does not come first; behind an option of the trainings it would be its value.
    """
    if not {"-h", "--help"} & set(arguments) and (not arguments or arguments[0].startswith("-")):
        raise ValueError("the table comes first: adderkit table TABLE --out DIR ...")
    own_names = {"--out", *(f"--{name}" for name in TableOptions.model_fields), "-h", "--help"}
    own: list[str] = []
    others: list[str] = []
    target = own
    for word in arguments:
        if word.startswith("--"):
            target = own if word.split("=")[0].replace("-", "_").replace("__", "--", 1) in own_names else others
        target.append(word)
    return own, others


def _overridden(stated: dict[str, BaseConfig], words: list[str]) -> tuple[dict[str, BaseConfig], dict[str, Any]]:
    """What the rows train, with what the command line overrides, and what of that is for none of them.

    What the command line says of teachers is for the rows that can have it.

    Raises:
        ValueError: an option that can't be, or a `teacher_run` for rows whose teachers are different networks.
    """
    configs: dict[str, BaseConfig] = {}
    given: dict[str, Any] = {}
    taken: set[str] = set()
    taught_by: set[str] = set()
    for name, before in stated.items():
        kind = type(before)
        parsed = parse(
            "adderkit table", "Options of every training, as `adderkit train` takes them.", before, [], words
        )
        config = config_type()(**values(parsed, kind))
        if config.seed != before.seed:
            raise ValueError(f"`seed` (={config.seed}): a table's trainings have the seeds of `--seeds`")
        need = method_type(config.method)(config.method_options()).teacher_need
        has_teacher, has_fixed = need is not TeacherNeed.NONE, need is TeacherNeed.FIXED
        can_have = {"teacher": has_teacher, "start": has_teacher, "teacher_run": has_fixed}
        for key, is_possible in can_have.items():
            own, new = getattr(before, key), getattr(config, key)
            if new == own:
                continue
            given[key] = new
            if is_possible:
                taken.add(key)
                taught_by |= {config.teacher_network} if key == "teacher_run" else set()
            else:
                config = config.model_copy(update={key: own})
        configs[name] = config
    if len(taught_by) > 1:
        raise ValueError(
            f"`teacher_run` (={given['teacher_run']}): the rows' teachers are {' and '.join(sorted(taught_by))}: choose"
            " rows with the same by `--rows`"
        )
    return configs, {key: value for key, value in given.items() if key not in taken}


def _shared_cores(jobs: int | None, trainings: int, config: BaseConfig) -> tuple[int, int]:
    """Trainings at a time, threads of each. One thread each does most: threads of a small net wait for each other."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    jobs = min(jobs or (1 if on_gpu else cores), trainings)
    return jobs, max(1, cores // jobs)


def _note(line: str) -> None:
    with suppress(OSError):  # the terminal is gone: the trainings are told to save, and nobody reads this
        print(line, file=sys.stderr, flush=True)
