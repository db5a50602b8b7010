"""The formulations of an adder layer that a user would otherwise take, for square strides and paddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import unfold

from adderkit.bench.shapes import Layer

# The whole batch where the official formulation, which holds up to three temporaries of 4 bytes an operation, stays
# within 4 GB: that is so for ResNet-20 at batch 128. Else a part of the batch whose call takes about a second, 0.1 to
# 0.4 G operations a second being its speed; a smaller batch favours it, if anything.
MOST_OPERATIONS = 4_000_000_000 // (3 * 4)
PART_OPERATIONS = 100_000_000


def images(layer: Layer, batch: int) -> int:
    """How many images of the batch the formulations here are timed on."""
    return batch if batch * layer.operations <= MOST_OPERATIONS else part(layer, batch)


def part(layer: Layer, batch: int) -> int:
    """How many of them a call of about a second takes."""
    return max(1, min(batch, PART_OPERATIONS // layer.operations))


def unfold_cdist(x: Tensor, f: Tensor, stride: int, padding: int) -> Tensor:
    """What PyTorch offers for the sum: patches as vectors, their L1 distances from the filters."""
    patches = unfold(x, f.shape[2:], padding=padding, stride=stride).transpose(1, 2)
    distance = torch.cdist(patches, f.reshape(1, len(f), -1), p=1)
    return -distance.transpose(1, 2).reshape(len(x), len(f), *_out_size(x, f, stride, padding))


def official(x: Tensor, f: Tensor, stride: int, padding: int) -> Tensor:
    """The formulation of the official AdderNet code: all differences at once, (C_out, C_in K_h K_w, positions).

    Differs: without the adaptive rate that the official code applies to the filter gradient in its backward pass; here
    that is the optimiser's (`train.AdaptiveLocalRate`). Both cost next to nothing.
    """
    columns = unfold(x, f.shape[2:], padding=padding, stride=stride)
    columns = columns.permute(1, 2, 0).reshape(columns.shape[1], -1)
    output: Tensor = _AllDifferences.apply(f.reshape(len(f), -1), columns)  # type: ignore[assignment]
    return output.view(len(f), *_out_size(x, f, stride, padding), len(x)).permute(3, 0, 1, 2)


class _AllDifferences(Function):
    """filters (C_out, K), columns (K, positions) to (C_out, positions), with the surrogate gradients."""

    @staticmethod
    def forward(ctx: Any, filters: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(filters, columns)
        return -(columns[None] - filters[:, :, None]).abs().sum(1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        filters, columns = ctx.saved_tensors
        g = grad_outputs[0][:, None]
        grad_filters = ((columns[None] - filters[:, :, None]) * g).sum(2)
        grad_columns = ((filters[:, :, None] - columns[None]).clamp(-1, 1) * g).sum(0)
        return grad_filters, grad_columns


def _out_size(x: Tensor, f: Tensor, stride: int, padding: int) -> tuple[int, int]:
    height, width = ((x.shape[2 + a] + 2 * padding - f.shape[2 + a]) // stride + 1 for a in range(2))
    return height, width
