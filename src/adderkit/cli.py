"""The command line: parses, calls, prints.

Exit codes: 0 done; 1 `doctor` found a fault; 2 an argument, a recipe, a file or a folder that can't be;
3 a training that diverged; 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro
from pydantic import Field, create_model
from rich.console import Console
from rich.table import Table

EXIT_INPUT, EXIT_DIVERGED, EXIT_INTERRUPTED = 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_usage())
        return 0 if given else EXIT_INPUT
    if given[0] == "--version":
        from adderkit import __version__

        print(f"adderkit {__version__}")
        return 0
    if given[0] not in _COMMANDS:
        print(f"adderkit: there is no command `{given[0]}`; allowed: {', '.join(_COMMANDS)}", file=sys.stderr)
        return EXIT_INPUT
    try:
        return _COMMANDS[given[0]](given[1:])
    except (ValueError, ImportError) as error:  # ImportError: an extra that is not installed, by name
        print(f"adderkit {given[0]}: {error}", file=sys.stderr)
        return EXIT_INPUT
    except KeyboardInterrupt:
        print(f"adderkit {given[0]}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _usage() -> str:
    lines = [f"  {name:10}{(command.__doc__ or '').splitlines()[0]}" for name, command in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: adderkit COMMAND [options]",
            "",
            "Adder neural networks: train, evaluate, inspect.",
            "",
            "commands:",
            *lines,
            "",
            "`adderkit COMMAND --help` lists a command's options.",
        ]
    )


def _train(arguments: list[str]) -> int:
    """Train a network, alone or from a teacher, as a recipe and options say."""
    from adderkit import report, train
    from adderkit.train.folder import CONFIG_FILE

    first = _parse_train(arguments, train.config_type()())
    recipe = first.recipe
    if recipe is None and first.resume and (first.out / CONFIG_FILE).exists():
        recipe = first.out / CONFIG_FILE  # going on needs no option said again
    options = first if recipe is None else _parse_train(arguments, train.load_recipe(recipe))
    config = train.config_type()(**{key: getattr(options, key) for key in train.config_type().model_fields})
    out: Path = options.out
    try:
        summary = train.train(config, out, options.resume)
    except train.Interrupted as error:
        again = shlex.join(["adderkit", "train", str(out / CONFIG_FILE), "--out", str(out), "--resume"])
        print(f"stopped in {error}. To go on: {again}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except train.Diverged as error:
        print(f"adderkit train: {error}. The last good checkpoint is in {out}", file=sys.stderr)
        return EXIT_DIVERGED
    console = Console()
    console.print(report.run_table(summary))
    print(f"run:    {out}\ncurves: {report.draw_curves(out)}")
    return 0


def _parse_train(arguments: list[str], defaults: Any) -> Any:
    """The options of `adderkit train` over the defaults that a recipe gives."""
    from adderkit import train

    fields: dict[str, Any] = {
        "recipe": (
            tyro.conf.Positional[Path | None],
            Field(None, description="YAML file of these options; what the command line says goes first"),
        ),
        "out": (Path, Field(description="folder of the run")),
        "resume": (
            tyro.conf.FlagCreatePairsOff[bool],
            Field(False, description="go on with the run in `out`; start it where there is none"),
        ),
    }
    config_type = train.config_type()
    options = create_model("TrainOptions", __base__=config_type, __doc__=(_train.__doc__ or ""), **fields)
    values = {key: getattr(defaults, key) for key in config_type.model_fields}
    default = options.model_construct(**values, recipe=None, out=tyro.MISSING, resume=False)
    return tyro.cli(options, args=arguments, default=default, prog="adderkit train", use_underscores=True)


def _eval(arguments: list[str]) -> int:
    """Evaluate the networks of a finished or running training on its test images."""
    from adderkit import train
    from adderkit.data import load
    from adderkit.train.environment import pick_device
    from adderkit.train.folder import CONFIG_FILE

    fields: dict[str, Any] = {
        "run": (tyro.conf.Positional[Path], Field(description="folder of the run")),
        "device": (str, Field("auto", description="auto, cpu or cuda")),
    }
    options: Any = tyro.cli(
        create_model("EvalOptions", __doc__=(_eval.__doc__ or ""), **fields),
        args=arguments,
        prog="adderkit eval",
        use_underscores=True,
    )
    if not (options.run / CONFIG_FILE).exists():
        raise ValueError(f"`run` (={options.run}) holds no run: there is no {CONFIG_FILE}")
    device = pick_device(options.device)
    data = load(train.load_recipe(options.run / CONFIG_FILE).data, device)
    table = Table(title=f"{options.run} on the {len(data.test)} test images of {data.name}")
    for column in ("net", "network", "layer", "loss", "top-1", "top-5"):
        table.add_column(column)
    for net, stem in (("student", "last"), ("teacher", "teacher")):
        path = options.run / f"{stem}.safetensors"
        if net == "teacher" and not path.exists():
            continue
        network, info = train.load_network(path)
        scores = train.evaluate(network.to(device), data.test)
        figures = (f"{scores.loss:.4f}", f"{100 * scores.top1:.2f} %", f"{100 * scores.top5:.2f} %")
        table.add_row(net, info.network, info.layer, *figures)
    Console().print(table)
    return 0


def _doctor(arguments: list[str]) -> int:
    """Print versions, the kernels that run and why, the GPU, the data folder."""
    from adderkit import doctor

    tyro.cli(create_model("DoctorOptions", __doc__=(_doctor.__doc__ or "")), args=arguments, prog="adderkit doctor")
    return 0 if doctor.report(Console()) else 1


_COMMANDS: dict[str, Callable[[list[str]], int]] = {"train": _train, "eval": _eval, "doctor": _doctor}
