"""`adderkit quantize`: parses, quantises, prints, writes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from adderkit import quant, train
from adderkit.cli_options import parse, values
from adderkit.data import load
from adderkit.data.sift import describe
from adderkit.paths import shown
from adderkit.train.folder import CONFIG_FILE, IMPORT_FILE

_WEIGHTS = "last.safetensors"
_VECTORS = "write what every layer reads and makes for one test image, for tests of hardware"


def run(arguments: list[str], description: str) -> int:
    """Runs `adderkit quantize ...` and returns its exit code.

    Raises:
        ValueError: an argument, a run or data that can't be; nothing is written then.
    """
    given = _parse(arguments, description, quant.QuantizeOptions())
    folder, out, vectors = given.run, given.out, given.vectors
    if not (folder / CONFIG_FILE).exists():
        raise ValueError(f"`run` (={shown(folder)}) holds no run: there is no {CONFIG_FILE}")
    config = train.load_recipe(folder / CONFIG_FILE)
    given = _parse(arguments, description, quant.QuantizeOptions(data=config.data))
    options = quant.QuantizeOptions(**values(given, quant.QuantizeOptions))
    _check_new(out, given.overwrite)
    if vectors is not None:
        _check_folder(vectors, out)
    if not any((folder / name).exists() for name in ("summary.json", IMPORT_FILE)):
        _note(f"note: the run {shown(folder)} is not finished; these are the weights of its last checkpoint")
    data = load(options.data, torch.device("cpu"))
    if data.skipped:
        print(describe(data.skipped), file=sys.stderr)
    result = quant.quantize(folder / _WEIGHTS, data, options, _note)
    quant.write(result.network, out)
    if vectors is not None:
        image = quant.calibration_images(data.test, 1).permute(0, 2, 3, 1).contiguous().numpy()
        quant.write_vectors(result.network, image, vectors)
    _print(result, out, data.name)
    return 0


def _parse(arguments: list[str], description: str, defaults: quant.QuantizeOptions) -> Any:
    own = [
        ("run", Annotated[tyro.conf.Positional[Path], _file("RUN", "folder of the run")], tyro.MISSING),
        ("out", Annotated[Path, _file("NET.adk", "file to write")], tyro.MISSING),
        ("overwrite", Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(help="replace `out`")], False),
        ("vectors", Annotated[Path | None, _file("DIR", _VECTORS, help_behavior_hint="")], None),
    ]
    return parse("adderkit quantize", description, defaults, own, arguments)


def _file(metavar: str, what: str, **more: Any) -> Any:
    return tyro.conf.arg(metavar=metavar, help=what, **more)


def _check_new(out: Path, overwrite: bool) -> None:
    if not out.parent.is_dir():
        raise ValueError(f"`out` (={shown(out)}): there is no folder `{shown(out.parent)}`")
    if out.is_dir() or (out.exists() and not out.is_file()):
        raise ValueError(f"`out` (={shown(out)}) must be a file")
    if out.exists() and not overwrite:
        raise ValueError(f"`out` (={shown(out)}) exists; choose another name, or --overwrite")


def _check_folder(vectors: Path, out: Path) -> None:
    if vectors.exists() and (not vectors.is_dir() or any(vectors.iterdir())):
        raise ValueError(f"`vectors` (={shown(vectors)}) must be a new or empty folder")
    if out.absolute() in (vectors.absolute(), *vectors.absolute().parents):
        raise ValueError(f"`vectors` (={shown(vectors)}) must not be `out` (={shown(out)}) or in it")
    existing = next(path for path in (vectors.absolute(), *vectors.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"`vectors` (={shown(vectors)}): no folder can be made in {shown(existing)}")


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print(result: quant.Result, out: Path, dataset: str) -> None:
    network = result.network
    table = Table(title=f"{network.name} in integers on {result.test_images} test images of {dataset}")
    for column in ("bits", "float top-1", "integer top-1", "difference", "bytes"):
        table.add_column(column)
    change = 100 * (result.integer_top1 - result.float_top1)
    table.add_row(
        f"{network.bits}{', powers of two' if network.multiplier_free else ''}",
        f"{100 * result.float_top1:.2f} %",
        f"{100 * result.integer_top1:.2f} %",
        f"{change:+.2f} points",
        f"{out.stat().st_size:,}",
    )
    Console().print(table)
    print(f"network: {out}", flush=True)
