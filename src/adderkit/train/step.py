"""One step of training: the gradients of both nets over all parts of a batch and all processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from adderkit.distill import Batch, Method, NetOutput, Phase
from adderkit.train.distributed import Processes
from adderkit.train.evaluate import count_correct
from adderkit.train.net import Net
from adderkit.train.reducer import Reducer


class Figures(NamedTuple):
    """What a step was for one net: its loss terms, means over the whole batch, and how many images it got right."""

    net: Net
    losses: dict[str, float]
    correct: float


class Step:
    """Computes gradients; updating is left to the caller, who looks at the figures first.

    Args:
        student: with its optimiser and taps.
        teacher: alike; None where the method needs none, without an optimiser where it is fixed.
        method: set up.
        parts: into which every batch is cut, for memory: the gradients of all of them make one update. A batch
            normalisation sees one part at a time, and so does the method.
        processes: those that train together.
    """

    def __init__(self, student: Net, teacher: Net | None, method: Method, parts: int, processes: Processes) -> None:
        self._student, self._teacher, self._method = student, teacher, method
        self._parts, self._processes = parts, processes
        self._student_reducer = Reducer(student.network, method)
        is_trained = teacher is not None and teacher.optimizer is not None
        self._teacher_reducer = Reducer(teacher.network) if teacher is not None and is_trained else None

    def gradients(self, batch: Iterable[tuple[Tensor, Tensor]], phase: Phase) -> list[Figures]:
        """Leaves the gradients of the mean over a whole batch in the nets that `phase` trains.

        Args:
            batch: this process's images and labels of each part.
            phase: the phase under way.

        Returns:
            The figures of these nets over the batches of all processes, the teacher's first.
        """
        tallies: dict[str, _Tally] = {}
        trains_teacher = self._teacher_reducer is not None and phase.trains_teacher
        nets = [net for net, trained in ((self._teacher, trains_teacher), (self._student, phase.trains_student))
                if net is not None and trained]  # fmt: skip
        for net in nets:
            net.forget_gradients()
            tallies[net.name] = _Tally()
        for index, (images, labels) in enumerate(batch, 1):
            is_last = index == self._parts
            taught = self._teach(images, labels, tallies.get("teacher"), is_last)
            if phase.trains_student:
                self._learn(images, labels, taught, phase, tallies["student"], is_last)
        return self._figures(nets, tallies)

    def _teach(self, images: Tensor, labels: Tensor, tally: _Tally | None, is_last: bool) -> NetOutput | None:
        teacher, reducer = self._teacher, self._teacher_reducer
        if teacher is None:
            return None
        if tally is None or reducer is None:
            with torch.no_grad():
                return teacher.forward(images)
        seen: list[NetOutput] = []

        def compute() -> dict[str, Tensor]:
            output = teacher.forward(images)
            seen.append(_detached(output))
            return {"ce": F.cross_entropy(output.logits, labels)}

        terms = reducer.backward(compute, self._parts, is_last)  # its graph is freed before the student's is built
        tally.add(["ce"], terms, seen[0].logits, labels)
        return seen[0]

    def _learn(
        self, images: Tensor, labels: Tensor, taught: NetOutput | None, phase: Phase, tally: _Tally, is_last: bool
    ) -> None:
        names: list[str] = []
        seen: list[Tensor] = []

        def compute() -> dict[str, Tensor]:
            output = self._student.forward(images)
            terms = self._method.losses(Batch(images, labels, output, taught, phase))
            names.extend(terms)
            seen.append(output.logits.detach())
            return terms

        terms = self._student_reducer.backward(compute, self._parts, is_last)
        tally.add(names, terms, seen[0], labels)

    def _figures(self, nets: list[Net], tallies: dict[str, _Tally]) -> list[Figures]:
        sums = torch.cat([tallies[net.name].sums for net in nets]) if nets else torch.zeros(0)
        values = iter(self._processes.sums(sums.tolist()))
        shares = self._parts * self._processes.count
        figures: list[Figures] = []
        for net in nets:
            losses = {name: next(values) / shares for name in tallies[net.name].names}
            figures.append(Figures(net, losses, next(values)))
        return figures


class _Tally:
    """Sums over the parts of a step, on the device: reading them waits for it."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums = torch.zeros(0)

    def add(self, names: list[str], terms: list[Tensor], logits: Tensor, labels: Tensor) -> None:
        figures = torch.stack([figure.double() for figure in (*terms, count_correct(logits, labels))])
        self.sums = figures if not self.names else self.sums + figures
        self.names = names


def _detached(output: NetOutput) -> NetOutput:
    return NetOutput(output.logits.detach(), {path: tap.detach() for path, tap in output.taps.items()})
