"""`adderkit bench`: parses, measures, prints, writes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from adderkit import native
from adderkit.bench import record, tables
from adderkit.bench.config import InferOptions, OpsOptions, TrainOptions
from adderkit.bench.figure import draw_roofline
from adderkit.bench.inference import measure_infer
from adderkit.bench.inference_tables import draw_times, infer_tables
from adderkit.bench.ops import measure_ops
from adderkit.bench.training import measure_train
from adderkit.bench.verify import WrongResult
from adderkit.cli_options import parse, values


def run(arguments: list[str]) -> int:
    """Runs `adderkit bench ...` and returns its exit code: 1 where a result is wrong, which is not timed.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = [f"  {name:8}{command.__doc__}" for name, command in _COMMANDS.items()]
        print("\n".join(["usage: adderkit bench COMMAND [options]", "", "commands:", *lines]))
        return 0 if arguments else 2
    if arguments[0] not in _COMMANDS:
        raise ValueError(f"there is no command `{arguments[0]}`; allowed: {', '.join(_COMMANDS)}")
    try:
        return _COMMANDS[arguments[0]](arguments[1:])
    except WrongResult as error:
        print(f"adderkit bench {arguments[0]}: {error}", file=sys.stderr)
        return 1


def _ops(arguments: list[str]) -> int:
    """Verify adder layers against float64, then time them against convolutions and older formulations."""
    given = parse("adderkit bench ops", _ops.__doc__ or "", OpsOptions(), [*_FILES, _FIGURE], arguments)
    options = OpsOptions(**values(given, OpsOptions))
    record.check_writable(json=given.json, csv=given.csv, figure=given.figure)
    if given.figure is not None:
        _check_figure(given.figure, options)
    report: dict[str, Any] = {}

    def keep(so_far: dict[str, Any]) -> None:
        nonlocal report
        report = so_far
        _write(report, given.json, given.csv)

    try:
        measure_ops(options, _note, keep)
    except KeyboardInterrupt:
        if not report:
            raise
        _write(report, given.json, given.csv)  # the interrupt may have met the last time
    _print(report, tables.ops_tables(report))
    if given.figure is not None:
        draw_roofline(report, given.figure)
    if not report["complete"]:
        raise KeyboardInterrupt
    return 0


def _train(arguments: list[str]) -> int:
    """Time a training step of an adder network against its CNN twin's, and compare their peak memory."""
    given = parse("adderkit bench train", _train.__doc__ or "", TrainOptions(), _FILES, arguments)
    options = TrainOptions(**values(given, TrainOptions))
    record.check_writable(json=given.json, csv=given.csv)
    report = measure_train(options, _note)
    _print(report, tables.train_tables(report))
    _write(report, given.json, given.csv)
    return 0


def _infer(arguments: list[str]) -> int:
    """Time an integer adder network against its CNN twin in torch and ONNX Runtime, float32 and int8."""
    figure = ("figure", _file("draw the times of an image, as PNG"), None)
    given = parse("adderkit bench infer", _infer.__doc__ or "", InferOptions(), [*_FILES, figure], arguments)
    record.check_writable(json=given.json, csv=given.csv, figure=given.figure)
    report = measure_infer(InferOptions(**values(given, InferOptions)), _note)
    _print(report, infer_tables(report))
    _write(report, given.json, given.csv)
    if given.figure is not None:
        draw_times(report, given.figure)
    return 0


def _check_figure(path: Path, options: OpsOptions) -> None:
    if not {"forward", "input_gradient"} & set(options.passes):
        raise ValueError(f"`figure` (={path}) needs `forward` or `input_gradient` among `passes`")
    if native.library() is None:
        raise ValueError(f"`figure` (={path}) needs the native library's peak test: {native.reason()}")


def _file(what: str) -> Any:
    return Annotated[Path | None, tyro.conf.arg(help=what, metavar="FILE", help_behavior_hint="")]


_FILES = [
    ("json", _file("write the whole report"), None),
    ("csv", _file("write a line per figure"), None),
]
_FIGURE = ("figure", _file("draw the layers against the machine's limits, as PNG"), None)


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print(report: dict[str, Any], found: Sequence[Table]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 170  # the widest table, for files and pipes
    console.print(record.describe(report["machine"]), highlight=False, soft_wrap=True)
    for table in found:
        console.print(table)


def _write(report: dict[str, Any], json: Path | None, csv: Path | None) -> None:
    if json is not None:
        record.write_json(json, report)
    if csv is not None:
        state = {key: report[key] for key in ("complete",) if key in report}
        record.write_csv(csv, report["rows"], {**state, **report["machine"]})


_COMMANDS: dict[str, Callable[[list[str]], int]] = {"ops": _ops, "train": _train, "infer": _infer}
