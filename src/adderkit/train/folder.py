"""A run's folder: who may write there, and whether a run can start, go on or is finished."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from adderkit.train.config import BaseConfig, load_recipe, to_values, to_yaml
from adderkit.train.files import WriteError, make_folder, write_text
from adderkit.train.weights import same_network

CONFIG_FILE = "config.yaml"
IMPORT_FILE = "imported.json"  # in a folder of imported weights
_LOCK = ".lock"

# What may differ when a run goes on: no weight depends on it. The images themselves are compared when they are loaded.
_FREE = {"device", "cuda_graph", "save_every", "checkpoint_minutes", "keep_checkpoints", "test_every"}
_FREE_DATA = {"workers", "memory_limit_mb", "root", "train", "test"}


class InUse(ValueError):
    """Another process holds the folder's lock."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock; it falls with the process, however that ends.

    Args:
        folder: created where it is missing.

    Raises:
        InUse: another process holds the lock.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    with _lock(folder):
        try:
            yield
        except BaseException:
            _clear(folder, missing)
            raise


def in_use(folder: Path) -> bool:
    """Whether another process holds the folder's lock."""
    try:
        with open(folder / _LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _lock(folder: Path) -> IO[str]:
    path = folder / _LOCK
    while True:
        try:
            make_folder(folder)
            file = open(path, "w")  # noqa: SIM115 (the caller closes it, where the lock falls)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise WriteError(folder, error) from None
            raise ValueError(f"folder `{folder}` can't be written to: {error.strerror}; choose another") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise InUse(f"folder `{folder}` is in use: another process is training there") from None
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
        file.close()  # its holder failed and took it away: another may hold the new one


def _clear(folder: Path, made: list[Path]) -> None:
    """What was refused leaves nothing behind: takes away a lock that stands alone, and folders made for it."""
    with suppress(OSError):
        if [entry.name for entry in folder.iterdir()] == [_LOCK]:
            (folder / _LOCK).unlink()
            for path in made:
                path.rmdir()  # stops at the first that is not empty


def check_new(folder: Path, remedy: str = "choose another folder, or --resume to go on with its run") -> None:
    """Refuses a folder that holds anything; `remedy` says what to do then."""
    if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
        raise ValueError(f"`out` (={folder}) is no folder: choose another")
    check_trainable(folder)
    if folder.exists() and any(entry.name != _LOCK for entry in folder.iterdir()):
        raise ValueError(f"`out` (={folder}) is not empty: {remedy}")


def check_trainable(folder: Path) -> None:
    """Refuses a folder of imported weights: without a state to go on from, a training would overwrite them."""
    if (folder / IMPORT_FILE).exists():
        raise ValueError(
            f"`out` (={folder}) holds imported weights ({IMPORT_FILE} says from where) and no training to go on with:"
            " choose another folder"
        )


def check_same_run(folder: Path, config: BaseConfig) -> None:
    """Refuses to go on with a run of another configuration; writes the configuration where there is none yet."""
    path = folder / CONFIG_FILE
    if (folder / "state.pt").exists():
        raise ValueError(
            f"`out` (={folder}) holds a run of adderkit before 0.1.0, whose state.pt this version does not read:"
            " train it anew in another folder"
        )
    if not path.exists():
        write_text(path, to_yaml(config))
        return
    differing = differences(folder, config)
    if differing:
        raise ValueError(
            f"`out` (={folder}) holds another run: {differing}."
            f" Go on with `adderkit train {path} --out {folder} --resume`, or choose another folder"
        )


def differences(folder: Path, config: BaseConfig) -> str:
    """What decides a run's weights otherwise in its folder than in a configuration; empty: nothing does.

    A `teacher_run` may lie elsewhere by now, as long as it holds the weights that the run's own copy has.

    Raises:
        ValueError: the folder's configuration can't be read.
    """
    stored, given = decisive(load_recipe(folder / CONFIG_FILE)), decisive(config)
    differing = [key for key in dict.fromkeys([*stored, *given]) if stored.get(key) != given.get(key)]
    if "teacher_run" in differing and _holds_teacher(config.teacher_run, folder):
        differing.remove("teacher_run")
    return "; ".join(f"`{key}` is {stored.get(key)!r} there and {given.get(key)!r} here" for key in differing)


def _holds_teacher(teacher_run: Path | None, folder: Path) -> bool:
    """Whether a `teacher_run` has the weights of the copy that a run's folder holds of its teacher."""
    copy = folder / "teacher.safetensors"
    return teacher_run is not None and same_network(copy, teacher_run / "last.safetensors")


def decisive(config: BaseConfig) -> dict[str, Any]:
    """What decides a run's weights and figures, but for the images themselves: a value per dotted key."""
    values = {key: value for key, value in to_values(config).items() if key not in _FREE}
    values["data"] = {key: value for key, value in values["data"].items() if key not in _FREE_DATA}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": inner_value for inner, inner_value in value.items()}
        else:
            flat[key] = value
    return flat
