"""Feeds spoilt files and command lines to what reads them, and accepts only a result or the documented error.

    python tests/fuzz/fuzz.py --count 10000 --seed 1            # every kind, 10,000 inputs in all
    python tests/fuzz/fuzz.py --kind parquet --seed 7 --only 123   # one input again, with its traceback

A fault is another exception than ValueError, one without a message, a crash of the process, an input that takes longer
than 20 s of processor time (30 minutes by the clock), or more than 6 GiB of address space beyond the start. Inputs are
a function of (kind, seed, number).
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import io
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("bad_input", "runtime")]

import mutations
import targets

SECONDS = 20  # of processor time per input: the slowest of 20,000 took 1.7 s
WAIT = 90  # times as long by the clock: a process may be stopped for minutes on a busy machine
SPACE = 6 * 2**30  # bytes of address space beyond the start: torch maps 2 GiB by itself when it first runs


class TooSlow(BaseException):
    """Not an Exception: nothing but this file may catch it."""


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Time per input and memory, for this process."""

    def alarm(number: int, frame: Any) -> None:
        raise TooSlow

    before = [(number, signal.signal(number, alarm)) for number in (signal.SIGALRM, signal.SIGPROF)]
    old = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPACE, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
        for number, handler in before:
            signal.signal(number, handler)


def outcome(target: Callable[[Path, bytes], Any], folder: Path, data: bytes) -> str:
    """`accepted`, `refused`, or what is wrong."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(WAIT * SECONDS)
    try:
        target(folder, data)
        return "accepted"
    except ValueError as error:
        return "refused" if str(error).strip() else "ValueError without a message"
    except TooSlow:
        return f"longer than {SECONDS} s"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {str(error)[:100]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


def made(kind: str, seed: int, number: int, seeds: list[bytes]) -> bytes:
    """Input `number` of a kind."""
    source = random.Random(f"{kind} {seed} {number}")
    if kind == "commands":
        return mutations.command(source, seeds)
    if kind == "resumed":
        return source.randbytes(8)  # its target draws from them
    data = source.choice(seeds)
    return mutations.text(source, data, seeds) if kind == "recipes" else mutations.binary(source, data, seeds)


def fuzz(kind: str, seed: int, numbers: range) -> tuple[collections.Counter[str], dict[str, int], float]:
    """Runs some inputs of a kind.

    Returns:
        How many ended how, the first number of each fault, and the seconds of the slowest.
    """
    found: collections.Counter[str] = collections.Counter()
    first: dict[str, int] = {}
    slowest = 0.0
    folder = Path(tempfile.mkdtemp(prefix="adderkit-fuzz-"))
    try:
        seeds, target = targets.TARGETS[kind](folder)
        for number in numbers:
            data = made(kind, seed, number, seeds)
            begin = time.monotonic()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                what = outcome(target, folder, data)
            slowest = max(slowest, time.monotonic() - begin)
            found[what] += 1
            first.setdefault(what, number)
    finally:
        shutil.rmtree(folder)
    return found, {what: number for what, number in first.items() if what not in ("accepted", "refused")}, slowest


def again(kind: str, seed: int, number: int) -> None:
    """One input, with all that it prints and raises."""
    with tempfile.TemporaryDirectory() as folder:
        seeds, target = targets.TARGETS[kind](Path(folder))
        data = made(kind, seed, number, seeds)
        print(data[:300])
        target(Path(folder), data)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kind", choices=sorted(targets.TARGETS), action="append")
    parser.add_argument("--count", type=int, default=10_000, help="inputs, over all kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this input alone, with its traceback")
    given = parser.parse_args()
    faulthandler.enable()
    warnings.simplefilter("ignore")
    kinds = given.kind or sorted(targets.TARGETS)
    if given.only is not None:
        again(kinds[0], given.seed, given.only)
        return 0
    share = -(-given.count // len(kinds))
    total, faults = 0, 0
    with limits():
        for kind in kinds:
            begin = time.monotonic()
            found, first, slowest = fuzz(kind, given.seed, range(share))
            total += share
            wrong = sum(found[what] for what in first)
            faults += wrong
            print(
                f"{kind:10}{share:6} inputs, {found['accepted']:5} accepted, {found['refused']:6} refused, {wrong:3}"
                f" faults; {time.monotonic() - begin:6.1f} s, slowest {slowest:.2f} s",
                flush=True,
            )
            for what, number in first.items():
                print(f"    {found[what]} times, first input {number}: {what}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{total} inputs, {faults} faults, peak memory {peak:.0f} MiB, seed {given.seed}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
