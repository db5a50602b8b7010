"""What tests of trainings share: quiet displays and a home of their own."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest


class QuietDisplay:
    """Counts what it is told; presses Ctrl-C after `stop_after` steps."""

    def __init__(self, stop_after: int = 0) -> None:
        self.steps = 0
        self.stop_after = stop_after
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def start(self, title: str, epochs: int, steps: int, done_steps: int) -> None: ...

    def step(self, epoch: int, losses: Any, top1: float, images: int) -> None:
        self.steps += 1
        if self.steps == self.stop_after:
            signal.raise_signal(signal.SIGINT)

    def epoch(self, rows: Any) -> None: ...

    def stop(self) -> None: ...


@pytest.fixture
def display() -> QuietDisplay:
    return QuietDisplay()


@pytest.fixture
def stop_after() -> Callable[[int], QuietDisplay]:
    """Makes a display that presses Ctrl-C after so many steps."""
    return QuietDisplay


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Downloads and cached teachers stay within the test."""
    monkeypatch.setenv("ADDERKIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
