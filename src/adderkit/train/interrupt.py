"""Ctrl-C between steps instead of inside one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupt_flag() -> Iterator[list[bool]]:
    """Ctrl-C sets the flag instead of breaking into a half-done step; a second one breaks in."""
    flag = [False]

    def set_flag(number: int, frame: Any) -> None:
        flag[0] = True
        signal.signal(signal.SIGINT, previous)

    try:
        previous = signal.signal(signal.SIGINT, set_flag)
    except ValueError:  # not the main thread: whoever owns that handles Ctrl-C
        yield flag
        return
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, previous)
