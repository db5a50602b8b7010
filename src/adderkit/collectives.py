"""What the processes of one training share: statistics, rows, sums. A process alone gets back what it gave.

Everything here may be used inside a network or a distillation method. It talks over torch.distributed's default group;
every process must make the same calls in the same order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def process_count() -> int:
    """How many processes train together; 1 where torch.distributed does not run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def summed(tensor: Tensor) -> Tensor:
    """The sum over the processes, the same bits on each; not differentiable, `tensor` is left alone."""
    if process_count() == 1:
        return tensor
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def averaged(tensor: Tensor) -> Tensor:
    """The mean over the processes, the same bits on each, and exactly `tensor` where it is the same on all."""
    if process_count() == 1:
        return tensor
    rows = torch.stack(_of_all(tensor.detach().contiguous()))
    return rows[0] + (rows - rows[0]).sum(0) / len(rows)


def _of_all(own: Tensor) -> list[Tensor]:
    found = [torch.empty_like(own) for _ in range(process_count())]
    dist.all_gather(found, own)
    return found


class Moments(NamedTuple):
    """Number of elements behind each entry, their mean, and sum of squared deviations from that mean."""

    elements: Tensor
    mean: Tensor
    squares: Tensor


def pooled(count: int, mean: Tensor, squares: Tensor) -> Moments:
    """Moments of all processes' elements from those of each one's own.

    One exchange, and no difference of large numbers: the squares are moved from each process's mean to the common one
    (Chan, Golub, LeVeque, 1979), so that a mean far from 0, as adder outputs have it, costs no digits.

    Args:
        count: elements behind each entry here; may differ between processes.
        mean: of these, any shape, float32 or float64.
        squares: sum of squared deviations from `mean`, of its shape.
    """
    if process_count() == 1:
        return Moments(mean.new_tensor(float(count)), mean, squares)
    own = torch.cat([mean.new_full((1,), float(count)), mean.detach().reshape(-1), squares.detach().reshape(-1)])
    rows = torch.stack(_of_all(own))
    counts, means, sums = rows[:, :1], rows[:, 1 : 1 + mean.numel()], rows[:, 1 + mean.numel() :]
    total = counts.sum()
    # About the first mean, not about 0: equal means then give that very mean, without rounding.
    common = means[0] + (counts * (means - means[0])).sum(0) / total
    squares_about_common = (sums + counts * (means - common) ** 2).sum(0)
    return Moments(total, common.view_as(mean), squares_about_common.view_as(squares))


def gathered_rows(tensor: Tensor) -> Tensor:
    """The rows of all processes, (N, ...) to (processes * N, ...), in the order of the global batch; differentiable.

    For losses between the images of a batch (similarities of pairs, contrastive terms). Each process then computes the
    loss of the whole batch; gradients of the processes are summed here and averaged over the processes later, so that
    the update is exactly that of the one loss. N must be the same on each.
    """
    return tensor if process_count() == 1 else _GatheredRows.apply(tensor)  # pyright: ignore[reportReturnType]


class _GatheredRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = len(tensor)
        return torch.cat(_of_all(tensor.contiguous()))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        start = process_rank() * ctx.rows
        return summed(grad_outputs[0])[start : start + ctx.rows]
