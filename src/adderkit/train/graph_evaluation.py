"""Test batches as CUDA graphs: the forward pass of a net is captured in a phase, then replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adderkit.train.evaluate import tally
from adderkit.train.graph import Recorder, cause_of
from adderkit.train.interrupt import Stop
from adderkit.train.randomness import host_position

# Plain batches of a net before its capture, of which the last is watched: the first may compile kernels of their size.
PLAIN_BATCHES = 2


@dataclass
class _Batches:
    """A net's batches of one size: how many were plain, tensors that stay, and what fills `sums` from the others."""

    images: Tensor
    labels: Tensor
    sums: Tensor
    plain: int = 1
    replay: Callable[[], None] | None = None


class ReplayedTally:
    """`tally`, of a net's first batches plainly, of the others by a graph; all plainly where that can't be.

    A graph reads the net's weights and statistics where they lie, so it serves while they change in place. It is for
    batches of the first one's size: the last of a split, if smaller, is plain. Networks in evaluation mode only.

    Args:
        recorder: None: all batches are plain.
        host_state: names what a forward pass might read without the device; None: nothing.
        broke: called after a capture that broke off. It detaches other graphs from the random numbers on the device.
        stop: signals wait for the end of a capture.
        note: told once, where batches can't be captured, why.
    """

    def __init__(
        self,
        recorder: Recorder | None,
        host_state: Callable[[], str | None],
        broke: Callable[[], None],
        stop: Stop,
        note: Callable[[str], None],
    ) -> None:
        self._recorder, self._host_state, self._broke = recorder, host_state, broke
        self._stop, self._note = stop, note
        self.begin_phase()

    def begin_phase(self) -> None:
        """What a phase ended with may have replaced what the graphs read: they are let go."""
        self._batches: dict[nn.Module, _Batches] = {}

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Figures of one batch, as `tally` gives them."""
        own = self._batches.get(net)
        if self._recorder is None or (own is not None and images.shape != own.images.shape):
            return tally(net, images, labels)
        if own is None:
            sums = tally(net, images, labels)
            self._batches[net] = _Batches(torch.empty_like(images), torch.empty_like(labels), torch.empty_like(sums))
            return sums
        if own.plain < PLAIN_BATCHES:
            own.plain += 1
            return self._watched(self._recorder, net, images, labels)
        own.images.copy_(images)
        own.labels.copy_(labels)
        if own.replay is None:
            with self._stop.deferred():
                own.replay = self._capture(self._recorder, net, own)
            self._stop.check()
        if own.replay is None:
            return tally(net, images, labels)
        own.replay()
        return own.sums.clone()  # which the next batch overwrites

    def _watched(self, recorder: Recorder, net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """A plain batch that looks for what would break a capture, or would be frozen by it."""
        before = host_position()
        sums, obstacle = recorder.watched(lambda: tally(net, images, labels))
        if host_position() != before:
            obstacle = obstacle or "the network draws random numbers on the host"
        obstacle = obstacle or self._host_state()
        if obstacle is not None:
            self._give_up(obstacle)
        return sums

    def _capture(self, recorder: Recorder, net: nn.Module, own: _Batches) -> Callable[[], None] | None:
        def work() -> None:
            own.sums.copy_(tally(net, own.images, own.labels))

        try:
            return recorder.capture(work)
        except Exception as error:  # whatever breaks under capture alone: the evaluation goes on without
            self._give_up(cause_of(error))
            self._broke()
            return None

    def _give_up(self, why: str) -> None:
        self._recorder = None
        self._batches.clear()
        self._note(f"test batches are not replayed as a CUDA graph: {why}")
