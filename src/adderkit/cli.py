"""The command line: parses, calls, prints.

Exit codes: 0 done; 1 `doctor` found a fault, `bench` a wrong result, `table` a training that failed, or a process was
lost, of several or of those that decode images; 2 an argument, a recipe, a file or a folder that can't be (`predict`
does the other pictures first); 3 a training that diverged; 74 (EX_IOERR) a file of a run that can't be written, on a
full disk say; 75 (EX_TEMPFAIL) a training that SIGTERM or SIGUSR1 stopped and `--resume` goes on with, a table that
SIGHUP stopped too; 130 the same for Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from adderkit.cli_options import parse, values
from adderkit.data.workers import death_of_a_worker, kill_all
from adderkit.options import Options
from adderkit.paths import shown

EXIT_LOST, EXIT_INPUT, EXIT_DIVERGED, EXIT_WRITE, EXIT_STOPPED, EXIT_INTERRUPTED = 1, 2, 3, 74, 75, 130
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # met by standard output, say
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")  # CUDA; torch on the CPU: plain RuntimeErrors
_LESS_MEMORY = "make `batch_size`, `data.image_size` or `data.memory_limit_mb` smaller"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code."""
    if "WORLD_SIZE" in os.environ:
        from adderkit.train.distributed import recorded

        return recorded(_main)(arguments) or 0  # None: a parser's own exit, after its help
    return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_usage())
        return 0 if given else EXIT_INPUT
    if given[0] == "--version":
        from adderkit import __version__

        print(f"adderkit {__version__}")
        return 0
    if given[0] not in _COMMANDS:
        print(f"adderkit: there is no command `{shown(given[0])}`; allowed: {', '.join(_COMMANDS)}", file=sys.stderr)
        return EXIT_INPUT
    for word in given:
        if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in word):
            print(f"adderkit {given[0]}: the argument {word!r} must be UTF-8 text without NUL", file=sys.stderr)
            return EXIT_INPUT
    try:
        return _COMMANDS[given[0]](given[1:])
    except (ValueError, ImportError, OSError) as error:  # ImportError: an extra that is not installed
        print(f"adderkit {given[0]}: {_message(error)}", file=sys.stderr)
        return EXIT_INPUT
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        death = death_of_a_worker(error) if isinstance(error, RuntimeError) else None
        if death is None:
            if not isinstance(error, MemoryError) and not any(words in text for words in _OUT_OF_MEMORY):
                raise  # a fault of ours
            print(f"adderkit {given[0]}: not enough memory ({_message(error)}); {_LESS_MEMORY}", file=sys.stderr)
            return EXIT_INPUT
    except KeyboardInterrupt:
        print(f"adderkit {given[0]}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    kill_all()  # only here, where nothing holds the loader any longer: torch watches over its processes
    print(f"adderkit {given[0]}: {shown(death)}", file=sys.stderr)
    return EXIT_LOST


def _message(error: BaseException) -> str:
    """What an exception says, for a terminal: no file name in it can send control sequences there."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"`{error.filename}`: {error.strerror}"
    return "\n".join(map(shown, text.split("\n"))) or type(error).__name__


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
    from adderkit.train import distributed

    try:
        with distributed.said_once():
            config, out, resume = _configured(arguments)
    except train.Elsewhere:  # the first process of this machine says why
        return _let_speak(EXIT_INPUT)
    try:
        summary = train.train(config, out, resume)
        if not distributed.speaks():
            return 0
        curves = report.draw_curves(out)
        console = Console()
        console.print(report.run_table(summary))
        print(f"run:    {out}\ncurves: {curves}", flush=True)
    except train.Elsewhere:
        return _let_speak(EXIT_INPUT)
    except train.LostProcess as error:
        if distributed.speaks() or isinstance(error, distributed.LostWorker):
            print(f"adderkit train: {error}. {_to_go_on(out, arguments)}", file=sys.stderr)
        return EXIT_LOST
    except train.Interrupted as error:
        if distributed.speaks():
            print(f"stopped {error}. {_to_go_on(out, arguments)}", file=sys.stderr)
        return EXIT_INTERRUPTED if error.number == signal.SIGINT else EXIT_STOPPED
    except train.Diverged as error:
        if distributed.speaks():
            print(f"adderkit train: {error}", file=sys.stderr)
        return EXIT_DIVERGED
    except OSError as error:
        if not isinstance(error, train.WriteError) and error.errno not in _FULL:
            raise
        _give_up_output()
        print(f"adderkit train: {error}. What was saved before is whole. {_to_go_on(out, arguments)}", file=sys.stderr)
        return EXIT_WRITE
    return 0


def _let_speak(code: int) -> int:
    """Once a process ends, torchrun ends the others: a moment for the one that says why."""
    time.sleep(1)
    return code


def _configured(arguments: list[str]) -> tuple[Any, Path, bool]:
    """The configuration, the run's folder, and whether to go on there."""
    from adderkit import train
    from adderkit.train.folder import CONFIG_FILE

    config_type = train.config_type()
    options = _parse_train(arguments, config_type())
    recipe, out = options.recipe, options.out
    if recipe is None and options.resume and (out / CONFIG_FILE).exists():
        recipe = out / CONFIG_FILE  # going on needs no option said again
    if recipe is not None:
        options = _parse_train(arguments, train.load_recipe(recipe))
    return config_type(**values(options, config_type)), out, options.resume


def _to_go_on(out: Path, arguments: list[str]) -> str:
    from adderkit.train.distributed import is_launched
    from adderkit.train.folder import CONFIG_FILE

    recipe = out / CONFIG_FILE
    given = [str(recipe), "--out", str(out)] if recipe.exists() else [word for word in arguments if word != "--resume"]
    command = "torchrun ... -m adderkit" if is_launched() else "adderkit"
    return f"To go on: {command} {shlex.join(['train', *given, '--resume'])}"


def _give_up_output() -> None:
    """Where the output itself is on the full disk, Python would try it again at exit and fail with code 120."""
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _parse_train(arguments: list[str], defaults: Options) -> Any:
    """The options of `adderkit train` over the defaults that a recipe gives."""
    path = tyro.conf.arg(metavar="[RECIPE.yaml]", help="recipe: these options as YAML; the command line goes first")
    own = [
        ("recipe", Annotated[tyro.conf.Positional[Path | None], path], None),
        ("out", Annotated[Path, tyro.conf.arg(help="folder of the run")], tyro.MISSING),
        (
            "resume",
            Annotated[
                tyro.conf.FlagCreatePairsOff[bool],
                tyro.conf.arg(help="go on with the run in `out`; start it where there is none"),
            ],
            False,
        ),
    ]
    return parse("adderkit train", _train.__doc__ or "", defaults, own, arguments)


def _eval(arguments: list[str]) -> int:
    """Evaluate the networks of a finished or running training on its test images."""
    from adderkit import train
    from adderkit.data import load
    from adderkit.data.sift import describe
    from adderkit.train.environment import pick_device
    from adderkit.train.folder import CONFIG_FILE

    def options(
        run: tyro.conf.Positional[Path], device: Literal["auto", "cpu", "cuda"] = "auto"
    ) -> tuple[Path, Literal["auto", "cpu", "cuda"]]:
        """Evaluate the networks of a finished or running training on its test images.

        Args:
            run: folder of the run
            device: where to evaluate
        """
        return run, device

    run, device_name = tyro.cli(options, args=arguments, prog="adderkit eval", use_underscores=True)
    if not (run / CONFIG_FILE).exists():
        raise ValueError(f"`run` (={run}) holds no run: there is no {CONFIG_FILE}")
    device = pick_device(device_name)
    found = {"student": run / "last.safetensors", "teacher": run / "teacher.safetensors"}
    networks = {net: train.load_network(path) for net, path in found.items() if net == "student" or path.exists()}
    data = load(train.load_recipe(run / CONFIG_FILE).data, device)
    if data.skipped:
        print(describe(data.skipped), file=sys.stderr)
    for net, (network, info) in networks.items():
        train.check_fits(f"`{found[net]}`", info, train.NetworkInfo.of(network, data))
    table = Table(title=f"{run} on the {len(data.test)} test images of {data.name}")
    for column in ("net", "network", "layer", "loss", "top-1", "top-5"):
        table.add_column(column)
    for net, (network, info) in networks.items():
        scores = train.evaluate(network.to(device), data.test)
        figures = (f"{scores.loss:.4f}", f"{100 * scores.top1:.2f} %", f"{100 * scores.top5:.2f} %")
        table.add_row(net, info.network, info.layer, *figures)
    Console().print(table)
    return 0


def _import(arguments: list[str]) -> int:
    """Import weights: a checkpoint of the official AdderNet code, or torchvision's."""
    from adderkit import train

    path = tyro.conf.arg(
        metavar="[FILE]", help="a state dict that torch.save wrote (of torchvision's, safetensors too)"
    )
    own = [
        ("file", Annotated[tyro.conf.Positional[Path | None], path], None),
        ("out", Annotated[Path, tyro.conf.arg(help="folder to write, as that of a run")], tyro.MISSING),
    ]
    options = parse("adderkit import", _import.__doc__ or "", train.ImportConfig(), own, arguments)
    config = train.ImportConfig(**values(options, train.ImportConfig))
    for note in train.import_weights(options.file, config, options.out):
        print(note)
    print(f"run: {options.out}")
    return 0


def _bench(arguments: list[str]) -> int:
    """Measure speed against convolutions: `bench ops` times layers, `bench train` a training step."""
    from adderkit import cli_bench

    return cli_bench.run(arguments)


def _table(arguments: list[str]) -> int:
    """Run a table of the paper: every row's training for every seed, our figures beside the paper's."""
    from adderkit import cli_table

    return cli_table.run(arguments, _table.__doc__ or "")


def _theorem1(arguments: list[str]) -> int:
    """Show how the series of the paper's Theorem 1 comes to its kernel, as table and picture."""
    from adderkit import cli_theorem1

    return cli_theorem1.run(arguments, _theorem1.__doc__ or "")


def _quantize(arguments: list[str]) -> int:
    """Turn a trained adder network into integers, as a file for `predict` and `adderkit.runtime`."""
    from adderkit import cli_quantize

    return cli_quantize.run(arguments, _quantize.__doc__ or "")


def _predict(arguments: list[str]) -> int:
    """Name the classes of pictures with an integer network."""
    from adderkit import cli_predict

    return cli_predict.run(arguments, _predict.__doc__ or "")


def _doctor(arguments: list[str]) -> int:
    """Print versions, the kernels that run and why, the GPU, the data folder."""
    from adderkit import doctor

    def options() -> None:
        """Print versions, the kernels that run and why, the GPU, the data folder."""

    tyro.cli(options, args=arguments, prog="adderkit doctor")
    return 0 if doctor.report(Console()) else 1


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": _train,
    "eval": _eval,
    "quantize": _quantize,
    "predict": _predict,
    "bench": _bench,
    "import": _import,
    "table": _table,
    "theorem1": _theorem1,
    "doctor": _doctor,
}
