"""The learning rate over the phases of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from adderkit.distill import Phase


@dataclass(frozen=True)
class Schedule:
    """Where an epoch stands: its phase and the rates of both nets.

    Each net's rate falls as `(1 + cos(pi t)) / 2`, t from 0 to 1 over the epochs in which it is trained without a
    restart. t advances with every step (the official AdderNet code moves it once an epoch).
    """

    phases: tuple[Phase, ...]

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    def phase_index(self, epoch: int) -> int:
        """Index of the phase that holds an epoch, both counted from 0."""
        end = 0
        for index, phase in enumerate(self.phases):
            end += phase.epochs
            if epoch < end:
                return index
        raise ValueError(f"`epoch` (={epoch}) must be < {end}")

    def phase(self, epoch: int) -> Phase:
        return self.phases[self.phase_index(epoch)]

    def ends_phase(self, epoch: int) -> bool:
        """Whether an epoch is the last of its phase."""
        return epoch + 1 == self.epochs or self.phase_index(epoch + 1) != self.phase_index(epoch)

    def begins_student(self, epoch: int) -> bool:
        """Whether an epoch is the first in which the student is trained."""
        return self.phase(epoch).trains_student and not any(self.phase(past).trains_student for past in range(epoch))

    def student_factor(self, time: float) -> float:
        """Factor on the student's rate at `time`, in epochs since the start of the run."""
        return self._factor(time, [phase.trains_student for phase in self.phases], restarts=True)

    def teacher_factor(self, time: float) -> float:
        """Factor on a progressive teacher's rate at `time`, in epochs since the start of the run."""
        return self._factor(time, [phase.trains_teacher for phase in self.phases], restarts=False)

    def _factor(self, time: float, is_trained: list[bool], restarts: bool) -> float:
        current = self.phase_index(min(int(time), self.epochs - 1))
        if not is_trained[current]:
            return 0.0
        span = passed = 0.0  # epochs of training in this cosine, and how many of them lie behind
        start = 0
        for index, (phase, trained) in enumerate(zip(self.phases, is_trained, strict=True)):
            if restarts and phase.restarts_rate:
                if index > current:
                    break
                span = passed = 0.0
            if trained:
                span += phase.epochs
                passed += min(max(time - start, 0.0), phase.epochs)
            start += phase.epochs
        return (1 + math.cos(math.pi * passed / span)) / 2
