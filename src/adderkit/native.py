"""Finds and loads the native library, through ctypes; needs neither torch nor numpy.

`ADDERKIT_NATIVE=off` switches it off; `ADDERKIT_ISA=portable|avx2|avx512|neon` forces one of its paths.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import adderkit

ABI_VERSION = 3
_NAME = {"win32": "adderkit.dll", "darwin": "libadderkit.dylib"}.get(sys.platform, "libadderkit.so")


class Isa(NamedTuple):
    """One path of the native library; `reason` says why it cannot run here and is empty where it can."""

    name: str
    active: bool
    reason: str


class _Loaded(NamedTuple):
    library: ctypes.CDLL | None
    reason: str


def library() -> ctypes.CDLL | None:
    """The loaded library, or None where there is none: `reason()` then says why."""
    return _load().library


def reason() -> str:
    """Why there is no native library and what to do; empty where there is one."""
    return _load().reason


def error() -> str:
    """The native library's sentence on the last failure in this thread."""
    loaded = library()
    return loaded.adderkit_error().decode(errors="replace") if loaded is not None else reason()


def check(status: int) -> None:
    """Turns a native status into an exception.

    Raises:
        MemoryError: where the library is out of memory.
        ValueError: for any other failure, with the library's own sentence.
    """
    if status == 2:
        raise MemoryError(error())
    if status != 0:
        raise ValueError(error())


def isas() -> list[Isa]:
    """The paths of the library, best first; empty without a library.

    Raises:
        ValueError: where `ADDERKIT_ISA` names a path that is unknown or cannot run here.
    """
    loaded = library()
    if loaded is None:
        return []
    active = loaded.adderkit_isa_active()
    if active < 0:
        raise ValueError(error())
    return [
        Isa(
            loaded.adderkit_isa_name(index).decode(),
            index == active,
            loaded.adderkit_isa_reason(index).decode(),
        )
        for index in range(loaded.adderkit_isa_count())
    ]


@contextmanager
def forced_isa(name: str) -> Iterator[None]:
    """Runs the whole process on one path, and afterwards on what the environment says again.

    Raises:
        ValueError: where the path is unknown or cannot run here.
        RuntimeError: where there is no native library.
    """
    loaded = library()
    if loaded is None:
        raise RuntimeError(reason())
    check(loaded.adderkit_isa_force(name.encode()))
    try:
        yield
    finally:
        check(loaded.adderkit_isa_force(None))


@cache
def _load() -> _Loaded:
    switch = os.environ.get("ADDERKIT_NATIVE", "on").lower()
    if switch == "off":
        return _Loaded(None, "ADDERKIT_NATIVE=off; unset it to use the native kernels")
    if switch not in ("on", ""):
        raise ValueError(f"`ADDERKIT_NATIVE` (={switch!r}) must be 'on' or 'off'")
    paths = [Path(folder) / "_native" / _NAME for folder in adderkit.__path__]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return _Loaded(
            None,
            "this installation has no native library (looked for "
            + ", ".join(map(str, paths))
            + "); install adderkit with a C++ compiler at hand and without ADDERKIT_NATIVE=off",
        )
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as problem:
        return _Loaded(None, f"the native library does not load ({problem}); reinstall adderkit on this machine")
    version = _declare(loaded)
    if version != ABI_VERSION:
        return _Loaded(None, f"{path} has ABI {version} and this package wants {ABI_VERSION}; reinstall adderkit")
    return _Loaded(loaded, "")


def _declare(loaded: ctypes.CDLL) -> int:
    """Gives the functions that every user needs their types and returns the library's ABI version."""
    loaded.adderkit_error.restype = ctypes.c_char_p
    loaded.adderkit_thread_pool.restype = ctypes.c_char_p
    loaded.adderkit_isa_name.restype = loaded.adderkit_isa_reason.restype = ctypes.c_char_p
    loaded.adderkit_isa_name.argtypes = loaded.adderkit_isa_reason.argtypes = [ctypes.c_int32]
    loaded.adderkit_isa_force.argtypes = [ctypes.c_char_p]
    return loaded.adderkit_abi_version()
