"""Small runs on a few digits, in a home of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from adderkit.train import BaseConfig, config_type


class QuietDisplay:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.steps = 0
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def start(self, title: str, epochs: int, steps: int, done_steps: int) -> None: ...

    def step(self, epoch: int, losses: Any, top1: float, images: int) -> None:
        self.steps += 1

    def epoch(self, rows: Any) -> None: ...

    def stop(self) -> None: ...


@pytest.fixture
def display() -> QuietDisplay:
    return QuietDisplay()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Cached teachers stay within the test."""
    monkeypatch.setenv("ADDERKIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def make_config() -> Callable[..., BaseConfig]:
    """A configuration of 4 steps an epoch."""

    def make(**values: Any) -> BaseConfig:
        data = {"name": "digits", "train_rows": "0:128", "test_rows": "0:100"}
        return config_type()(**{"epochs": 2, "batch_size": 32, "device": "cpu", "data": data, **values})

    return make
