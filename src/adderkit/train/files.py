"""Files that are whole or not there: written under a temporary name, synced, renamed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_REMEDIES = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room within the quota, or have it raised",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "that file system is mounted read-only",
    errno.EACCES: "you need the right to write there",
    errno.EPERM: "you need the right to write there",
}


class WriteError(OSError):
    """A file could not be written; what stood under its name before still stands there.

    Args:
        path: of the file, as it was to be named.
        error: what the system said.
        done: what was to be done with it.
    """

    def __init__(self, path: Path, error: OSError, done: str = "written") -> None:
        remedy = _REMEDIES.get(error.errno or 0)
        what = error.strerror or str(error)
        super().__init__(f"`{path}` can't be {done}: {what}{'; ' + remedy if remedy else ''}")
        self.errno = error.errno


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary path beside `path`, syncs what it wrote, renames it to `path`, syncs the folder.

    Raises:
        WriteError: the disk is full, a limit is reached, the right to write is missing.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise WriteError(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it where they are missing, and syncs the folders that name them."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        with suppress(PermissionError, FileNotFoundError):  # no right to read there; or another process took it away
            sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a loss of power, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync no folders
            raise
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Removes a file, where there is one.

    Raises:
        WriteError: the right is missing, say.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(path, error, "removed") from error


def remove_temporary(folder: Path) -> None:
    """Removes what a process that was killed while writing left behind."""
    for path in folder.glob(".*.tmp"):
        remove(path)
