"""The checkpoints of a run: the last few, each with a checksum, each whole or not there.

A checkpoint is a file of `torch.save` with one line after it, `sha256 HEX`, over all bytes before that line.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from adderkit.plain_load import load_plain
from adderkit.train.files import WriteError, make_folder, remove, remove_temporary, write_atomically, write_text

STATE_FORMAT = 2
RESULTS_FILE = "metrics.csv"
_MARK = b"sha256 "
_TRAILER = len(_MARK) + 64 + 1
_NAME = re.compile(r"epoch-(\d+)-step-(\d+)\.pt")


class Damaged(ValueError):
    """A checkpoint that is not what was written."""


class Checkpoints:
    """The checkpoints in a run's folder.

    Args:
        run: the run's folder; they lie in its folder `checkpoints`, and the file `newest` there names the last one.
        keep: how many.
    """

    def __init__(self, run: Path, keep: int) -> None:
        self.folder = run / "checkpoints"
        self._keep = keep
        self._pointer = self.folder / "newest"
        self._is_readable = False  # found by reading back the first: a method may hand over what `weights_only` refuses

    def paths(self) -> list[Path]:
        """All that there are, newest first."""
        if not self.folder.is_dir():
            return []
        found = [(position, path) for path in self.folder.iterdir() if (position := _position(path.name))]
        return [path for _, path in sorted(found, reverse=True)]

    def save(self, epoch: int, step: int, state: dict[str, Any]) -> None:
        """Writes the state after `epoch` epochs and `step` steps of the next, then removes those beyond `keep`.

        Args:
            epoch: from 0.
            step: from 0.
            state: tensors, plain containers, numbers and text.

        Raises:
            WriteError: a full disk, say; all earlier checkpoints are still there.
            ValueError: the state holds something that could not be read again.
        """
        path = self.folder / f"epoch-{epoch:04d}-step-{step:06d}.pt"
        try:
            make_folder(self.folder)
        except OSError as error:
            raise WriteError(path, error) from error
        save_state(path, state)
        if not self._is_readable:
            load_state(path)
            self._is_readable = True
        write_text(self._pointer, path.name + "\n")
        for old in self.paths()[self._keep :]:
            remove(old)

    def load(self, note: Callable[[str], None]) -> dict[str, Any] | None:
        """Reads the newest checkpoint that is whole.

        Damaged newer ones are renamed to `*.damaged`, out of the way of those to come.

        Args:
            note: told what was wrong with newer ones, and which one serves.

        Returns:
            The state; None where no checkpoint was ever written.

        Raises:
            ValueError: none is whole, or the newest is of another format.
        """
        found = self.paths()
        faults = self._missing(found)
        damaged: list[Path] = []
        for path in found:
            try:
                state = load_state(path)
            except Damaged as error:
                faults.append(str(error))
                damaged.append(path)
                continue
            if faults:
                note(f"{'; '.join(faults)}. Going on from the one before, `{path}`")
                for bad in damaged:
                    _put_aside(bad)
                write_text(self._pointer, path.name + "\n")
            return state
        if faults:
            raise ValueError(
                f"{'; '.join(faults)}. There is no other: put a copy back, or choose another folder to train from the"
                " start"
            )
        return None

    def check_there(self) -> None:
        """Refuses a run's folder that has results but nothing left to go on from: starting over would replace them.

        Raises:
            ValueError: `metrics.csv` is there, which the first epoch's checkpoint comes before, and no checkpoint is.
        """
        results = self.folder.parent / RESULTS_FILE
        if results.exists() and not self.paths() and not self._pointer.exists():
            raise ValueError(
                f"`{results}` holds results, but there is no checkpoint in `{self.folder}`: put them back, or choose"
                f" another folder (to start over in this one, delete {RESULTS_FILE})"
            )

    def clean(self) -> None:
        """Removes half-written files of a process that was killed."""
        remove_temporary(self.folder)

    def _missing(self, found: list[Path]) -> list[str]:
        try:
            name = self._pointer.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return []
        newest = _position(name)
        if newest is None or (found and newest <= (_position(found[0].name) or newest)):
            return []
        return [f"checkpoint `{self.folder / name}`, the newest, is missing"]


def _position(name: str) -> tuple[int, int] | None:
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def _put_aside(path: Path) -> None:
    try:
        os.replace(path, path.with_name(path.name + ".damaged"))
    except OSError as error:
        raise WriteError(path, error, "renamed") from error


class _Sink:
    """Takes what `torch.save` writes and hashes it.

    An error, or Ctrl-C, is kept for later and the rest swallowed: an exception in the middle of torch's zip writer
    surfaces as another one about that writer's own state.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.error: BaseException | None = None
        self.digest = hashlib.sha256()
        self._file = file

    def write(self, data: Any) -> int:
        try:
            if self.error is None:
                self.digest.update(data)
                self._file.write(data)
        except BaseException as error:
            self.error = error
        return len(data)

    def flush(self) -> None: ...


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes the state of a training: tensors, plain containers, numbers and text."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            sink = _Sink(file)
            try:
                torch.save({"format": STATE_FORMAT, **state}, cast(BinaryIO, sink))
            except RuntimeError as error:  # Ctrl-C between two lines of `_Sink`, say
                if isinstance(error.__context__, KeyboardInterrupt):
                    raise error.__context__ from None
                raise
            if sink.error is not None:
                raise sink.error
            file.write(_MARK + sink.digest.hexdigest().encode() + b"\n")

    write_atomically(path, write)


def load_state(path: Path) -> dict[str, Any]:
    """Reads the state of a training on the CPU. Nothing in the file is executed (`weights_only`).

    Raises:
        Damaged: the file is not what was written.
        ValueError: it may not be read, or is of another format.
    """
    try:
        content = path.read_bytes()
    except PermissionError as error:
        raise ValueError(f"checkpoint `{path}` can't be read: {error.strerror}") from None
    except OSError as error:
        raise Damaged(f"checkpoint `{path}` can't be read: {error.strerror}") from None
    body, trailer = content[:-_TRAILER], content[-_TRAILER:]
    if len(trailer) < _TRAILER or not trailer.startswith(_MARK):
        raise Damaged(f"checkpoint `{path}` is truncated ({len(content)} bytes, and no checksum at their end)")
    if trailer[len(_MARK) : -1] != hashlib.sha256(body).hexdigest().encode():
        raise Damaged(f"checkpoint `{path}` is damaged: its checksum is not that of its content")
    del content
    try:
        state = load_plain(io.BytesIO(body))
    except Exception as error:  # a forged file with a right checksum: unpickling it may raise anything
        what = "holds more than tensors and plain values, or is damaged"  # torch's text advises to run what it holds
        raise Damaged(f"checkpoint `{path}` can't be read: it {what}") from error
    found = state.get("format") if isinstance(state, dict) else None
    if not isinstance(found, int) or found != STATE_FORMAT:
        raise ValueError(
            f"checkpoint `{path}` has format {found!r:.100}; this version reads {STATE_FORMAT}: go on with the version"
            " of adderkit that wrote it"
        )
    return state
