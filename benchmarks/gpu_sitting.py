"""All that a GPU must show, in one command: tests, checks, then ResNet-20 by every method, as far as the time reaches.

    python benchmarks/gpu_sitting.py OUT SECONDS [options of `adderkit table`: --seeds 0 1 --data.name parquet ...]

The same command again goes on where it stopped, on another machine too if OUT comes along: what ended well is not done
again unless its command has changed, what failed is tried again after the rest. It runs from a checkout, with or
without an installed adderkit. Trainings save their state when SECONDS are over, for which they have a minute more.

Tests and checks are processes of their own with a limit each: an error of CUDA spoils all that a process does after it,
and a kernel that hangs must not take the trainings' time.

Exit codes: 0 all is done; 1 something failed, the rest was done all the same; 2 no GPU; 75 the time is over or SIGTERM
came, 130 Ctrl-C: every training has saved its state.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
_GRACE = 60.0  # seconds from SIGTERM to SIGKILL: a training saves within a step


_OVERRAN = 124  # a step that ran past its own limit, as `timeout` says it


class Step(NamedTuple):
    """A name, arguments of Python, and the most seconds that it may take; None: what the sitting has left."""

    name: str
    arguments: list[str]
    seconds: float | None = None


def steps(out: Path, options: list[str]) -> Iterator[Step]:
    """The most wanted first."""
    # Warnings of packages that are newer than those known here are no failures of a GPU.
    test = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default"]
    trainings = [
        f"tests/train/test_on_a_gpu.py::{name}"
        for name in (
            "test_every_method_is_replayed_as_it_is_computed",
            "test_replayed_test_batches_follow_the_weights",
            "test_a_capture_that_fails",
        )
    ]
    yield Step("kernels", [*test, "tests/ops/gpu/test_gpu_kernels.py"], 120)
    for part, seconds in (("equality", 80), ("steps", 80), ("layers", 80)):
        arguments = ["--only", part, "--cases", "60", "--json", str(out / f"{part}.json")]
        yield Step(part, ["benchmarks/gpu_check.py", *arguments], seconds)
    yield Step("trainings", [*test, *trainings], 80)
    yield Step("torch", [*test, "tests/ops/gpu/test_gpu_torch.py"], 60)
    table = ["-m", "adderkit", "table"]
    often = ["--save_every", "10", *options]
    yield Step("first", [*table, "table1", "--out", str(out / "table1"), "--rows", "CNN", "ANN", "PKKD", *often])
    yield Step("table1", [*table, "table1", "--out", str(out / "table1"), *often])
    yield Step("ablation", [*table, "ablation", "--out", str(out / "ablation"), *often])


class Sitting:
    """Runs steps within a time, and keeps in `OUT/sitting.json` how each ended.

    Args:
        out: the folder of figures and trainings; exists.
        seconds: of the sitting.
        python: runs the steps.
    """

    def __init__(self, out: Path, seconds: float, python: str) -> None:
        self._out, self._python = out, python
        self._end = time.monotonic() + seconds
        self._file = out / "sitting.json"
        self._ends: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}
        self._process: subprocess.Popen[str] | None = None
        self._number = 0  # of the signal that came

    def run(self, wanted: list[Step]) -> int:
        """All steps that have not ended well; the exit code of the sitting."""
        left = [step for step in wanted if self._code(step) != 0]
        for step in sorted(left, key=lambda step: self._code(step) is not None):
            if self._is_over():
                break
            print(f"== {step.name}", flush=True)
            code = self._do(step)
            if code is None:
                break
            self._keep(step.name, {"arguments": step.arguments, "code": code})
            if code:
                what = "ran past its limit" if code == _OVERRAN else f"failed with exit code {code}"
                print(f"== {step.name} {what}, see {self._out / step.name}.log", flush=True)
        codes = [self._code(step) for step in wanted]
        if self._number or None in codes:
            print("== stopped; the same command goes on", flush=True)
            return 130 if self._number == signal.SIGINT else 75
        return 1 if any(codes) else 0

    def stop(self, number: int, frame: object) -> None:
        """Tells the step under way to save and end."""
        self._number = self._number or number
        if self._process is not None:
            self._process.terminate()

    def _is_over(self) -> bool:
        return bool(self._number) or time.monotonic() >= self._end

    def _code(self, step: Step) -> int | None:
        """How a step ended; None where it has not, with these arguments."""
        end = self._ends.get(step.name, {})
        return end.get("code") if end.get("arguments") == step.arguments else None

    def _keep(self, name: str, end: dict[str, Any]) -> None:
        self._ends[name] = end
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._ends, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self._file)

    def _do(self, step: Step) -> int | None:
        """The exit code of a step; None where the end of the sitting, or a signal, cut it short."""
        command = [self._python, *step.arguments]
        paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            "ADDERKIT_HOME": str(self._out / "home"),  # fixed teachers come along
            "TRITON_CACHE_DIR": str(self._out / "triton"),  # and compiled kernels, minutes of work
        }
        # A session of its own: Ctrl-C reaches this script alone, which tells the step once.
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self._process = process
        left = max(self._end - time.monotonic(), 0)
        limit = min(left, step.seconds or left)
        timers = [threading.Timer(limit, process.terminate), threading.Timer(limit + _GRACE, process.kill)]
        for timer in timers:
            timer.daemon = True
            timer.start()
        if self._number:  # it came just before there was a process
            process.terminate()
        with process, open(self._out / f"{step.name}.log", "a", encoding="utf-8", buffering=1) as log:
            log.write(f"$ {shlex.join(command)}\n")
            for line in process.stdout or ():
                print(line, end="", flush=True)
                log.write(line)
        was_cut = timers[0].finished.is_set() and process.returncode != 0
        for timer in timers:
            timer.cancel()
        self._process = None
        if self._number or (was_cut and self._is_over()):
            return None
        return _OVERRAN if was_cut else process.returncode


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or not arguments[1].replace(".", "", 1).isdigit():
        print(__doc__, file=sys.stderr)
        return 2
    import torch

    if not torch.cuda.is_available():
        print("torch sees no CUDA device here", file=sys.stderr)
        return 2
    out = Path(arguments[0]).absolute()
    out.mkdir(parents=True, exist_ok=True)
    sitting = Sitting(out, float(arguments[1]), sys.executable)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, sitting.stop)
    return sitting.run(list(steps(out, arguments[2:])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
