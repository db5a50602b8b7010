"""Kills trainings at random instants, goes on with them, and compares what they end with.

    python tests/train/fault_injection.py --kills 50 --others 20 --disks 10 --seed 1

runs `adderkit train` in processes of its own; the tests use the functions below with processes forked from one that has
imported everything, which saves the seconds of start-up.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import logging
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

# PKKD of two ResNet-8, both updated in each step of some 40 ms, with a checkpoint after nearly each of them.
OPTIONS = [
    "--data.train_rows", "0:128", "--data.test_rows", "0:50", "--batch_size", "16", "--epochs", "4",
    "--checkpoint_minutes", "0.0005", "--device", "cpu", "--pkkd.progressive", "--pkkd.head_start", "0",
]  # fmt: skip
STEPS = 8  # in an epoch
POSITIONS = 4 * STEPS
TIMEOUT = 1800.0  # seconds: a machine may be busy with other things
_PRELOAD = [
    "adderkit.cli",
    "adderkit.report",
    "adderkit.train",
    "sklearn.datasets",
    "matplotlib.backends.backend_agg",
    "torch._dynamo",
]


class Process(Protocol):
    """What `subprocess` and `multiprocessing` call by different names."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...


class Forked:
    """A process forked from the server that has imported everything."""

    def __init__(self, arguments: list[str]) -> None:
        self._process = get_context("forkserver").Process(target=_run, args=(arguments,), daemon=True)
        self._process.start()
        self.pid = self._process.pid or 0

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int:
        self._process.join(TIMEOUT)
        if self._process.exitcode is None:
            raise TimeoutError("the run neither ended nor died")
        return self._process.exitcode


