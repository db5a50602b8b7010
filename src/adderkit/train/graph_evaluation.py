"""Test batches as CUDA graphs: the forward pass of a net is captured once in a run, then replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adderkit.train.evaluate import tally
from adderkit.train.graph import Recorder, cause_of
from adderkit.train.randomness import host_position


@dataclass
class _Captured:
    """Tensors that stay, and what fills `sums` from the others; None until the second batch."""

    images: Tensor
    labels: Tensor
    sums: Tensor
    replay: Callable[[], None] | None = None


class ReplayedTally:
    """`tally`, of a net's first batch plainly, of the others by a graph; all plainly where that can't be.

    A graph reads the net's weights and statistics where they lie, so it serves while they change. It is for batches of
    one size: the last of a split, if smaller, is plain. Networks in evaluation mode only.

    Args:
        recorder: None: all batches are plain.
        note: told once, where batches can't be captured, why.
    """

    def __init__(self, recorder: Recorder | None, note: Callable[[str], None]) -> None:
        self._recorder, self._note = recorder, note
        self._captured: dict[nn.Module, _Captured] = {}

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Figures of one batch, as `tally` gives them."""
        own = self._captured.get(net)
        if self._recorder is None or (own is not None and images.shape != own.images.shape):
            return tally(net, images, labels)
        if own is None:
            return self._prepare(self._recorder, net, images, labels)
        own.images.copy_(images)
        own.labels.copy_(labels)
        if own.replay is None:
            own.replay = self._capture(self._recorder, net, own)
        if own.replay is None:
            return tally(net, images, labels)
        own.replay()
        return own.sums.clone()  # which the next batch overwrites

    def _prepare(self, recorder: Recorder, net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """A plain batch that looks for what would break a capture, or would be frozen by it."""
        before = host_position()
        sums, obstacle = recorder.watched(lambda: tally(net, images, labels))
        if host_position() != before:
            obstacle = obstacle or "the network draws random numbers on the host"
        if obstacle is None:
            self._captured[net] = _Captured(torch.empty_like(images), torch.empty_like(labels), torch.empty_like(sums))
        else:
            self._give_up(obstacle)
        return sums

    def _capture(self, recorder: Recorder, net: nn.Module, own: _Captured) -> Callable[[], None] | None:
        def work() -> None:
            own.sums.copy_(tally(net, own.images, own.labels))

        try:
            return recorder.capture(work)
        except Exception as error:  # whatever breaks under capture alone: the evaluation goes on without
            self._give_up(cause_of(error))
            return None

    def _give_up(self, why: str) -> None:
        self._recorder = None
        self._captured.clear()
        self._note(f"test batches are not replayed as a CUDA graph: {why}")
