"""Files that are whole or not there: written under a temporary name, synced, renamed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

STATE_FORMAT = 1


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary path beside `path`, syncs what it wrote and renames it to `path`."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes the state of a training: tensors, plain containers and numbers."""
    write_atomically(path, lambda temporary: torch.save({"format": STATE_FORMAT, **state}, temporary))


def load_state(path: Path) -> dict[str, Any]:
    """Reads the state of a training on the CPU. Nothing in the file is executed (`weights_only`).

    Raises:
        ValueError: a damaged file, or one of another format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"checkpoint `{path}` can't be read: {error}") from None
    found = state.get("format") if isinstance(state, dict) else None
    if found != STATE_FORMAT:
        raise ValueError(f"checkpoint `{path}` has format {found!r}; this version reads {STATE_FORMAT}")
    return state
