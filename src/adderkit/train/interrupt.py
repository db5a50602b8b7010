"""Signals that ask a training to stop: it stops between steps, where its state is whole."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PARENT = "ADDERKIT_PARENT"  # variable: number of the process that a training ends with, set by who starts it
_PARENT = os.getppid()  # now: until a training begins, torchrun may be gone
# SIGUSR1 is the warning that Slurm sends before it ends a job (`--signal=USR1@300`).
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(Exception):
    """A signal stopped the run; all that it had done is saved.

    Args:
        where: it stood, as the end of a sentence.
        number: of the signal.
    """

    def __init__(self, where: str, number: int) -> None:
        super().__init__(where)
        self.number = number


class Stop:
    """Whether a signal asked to stop, and when that takes effect.

    While nothing is half done, a signal raises KeyboardInterrupt at once, as Ctrl-C does; within `deferred`, it only
    sets `number`, for the code there to look at. A second Ctrl-C breaks in; a second SIGTERM does not, for some
    systems send it twice.

    Args:
        is_shared: several processes stop together. torchrun passes Ctrl-C on to processes that the terminal has already
            sent it to, so a second one is no wish to break in; torchrun itself kills what does not stop. And as soon as
            one process ends, torchrun sends SIGTERM to the others: what fails here gets time to say why.

    Attributes:
        is_forced: a second Ctrl-C broke into what was deferred.
    """

    def __init__(self, is_shared: bool = False) -> None:
        self._is_shared = is_shared
        self._number: int | None = None
        # Other launchers than torchrun and our own may start processes in the background and end.
        own = os.environ.get(PARENT, "")
        self._parent = int(own) if own.isdigit() else _PARENT if "TORCHELASTIC_RUN_ID" in os.environ else None
        self.is_forced = False
        self._is_deferred = False
        self._is_listening = False

    @property
    def number(self) -> int | None:
        """Of the first signal; None: none came. SIGTERM too where the parent is gone: nobody else would stop this."""
        if self._number is None and self._parent is not None and os.getppid() != self._parent:
            self._number = signal.SIGTERM
        return self._number

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals over, and gives them back; does nothing within itself or outside the main thread."""
        previous: dict[int, Any] = {}
        if not self._is_listening:
            try:
                for number in SIGNALS:
                    previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: whoever owns that handles signals
                yield
                return
        was_listening, self._is_listening = self._is_listening, True
        try:
            yield
        except BaseException:
            if self._is_shared and previous:
                previous[signal.SIGTERM] = _once_ignored(previous[signal.SIGTERM])
            raise
        finally:
            self._is_listening = was_listening
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Signals within wait to be looked at."""
        was_deferred, self._is_deferred = self._is_deferred, True
        try:
            yield
        finally:
            self._is_deferred = was_deferred

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """Signals within, and one that waits, raise KeyboardInterrupt."""
        was_deferred, self._is_deferred = self._is_deferred, False
        try:
            self.check()
            yield
        finally:
            self._is_deferred = was_deferred

    def check(self) -> None:
        """Raises KeyboardInterrupt if a signal came."""
        if self.number is not None:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: Any) -> None:
        if self._number is None:
            self._number = number
            if not self._is_deferred:
                raise KeyboardInterrupt
        elif number == signal.SIGINT and not self._is_shared:
            self.is_forced = self._is_deferred
            raise KeyboardInterrupt


def _once_ignored(handler: Any) -> Callable[[int, Any], None]:
    def handle(number: int, frame: Any) -> None:
        signal.signal(number, handler)

    return handle
