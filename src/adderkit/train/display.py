"""What a training shows while it runs: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from adderkit.train.record import Row

PLAIN_SECONDS = 30.0  # between plain lines within an epoch: a day's log stays under 3,000 lines


class Display(Protocol):
    """Told of everything that a user may want to see."""

    def note(self, text: str) -> None:
        """A line that stays."""
        ...

    def start(self, title: str, epochs: int, steps: int, done_steps: int) -> None:
        """A training of `epochs` x `steps` steps begins, or goes on after `done_steps`."""
        ...

    def step(self, epoch: int, losses: Mapping[str, float], top1: float, images: int) -> None:
        """One step is done: its losses, the running accuracy of the epoch, the images in it."""
        ...

    def epoch(self, rows: list[Row]) -> None:
        """An epoch is over: its rows of metrics."""
        ...

    def stop(self) -> None:
        """The training ended, well or not."""
        ...


class _Rate:
    """Images per second and time left, over the run since it began here."""

    def __init__(self, left_steps: int) -> None:
        self.begin = time.monotonic()
        self.images = 0
        self.steps = 0
        self.left_steps = left_steps

    def step(self, images: int) -> None:
        self.images += images
        self.steps += 1
        self.left_steps -= 1

    @property
    def images_per_second(self) -> float:
        return self.images / max(time.monotonic() - self.begin, 1e-9)

    @property
    def seconds_left(self) -> float:
        return self.left_steps * (time.monotonic() - self.begin) / max(self.steps, 1)


def _losses(losses: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in losses.items())


def _epoch_line(rows: list[Row], epochs: int) -> str:
    parts = [f"epoch {rows[0]['epoch']}/{epochs}"]
    for row in rows:
        trained = f" loss {row['train_loss']:.4f}" if "train_loss" in row else ""
        tested = f" test top-1 {100 * row['test_top1']:.2f} %" if "test_top1" in row else ""
        parts.append(f"{row['net']}{trained}{tested}")
    return " | ".join(parts)


class PlainDisplay:
    """Lines for logs and pipes."""

    def note(self, text: str) -> None:
        print(text, flush=True)

    def start(self, title: str, epochs: int, steps: int, done_steps: int) -> None:
        self.note(title)
        self._epochs, self._steps, self._done = epochs, steps, done_steps
        self._rate = _Rate(epochs * steps - done_steps)
        self._last = time.monotonic()

    def step(self, epoch: int, losses: Mapping[str, float], top1: float, images: int) -> None:
        self._rate.step(images)
        self._done += 1
        if time.monotonic() - self._last < PLAIN_SECONDS:
            return
        self._last = time.monotonic()
        self.note(
            f"  epoch {epoch}/{self._epochs} step {self._done - (epoch - 1) * self._steps}/{self._steps}:"
            f" {_losses(losses)}  top-1 {100 * top1:.1f} %  {self._rate.images_per_second:.0f} images/s,"
            f" {_duration(self._rate.seconds_left)} left"
        )

    def epoch(self, rows: list[Row]) -> None:
        self._last = time.monotonic()
        left = f" | {self._rate.images_per_second:.0f} images/s, {_duration(self._rate.seconds_left)} left"
        self.note(_epoch_line(rows, self._epochs) + left)

    def stop(self) -> None:
        sys.stdout.flush()


class SilentDisplay:
    """Shows nothing: for all processes of a run but the first."""

    def note(self, text: str) -> None: ...

    def start(self, title: str, epochs: int, steps: int, done_steps: int) -> None: ...

    def step(self, epoch: int, losses: Mapping[str, float], top1: float, images: int) -> None: ...

    def epoch(self, rows: list[Row]) -> None: ...

    def stop(self) -> None: ...


class LiveDisplay:
    """A progress bar with losses, accuracy, images per second and time left; epochs stay as lines above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def start(self, title: str, epochs: int, steps: int, done_steps: int) -> None:
        self.note(title)
        self._epochs = epochs
        self._rate = _Rate(epochs * steps - done_steps)
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[losses]}"),
            TextColumn("[bold]{task.fields[top1]}"),
            TextColumn("{task.fields[rate]} images/s"),
            TimeRemainingColumn(compact=True),
            console=self._console,
        )
        self._task = self._progress.add_task(
            "", total=epochs * steps, completed=done_steps, epoch=f"-/{epochs}", losses="", top1="", rate="-"
        )
        self._progress.start()

    def step(self, epoch: int, losses: Mapping[str, float], top1: float, images: int) -> None:
        self._rate.step(images)
        if self._progress is not None:
            self._progress.update(
                self._task,
                advance=1,
                epoch=f"{epoch}/{self._epochs}",
                losses=_losses(losses),
                top1=f"{100 * top1:.1f} %",
                rate=f"{self._rate.images_per_second:.0f}",
            )

    def epoch(self, rows: list[Row]) -> None:
        self.note(_epoch_line(rows, self._epochs))

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def make_display() -> Display:
    """Live where standard output is a terminal, plain elsewhere."""
    console = Console()
    return LiveDisplay(console) if console.is_terminal else PlainDisplay()
