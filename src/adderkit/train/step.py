"""One step of training: the gradients of both nets over all parts of a batch and all processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
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


class Sums(NamedTuple):
    """The figures of a step as they come about, on the device: reading them waits for it.

    Attributes:
        terms: the nets that the step trained, the teacher first, and the names of their loss terms.
        values: float64; of each net its terms, then how many images it got right, summed over the parts.
    """

    terms: tuple[tuple[Net, tuple[str, ...]], ...]
    values: Tensor


class Step:
    """Computes gradients; `gradients` leaves updating to the caller, who looks at the figures first.

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
        sums = self._compute(batch, phase)
        return self.figures(sums, self._processes.sums(sums.values.tolist()))

    def whole(self, batch: Iterable[tuple[Tensor, Tensor]], phase: Phase) -> Sums:
        """Gradients and updates, at the rates that are set, in one process; nothing on the host depends on a value."""
        sums = self._compute(batch, phase)
        for net in self.trained(phase):
            net.step()
        return sums

    def trained(self, phase: Phase) -> list[Net]:
        """The nets that a phase trains, the teacher first."""
        trains_teacher = self._teacher_reducer is not None and phase.trains_teacher
        nets = ((self._teacher, trains_teacher), (self._student, phase.trains_student))
        return [net for net, is_trained in nets if net is not None and is_trained]

    def clean(self, phase: Phase) -> None:
        """Forgets what a step that broke off left behind."""
        for net in self.trained(phase):
            net.forget_gradients()
        for net in (self._student, self._teacher):
            if net is not None:
                net.taps.clear()

    def host_state(self) -> str | None:
        """Names a piece of state that a step might read without the device, so that a replay would not."""
        networks = [(f"the {net.name}", net.network) for net in (self._student, self._teacher) if net is not None]
        device = next(self._student.network.parameters()).device
        for owner, module in (*networks, ("the method", self._method)):
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                if tensor.device != device:
                    return f"{owner}'s `{name}` lies on {tensor.device}"
            for part in module.modules():
                if type(part).get_extra_state is not nn.Module.get_extra_state:
                    return f"{owner}'s {type(part).__name__} has state that is no tensor (`get_extra_state`)"
        return None

    def _compute(self, batch: Iterable[tuple[Tensor, Tensor]], phase: Phase) -> Sums:
        tallies: dict[str, _Tally] = {}
        nets = self.trained(phase)
        for net in nets:
            net.forget_gradients()
            tallies[net.name] = _Tally()
        for index, (images, labels) in enumerate(batch, 1):
            is_last = index == self._parts
            taught = self._teach(images, labels, phase, tallies.get("teacher"), is_last)
            if phase.trains_student:
                self._learn(images, labels, taught, phase, tallies["student"], is_last)
        terms = tuple((net, tuple(tallies[net.name].names)) for net in nets)
        return Sums(terms, torch.cat([tallies[net.name].sums for net in nets]) if nets else torch.zeros(0))

    def _teach(
        self, images: Tensor, labels: Tensor, phase: Phase, tally: _Tally | None, is_last: bool
    ) -> NetOutput | None:
        teacher, reducer = self._teacher, self._teacher_reducer
        if teacher is None:
            return None
        if tally is None or reducer is None:
            if not phase.reads_teacher:
                return None
            with torch.no_grad():
                return teacher.forward(images)
        seen: list[NetOutput] = []

        def compute() -> dict[str, Tensor]:
            output = teacher.forward(images)
            seen.append(_detached(output))
            return {"ce": F.cross_entropy(output.logits, labels)}

        terms = reducer.backward(compute, self._parts, is_last)  # its graph is freed before the student's is built
        tally.add(["ce"], terms, seen[0].logits, labels)
        return seen[0] if phase.reads_teacher else None

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

    def figures(self, sums: Sums, values: Iterable[float]) -> list[Figures]:
        """The figures of a step.

        Args:
            sums: what the step gave.
            values: its values, read, and summed over the processes.
        """
        each = iter(values)
        shares = self._parts * self._processes.count
        figures: list[Figures] = []
        for net, names in sums.terms:
            losses = {name: next(each) / shares for name in names}
            figures.append(Figures(net, losses, next(each)))
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
