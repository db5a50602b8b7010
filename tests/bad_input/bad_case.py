"""What a case of bad input is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

TRAIN = ["train", "--out", "run", "--method", "none", "--epochs", "1", "--batch_size", "2", "--device", "cpu"]


class Case(NamedTuple):
    """A bad input, how the command line ends on it, and what the message must hold."""

    name: str
    build: Callable[[Path], list[str]]
    """writes files below the folder that the command line runs in; its arguments"""
    fragments: list[str]
    code: int = 2
    nobody: bool = False
    """to be run without the rights of root, who may read anything"""
