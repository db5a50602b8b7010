"""Steps that the host does not wait for: their figures are read some steps later."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch

from adderkit.distill import Phase
from adderkit.train.distributed import Processes
from adderkit.train.graph import Batch, CudaRecorder, Recorder, Replayed
from adderkit.train.graph_evaluation import ReplayedTally
from adderkit.train.interrupt import Stop
from adderkit.train.step import Figures, Step, Sums

# Steps whose figures are under way. It bounds what is done in vain after a NaN, and what SIGTERM waits for.
BEHIND = 8


def is_ahead(device: torch.device, processes: Processes) -> bool:
    """Whether the host runs ahead of the device. Several processes look at one another's figures in every step."""
    return device.type == "cuda" and processes.count == 1


def recorder_for(device: torch.device) -> Recorder | None:
    """What captures steps on a device; None where nothing does."""
    return CudaRecorder(device) if device.type == "cuda" else None


class Ahead:
    """Does whole steps and keeps their figures until they are asked for.

    Args:
        step: does one.
        recorder: captures them; None: they are not captured.
        stop: knows of signals.
        note: told why steps are not captured, where they can't be.

    Attributes:
        tally: what `evaluate` takes, captured alike.
    """

    def __init__(self, step: Step, recorder: Recorder | None, stop: Stop, note: Callable[[str], None]) -> None:
        self._step, self._recorder = step, recorder
        self._replayed = Replayed(step, recorder, note)
        self.tally = ReplayedTally(recorder, step.host_state, self._replayed.begin_phase, stop, note)
        self._waiting: deque[tuple[int, _OnItsWay]] = deque()

    def running(self) -> AbstractContextManager[None]:
        """The whole training runs within."""
        return nullcontext() if self._recorder is None else self._recorder.running()

    def begin_phase(self) -> None:
        """The next step is the first of a phase."""
        self._replayed.begin_phase()
        self.tally.begin_phase()

    def do(self, number: int, batch: Batch, phase: Phase) -> None:
        """One step, at the rates that are set.

        Args:
            number: of the step, which comes back with its figures.
            batch: images and labels of each part.
            phase: the phase under way.
        """
        self._waiting.append((number, _OnItsWay(self._replayed(batch, phase))))

    def read(self, behind: int = 0) -> Iterator[tuple[int, list[Figures]]]:
        """Numbers and figures of the steps done, in order, but of the last `behind`; waits for the device."""
        while len(self._waiting) > behind:
            number, sums = self._waiting.popleft()
            yield number, self._step.figures(sums.sums, sums.read())


class _OnItsWay:
    """Figures of a step on their way to the host."""

    def __init__(self, sums: Sums) -> None:
        self.sums, values = sums, sums.values
        self._event: torch.cuda.Event | None = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event(blocking=True)  # other trainings may want the core
            self._event.record()
        else:
            self._values = values.clone()

    def read(self) -> list[float]:
        if self._event is not None:
            self._event.synchronize()
        return self._values.tolist()