class Command:
    """The command itself."""

    def __init__(self, arguments: list[str]) -> None:
        command = [sys.executable, "-m", "adderkit", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def wait(self) -> int:
        errors = self._process.communicate(timeout=TIMEOUT)[1]
        # Signals during the imports have the system's own effect; after them, no traceback is allowed.
        if "Traceback" in errors and self._process.returncode != -signal.SIGINT:
            raise AssertionError(errors)
        return self._process.returncode


def start_server() -> None:
    """Starts the process that others are forked from, with one thread."""
    from multiprocessing import forkserver

    os.environ["OMP_NUM_THREADS"] = "1"
    get_context("forkserver").set_forkserver_preload(_PRELOAD)
    forkserver.ensure_running()


def _run(arguments: list[str]) -> None:
    from adderkit import cli

    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        code = cli.main(arguments)
    raise SystemExit(code)


class Fault(NamedTuple):
    """A signal and its instant.

    Attributes:
        number: of the signal.
        seconds: after what is said next.
        progress: None: the birth of the process. Else: a checkpoint this far on the way from where the process goes on
            to the end, from 0 to 1; so all steps are met alike, however busy the machine is.
        in_write: then wait for a half-written file.
    """

    number: int
    seconds: float
    progress: float | None = None
    in_write: bool = False

    def wait(self, process: Process, folder: Path) -> None:
        """Returns when the instant has come, or the process has ended."""
        if self.progress is not None:
            begin = _position(folder)
            goal = begin + round(self.progress * (POSITIONS - begin))
            events = set((folder / "tensorboard").glob("*"))
            _until(lambda: set((folder / "tensorboard").glob("*")) > events, process)
            _until(lambda: _position(folder) >= goal, process)
        end = time.monotonic() + self.seconds
        _until(lambda: time.monotonic() >= end, process)
        if self.in_write:
            _until(lambda: any(folder.glob(".*.tmp")) or any(folder.glob("checkpoints/.*.tmp")), process)


def _position(folder: Path) -> int:
    """Steps done, as the newest checkpoint says."""
    pointer = folder / "checkpoints" / "newest"
    if not pointer.exists():
        return 0
    _, epoch, _, step = pointer.read_text(encoding="utf-8").split(".")[0].split("-")
    return int(epoch) * STEPS + int(step)


def _until(condition: Callable[[], bool], process: Process) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition() and process.poll() is None:
        if time.monotonic() > end:
            raise TimeoutError("the run did not get there")
        time.sleep(0.0002)


def random_fault(draw: random.Random, number: int, start: float) -> Fault:
    """One in five during the `start` seconds of start-up; of the others, half while a file is written."""
    if draw.random() < 0.2:
        return Fault(number, draw.uniform(0, start))
    return Fault(number, draw.uniform(0, 0.1), draw.random(), draw.random() < 0.5)


def hit(start: Callable[[list[str]], Process], folder: Path, fault: Fault) -> int | None:
    """Starts or resumes the run in `folder` and sends it a signal.

    Returns:
        The exit code; None where the run ended before the signal.
    """
    process = start(["train", "--out", str(folder), *OPTIONS, "--resume"])
    try:
        fault.wait(process, folder)
    except BaseException:
        os.kill(process.pid, signal.SIGKILL)
        raise
    is_running = process.poll() is None
    if is_running:
        os.kill(process.pid, fault.number)
    code = process.wait()
    return code if is_running and not (code == 0 and (folder / "summary.json").exists()) else None


def finish(start: Callable[[list[str]], Process], folder: Path) -> None:
    """Runs to the end."""
    code = start(["train", "--out", str(folder), *OPTIONS, "--resume"]).wait()
    if code != 0:
        raise AssertionError(f"the resumed run in {folder} ended with {code}")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of what a run ended with, but for times: both networks, the metrics, TensorBoard's curves, the summary,
    and the whole last checkpoint with optimisers, method and random states."""
    from adderkit.train.checkpoint import load_state

    found = {name: _sha(folder / f"{name}.safetensors") for name in ("last", "teacher")}
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    found["metrics"] = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    del summary["seconds"], summary["commit"]
    found["summary"] = hashlib.sha256(json.dumps(summary).encode()).hexdigest()
    found["tensorboard"] = hashlib.sha256(json.dumps(scalars(folder)).encode()).hexdigest()
    checkpoints = sorted((folder / "checkpoints").glob("*.pt"))
    sha = hashlib.sha256()
    _add(sha, load_state(checkpoints[-1]))
    return found | {"state": sha.hexdigest()}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every sitting after the first
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = sorted(tag for tag in events.Tags()["scalars"] if not tag.endswith("/seconds"))
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _add(sha: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        sha.update(f"{value.dtype} {tuple(value.shape)}".encode())
        sha.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key != "seconds":
                sha.update(repr(key).encode())
                _add(sha, inner)
    elif isinstance(value, list | tuple):
        sha.update(str(len(value)).encode())
        for inner in value:
            _add(sha, inner)
    else:
        sha.update(struct.pack("<d", value) if isinstance(value, float) else repr(value).encode())


def fill_disks(root: Path, draw: random.Random, count: int, expected: dict[str, str]) -> None:
    """Runs into the end of file systems of random small sizes; goes on when they have been made larger."""
    mount = root / "mount"
    mount.mkdir()
    folder = mount / "run"
    for disk in range(count):
        size = int(2 ** draw.uniform(8, 12.5))  # kB, from 256 to 5,800; a run holds 5,000
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", mount], check=True)
        try:
            code = Command(["train", "--out", str(folder), *OPTIONS, "--resume"]).wait()
            left = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0
            if any(folder.rglob(".*.tmp")):
                raise AssertionError("a temporary file is left")
            subprocess.run(["mount", "-o", "remount,size=64m", mount], check=True)
            finish(Command, folder)
            same = digests(folder) == expected
        finally:
            subprocess.run(["umount", mount], check=True)
        print(f"disk {disk + 1} of {size} kB: exit code {code} with {left // 1024} kB written; went on: {same}")
        sys.stdout.flush()
        if code not in (0, 74) or not same:
            raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs that met a running process")
    parser.add_argument("--others", type=int, default=20, help="SIGTERM, SIGUSR1 and SIGINT, alike")
    parser.add_argument("--disks", type=int, default=0, help="small file systems to fill; mounting them needs root")
    parser.add_argument("--forked", action="store_true", help="fork processes that have imported everything: faster")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    draw = random.Random(options.seed)
    left = Counter({"kill": options.kills, "other": options.others})
    hits: Counter[str] = Counter()
    runs = 0
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        os.environ["ADDERKIT_HOME"] = str(root / "home")
        if options.forked:
            start_server()
        kind_of_process = Forked if options.forked else Command
        begin = time.monotonic()
        process = kind_of_process(["train", "--out", str(root / "whole"), *OPTIONS])
        _until((root / "whole" / "tensorboard").exists, process)
        start = 0.5 if options.forked else time.monotonic() - begin
        if process.wait() != 0:
            raise AssertionError("the uninterrupted run failed")
        expected = digests(root / "whole")
        print(f"seed {options.seed}; {start:.1f} s of start-up; the uninterrupted run ends with")
        for name, digest in expected.items():
            print(f"  {name:12} {digest}")
        while left.total() > 0:
            runs += 1
            folder = root / f"run{runs}"
            notes: list[str] = []
            while left.total() > 0 and (not notes or draw.random() < 0.4):
                kind = draw.choices(["kill", "other"], [left["kill"], left["other"]])[0]
                number = signal.SIGKILL if kind == "kill" else draw.choice(
                    [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
                )  # fmt: skip
                fault = random_fault(draw, number, start)
                code = hit(kind_of_process, folder, fault)
                if code is None:  # it had ended before
                    break
                allowed = {signal.SIGKILL: {-9}, signal.SIGINT: {130, -2}}.get(number, {75, -number})
                allowed |= {1} if options.forked and fault.progress is None else set()  # before the command has begun
                if code not in allowed:
                    raise AssertionError(f"{fault}: exit code {code}")
                left[kind] -= 1
                place = "start-up" if fault.progress is None else "writing" if fault.in_write else "run"
                hits[f"{signal.Signals(number).name} {place} -> {code}"] += 1
                newest = sorted(path.name for path in (folder / "checkpoints").glob("*.pt"))[-1:] or ["no checkpoint"]
                notes.append(f"{signal.Signals(number).name} in {place} ({newest[0]})")
            finish(kind_of_process, folder)
            found = digests(folder)
            differing = [name for name in expected if found[name] != expected[name]]
            print(f"run {runs}: {', '.join(notes)}: {'DIFFERS in ' + ', '.join(differing) if differing else 'same'}")
            sys.stdout.flush()
            if differing:
                raise SystemExit(1)
            shutil.rmtree(folder)
        fill_disks(root, draw, options.disks, expected)
    print(f"{runs} runs, {hits.total()} signals, all ended with the same digests:")
    for name, count in sorted(hits.items()):
        print(f"  {name}: {count}")


if __name__ == "__main__":
    main()
