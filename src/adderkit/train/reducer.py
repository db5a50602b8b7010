"""Gradients over several processes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from adderkit import collectives


class Reducer:
    """Runs a net forward and backward so that its gradients become the means over the processes.

    DistributedDataParallel is given the forward pass and the loss as one module, so that it sees which parameters the
    loss reaches: a method may compare taps alone and leave the classifier without a gradient, in some of its phases.
    Such a gradient stays None, as in one process.

    Args:
        modules: whose parameters are trained; all on one device.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self._together = _Computation(modules) if collectives.process_count() == 1 else _parallel(modules)

    def backward(self, compute: Callable[[], dict[str, Tensor]], parts: int = 1, is_last: bool = True) -> list[Tensor]:
        """Adds the gradients of the sum of what `compute` returns, divided by `parts`; exchanged with the last part.

        Returns:
            The terms, detached.
        """
        with self._exchanging(is_last):
            terms = list(self._together(compute).values())
            loss = torch.stack(terms).sum()
            (loss / parts if parts > 1 else loss).backward()
        return [term.detach() for term in terms]

    def _exchanging(self, is_last: bool) -> AbstractContextManager[Any]:
        together = self._together
        return together.no_sync() if isinstance(together, DistributedDataParallel) and not is_last else nullcontext()


class _Computation(nn.Module):
    def __init__(self, modules: tuple[nn.Module, ...], device: torch.device | None = None) -> None:
        super().__init__()
        self.trained = nn.ModuleList(modules)
        if device is not None:
            # Reached by no loss: DDP, told to look for such parameters, warns of wasted time where there are none.
            self.unreached = nn.Parameter(torch.zeros(1, device=device))

    def forward(self, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        return compute()


def _parallel(modules: tuple[nn.Module, ...]) -> DistributedDataParallel:
    device = next(modules[0].parameters()).device
    # Buffers are the same everywhere already, or averaged by `average_statistics`. torch 2.13 renamed the option.
    names = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    options: dict[str, Any] = {name: False, "find_unused_parameters": True}
    return DistributedDataParallel(_Computation(modules, device), **options)
