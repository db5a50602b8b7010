"""Runs the trainings of a table, several at a time, each in a process of its own that saves and resumes by itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from adderkit.tables.definition import Row, Table
from adderkit.train import BaseConfig
from adderkit.train.config import to_yaml
from adderkit.train.files import write_text
from adderkit.train.record import read_summary

_LINES = 5  # of a failed run's log that are quoted


class Cell(NamedTuple):
    """One training of a table.

    Attributes:
        row: which it belongs to.
        seed: of it.
        config: what is trained.
        folder: the run's; its log lies beside it.
    """

    row: Row
    seed: int
    config: BaseConfig
    folder: Path

    @property
    def log(self) -> Path:
        """What the training prints, of all sittings."""
        return self.folder.with_suffix(".log")

    @property
    def is_done(self) -> bool:
        return (self.folder / "summary.json").exists() and read_summary(self.folder) is not None


class Failed(NamedTuple):
    """A training that ended with an error."""

    cell: Cell
    code: int
    reason: str


def cells(table: Table, seeds: Iterable[int], configs: dict[str, BaseConfig], out: Path) -> list[Cell]:
    """The trainings of a table, all rows of the first seed first: the table is whole early and then gains seeds.

    Args:
        configs: of each row, by its name; the seed is set here.
        out: the table's folder.
    """
    return [
        Cell(row, seed, configs[row.name].model_copy(update={"seed": seed}), out / slug(row.name) / f"seed-{seed}")
        for seed in seeds
        for row in table.rows
    ]


def slug(name: str) -> str:
    """A row's name as a folder's: `K + NP` becomes `k-np`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "row"


class Stopped(Exception):
    """A signal stopped the table; every training has saved its state."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


def run_cells(
    wanted: list[Cell], jobs: int, threads: int, note: Callable[[str], None], done: Callable[[], None]
) -> list[Failed]:
    """Trains what is not finished yet. A failed training is reported, and the others go on.

    Args:
        jobs: trainings at a time.
        threads: of each.
        note: told of every start and end.
        done: called after each training that ended well.

    Raises:
        Stopped: SIGINT or SIGTERM came; the trainings were told to save and have ended.
    """
    left = [cell for cell in wanted if not cell.is_done]
    if len(left) < len(wanted):
        note(f"{len(wanted) - len(left)} of {len(wanted)} trainings are finished already")
    failed: list[Failed] = []
    pool = _Pool(threads)
    with _Signals(pool), ThreadPoolExecutor(max_workers=jobs) as executor:
        futures = {executor.submit(pool.run, cell, note): cell for cell in left}
        for future in as_completed(futures):
            cell, code = futures[future], future.result()
            if code is None or pool.number:
                continue
            if code == 0:
                note(f"{cell.row.name}, seed {cell.seed}: finished")
                done()
            else:
                failed.append(Failed(cell, code, _last_lines(cell.log)))
                note(f"{cell.row.name}, seed {cell.seed}: failed with exit code {code}, see {cell.log}")
    if pool.number:
        raise Stopped(pool.number)
    return failed


class _Pool:
    """The trainings that run now, so that a signal can reach them."""

    def __init__(self, threads: int) -> None:
        self.number = 0
        self._threads = threads
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def run(self, cell: Cell, note: Callable[[str], None]) -> int | None:
        """Trains one cell to its end and returns its exit code; None where the table was stopped before."""
        cell.folder.parent.mkdir(parents=True, exist_ok=True)
        recipe = cell.folder.with_suffix(".yaml")
        write_text(recipe, to_yaml(cell.config))
        command = [sys.executable, "-m", "adderkit", "train", str(recipe), "--out", str(cell.folder), "--resume"]
        environment = os.environ | {"OMP_NUM_THREADS": str(self._threads)}
        with open(cell.log, "ab") as log:
            with self._lock:
                if self.number:
                    return None
                note(f"{cell.row.name}, seed {cell.seed}: training")
                # A session of its own: Ctrl-C reaches the table alone, which tells the trainings once.
                process = subprocess.Popen(
                    command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
                )
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)

    def stop(self, number: int) -> None:
        """Tells every training to save and end."""
        self.number = self.number or number
        for process in list(self._running):
            process.terminate()


class _Signals:
    """While the trainings run, SIGINT and SIGTERM tell them to stop."""

    def __init__(self, pool: _Pool) -> None:
        self._pool = pool
        self._before: dict[int, object] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, lambda number, frame: self._pool.stop(number))

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "\n".join(lines[-_LINES:])
