"""Runs the trainings of a table, several at a time, each in a process of its own that saves and resumes by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from adderkit.tables.cells import Cell
from adderkit.train.config import to_yaml
from adderkit.train.files import write_text
from adderkit.train.folder import in_use
from adderkit.train.interrupt import PARENT
from adderkit.train.teacher import SHARED

_LINES = 5  # of a failed run's log that are quoted
# Exit codes of a training that a signal stopped: 75 and 130 once it runs, the signal's own before and after that.
_STOPPED = (75, 130, -signal.SIGTERM)
# SIGHUP: the terminal is gone. SIGUSR1: Slurm's warning before a job ends.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Failed(NamedTuple):
    """A training that ended with an error; `code` is its exit code, 2 or 74 where it was not begun."""

    cell: Cell
    code: int
    reason: str

    def __str__(self) -> str:
        return f"{self.cell}: failed with exit code {self.code}: {(self.reason or 'it says nothing').splitlines()[-1]}"


class Stopped(Exception):
    """A signal stopped the table; every training but those of `failed` has saved its state."""

    def __init__(self, number: int, failed: list[Failed]) -> None:
        super().__init__(f"signal {number}")
        self.number = number
        self.failed = failed


def run_cells(
    wanted: list[Cell], jobs: int, threads: int, note: Callable[[str], None], done: Callable[[list[Failed]], None]
) -> list[Failed]:
    """Trains what is not finished yet. A failed training is reported, and the others go on.

    Args:
        jobs: trainings at a time.
        threads: of each.
        note: told of every start and end.
        done: called after each training that ended well, with what has failed so far.

    Raises:
        Stopped: SIGINT, SIGTERM, SIGHUP or SIGUSR1 came; the trainings were told to save and have ended.
    """
    left, failed = _left(wanted)
    finished = len(wanted) - len(left) - len(failed)
    if finished:
        note(f"{finished} of {len(wanted)} trainings are finished already")
    for failure in failed:
        note(str(failure))
    pool = _Pool(threads, note)
    with _Signals(pool), ThreadPoolExecutor(max_workers=jobs) as executor:
        futures = {executor.submit(pool.run, cell): cell for cell in left}
        for future in as_completed(futures):
            cell, (code, reason) = futures[future], future.result()
            if code == 0:
                note(f"{cell}: finished")
                try:
                    done(failed)
                except OSError as error:  # a full disk, say: by the next end there may be room
                    note(f"the table is not brought up to date: {error}")
            elif code is not None and not (pool.number and code in _STOPPED):
                failed.append(Failed(cell, code, reason))
                note(f"{cell}: failed with exit code {code}, see {cell.log}")
    if pool.number:
        raise Stopped(pool.number, failed)
    return failed


def _left(wanted: list[Cell]) -> tuple[list[Cell], list[Failed]]:
    """What is to be trained, and what can't be: its folder holds something damaged or another configuration."""
    left: list[Cell] = []
    failed: list[Failed] = []
    for cell in wanted:
        try:
            if cell.summary() is None:
                left.append(cell)
        except ValueError as error:
            failed.append(Failed(cell, 2, "; ".join(str(error).splitlines())))
    return left, failed


class _Pool:
    """The trainings that run now, so that a signal can reach them."""

    def __init__(self, threads: int, note: Callable[[str], None]) -> None:
        self.number = 0
        self._threads = threads
        self._note = note
        self._running: set[subprocess.Popen[bytes]] = set()

    def run(self, cell: Cell) -> tuple[int | None, str]:
        """Trains one cell to its end: its exit code, None where the table was stopped before, and its last words."""
        try:
            code = self._train(cell)
        except OSError as error:
            return 74, f"{cell.folder}: {error}"
        return code, _last_lines(cell.log) if code else ""

    def stop(self, number: int) -> None:
        """Tells every training to save and end."""
        self.number = self.number or number
        for process in list(self._running):
            process.terminate()

    def _train(self, cell: Cell) -> int | None:
        if self.number:
            return None
        cell.folder.parent.mkdir(parents=True, exist_ok=True)
        if in_use(cell.folder):  # by a training of a table that was killed, say, which saves its state now
            self._note(f"{cell}: another process is training there: waiting for it")
            while in_use(cell.folder):
                time.sleep(0.5)
                if self.number:
                    return None
        recipe = cell.folder.with_suffix(".yaml")
        write_text(recipe, to_yaml(cell.config))
        command = [sys.executable, "-m", "adderkit", "train", str(recipe), "--out", str(cell.folder), "--resume"]
        environment = os.environ | {"OMP_NUM_THREADS": str(self._threads), PARENT: str(os.getpid()), SHARED: "1"}
        self._note(f"{cell}: training")
        with open(cell.log, "ab") as log:
            # A session of its own: Ctrl-C reaches the table alone, which tells the trainings once.
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
            )
            self._running.add(process)
            if self.number:  # the signal came while the process began, and did not find it
                process.terminate()
            try:
                return process.wait()
            finally:
                self._running.discard(process)


class _Signals:
    """While the trainings run, signals tell them to stop."""

    def __init__(self, pool: _Pool) -> None:
        self._pool = pool
        self._before: dict[int, object] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue  # started by nohup, to outlive its terminal
                self._before[number] = signal.signal(number, lambda number, frame: self._pool.stop(number))

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "\n".join(lines[-_LINES:])
