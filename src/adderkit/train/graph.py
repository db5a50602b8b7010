"""A training step as one CUDA graph: captured once in a phase, then replayed; the GPU never waits for Python."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from adderkit.distill import Phase
from adderkit.train.randomness import host_position
from adderkit.train.step import Step, Sums

# Plain steps of a phase before its capture: kernels are compiled, momentum begins, libraries take their workspaces.
PLAIN_STEPS = 3

_broken: list[torch.cuda.CUDAGraph] = []

T = TypeVar("T")
Batch = Iterable[tuple[Tensor, Tensor]]


class Recorder(Protocol):
    """What captures and replays; tests have one for the CPU."""

    def running(self) -> AbstractContextManager[None]:
        """Everything that belongs to the training runs within."""
        ...

    def watched(self, work: Callable[[], T]) -> tuple[T, str | None]:
        """Does `work`, and says where it waited for the device, if it did."""
        ...

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Captures what `work` asks the device to do, without doing it.

        Returns:
            Does it, any number of times.

        Raises:
            Exception: any, where it can't be captured.
        """
        ...


class CudaRecorder:
    """Captures CUDA graphs.

    The whole training runs on the stream of the captures: nodes of autograd belong to the stream they were made on, and
    one that outlived its plain step would draw another stream into the capture.

    Args:
        device: the current GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            self._stream.synchronize()  # no graph may be let go while it runs

    def watched(self, work: Callable[[], T]) -> tuple[T, str | None]:
        waits: list[str] = []
        others: list[tuple[Any, ...]] = []

        def tell(message: Warning, category: type[Warning], file: str, line: int, *rest: object) -> None:
            if "called a synchronizing" in str(message):
                waits.append("{}, line {}, waits for the GPU".format(*_line_outside_torch(file)))
            elif "ynchroniz" not in str(message):  # nor torch's word that this mode is a prototype
                others.append((message, category, file, line))

        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = tell  # type: ignore[assignment]
            torch.cuda.set_sync_debug_mode("warn")
            try:
                result = work()
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        for warning in others:
            warnings.warn_explicit(*warning)
        return result, waits[0] if waits else None

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        try:
            # Calls of other threads do not count: one of a loader's may pin memory meanwhile.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                work()
        except BaseException:
            if not _has_ended(graph):
                # torch's allocator goes on asking it which streams are its own, also when the next capture allocates.
                _broken.append(graph)
                # The generator waits for the capture's end, and the next number drawn would fail.
                generator = torch.cuda.default_generators[self._stream.device.index]
                generator.graphsafe_set_state(generator.clone_state())
            raise
        return graph.replay


def _line_outside_torch(file: str) -> tuple[str, int]:
    """The line that asked for what `file` warns of, which torch may name as its own: `nn/functional.py` says little."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename != file:
        frame = frame.f_back
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == "torch":
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def _has_ended(graph: torch.cuda.CUDAGraph) -> bool:
    """Whether a capture came to its end, as it does where Python alone went wrong within it."""
    try:
        graph.pool()
    except RuntimeError:
        return False
    return True


class Replayed:
    """Does whole steps: the first of a phase plainly, then captured ones; all plainly where that can't be.

    All of them are steps of the training, the one that is captured too (it is replayed at once), so nothing has to be
    put back. Batches are copied into tensors that stay; with several parts, into those of each.

    Args:
        step: does a step plainly.
        recorder: None: all steps are plain.
        note: told once, where steps can't be captured, why.
    """

    def __init__(self, step: Step, recorder: Recorder | None, note: Callable[[str], None]) -> None:
        self._step, self._recorder, self._note = step, recorder, note
        self.begin_phase()

    def begin_phase(self) -> None:
        """Other terms, other nets: what was captured is let go."""
        self._done = 0
        self._replay: Callable[[], None] | None = None
        self._parts: list[tuple[Tensor, Tensor]] = []
        self._sums: Sums | None = None

    def __call__(self, batch: Batch, phase: Phase) -> Sums:
        """One step.

        Returns:
            Its figures, in a tensor that the next step may overwrite.
        """
        if self._replay is None or self._sums is None:
            self._done += 1
            if self._recorder is None or self._done < PLAIN_STEPS:
                return self._step.whole(batch, phase)
            if self._done == PLAIN_STEPS:
                return self._prepare(self._recorder, list(batch), phase)
            return self._capture(self._recorder, batch, phase)
        self._fill(batch)
        self._replay()
        return self._sums

    def _prepare(self, recorder: Recorder, parts: list[tuple[Tensor, Tensor]], phase: Phase) -> Sums:
        """A plain step that looks for what would break a capture, or would be silently frozen by it."""
        before = host_position()
        sums, obstacle = recorder.watched(lambda: self._step.whole(parts, phase))
        if host_position() != before:
            obstacle = obstacle or "it draws random numbers on the host"
        self._parts = [(torch.empty_like(images), torch.empty_like(labels)) for images, labels in parts]
        self._sums = Sums(sums.terms, torch.empty_like(sums.values))
        obstacle = obstacle or self._step.host_state()
        if obstacle is not None:
            self._give_up(obstacle)
        return sums

    def _capture(self, recorder: Recorder, batch: Batch, phase: Phase) -> Sums:
        self._fill(batch)
        sums = self._sums
        if sums is None:
            raise RuntimeError("nothing was prepared")

        def work() -> None:
            found = self._step.whole(self._parts, phase)
            if found.terms != sums.terms:
                raise ValueError("its loss terms change from step to step")
            sums.values.copy_(found.values)

        parts = self._parts
        try:
            self._replay = recorder.capture(work)
        except Exception as error:  # whatever breaks under capture alone: the training goes on without
            self._give_up(cause_of(error))
        if self._replay is None:  # here the error, and all tensors of its traceback, are gone
            self._step.clean(phase)
            return self._step.whole(parts, phase)
        self._replay()
        return sums

    def _fill(self, batch: Batch) -> None:
        for (images, labels), (own_images, own_labels) in zip(batch, self._parts, strict=True):
            own_images.copy_(images)
            own_labels.copy_(labels)

    def _give_up(self, why: str) -> None:
        self._recorder, self._parts, self._sums = None, [], None
        self._note(f"steps are not replayed as a CUDA graph: {why}")


def cause_of(error: Exception) -> str:
    """Why a capture broke off, in one line."""
    first = error.__context__ or error  # a capture that broke off also fails at its end
    return f"{type(first).__name__}: {str(first).strip().partition(chr(10))[0]}"
