"""Batch normalisation over the batches of all processes that train together, on the CPU too.

`torch.nn.SyncBatchNorm` refuses CPU tensors. This one computes with torch's ordinary operations and exchanges once
forward (count, mean, squares per channel) and once backward (two sums per channel).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from adderkit import collectives


def batch_norm_of_all(
    input: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """`F.batch_norm` in training mode with the statistics of all processes' batches; alone, `F.batch_norm` itself.

    Args:
        input: (N, C, ...), N may differ between processes.
        weight: (C,) or None.
        bias: (C,) or None.
        eps: added to the variance.
    """
    if collectives.process_count() == 1:
        return F.batch_norm(input, None, None, weight, bias, training=True, eps=eps)
    return _normalise(input, weight, bias, _moments(input), eps)


class SyncBatchNorm(_BatchNorm):
    """As `nn.BatchNorm1d`, `2d` and `3d` in one, over the batches of all processes: same parameters, same names.

    In evaluation, and in a process alone, it computes what they compute.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"`input` ({input.dim()} dimensions) must have 2 or more: (N, C, ...)")

    def forward(self, input: Tensor) -> Tensor:
        if collectives.process_count() == 1 or not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        moments = _moments(input)
        if moments.elements < 2:
            raise ValueError(f"`input` {tuple(input.shape)}: more than 1 value per channel is needed in training")
        self._follow(moments)
        return _normalise(input, self.weight, self.bias, moments, self.eps)

    @torch.no_grad()
    def _follow(self, moments: collectives.Moments) -> None:
        mean, variance, batches = self.running_mean, self.running_var, self.num_batches_tracked
        if mean is None or variance is None or batches is None:
            return
        batches.add_(1)
        rate = 1.0 / float(batches) if self.momentum is None else self.momentum
        mean.lerp_(moments.mean.to(mean.dtype), rate)
        variance.lerp_((moments.squares / (moments.elements - 1)).to(variance.dtype), rate)


def synchronise(model: nn.Module) -> None:
    """Makes the batch normalisations inside `model` take their statistics over all processes, in place.

    Parameters stay the very same tensors, paths and state dicts keep their names. Call it before anything puts hooks
    on the model or builds an optimiser's groups from it. On CUDA the layers become `torch.nn.SyncBatchNorm`.
    """
    made: dict[_BatchNorm, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm) and not isinstance(child, (SyncBatchNorm, nn.SyncBatchNorm)):
                if child not in made:
                    made[child] = _converted(child)
                setattr(parent, name, made[child])


def _converted(layer: _BatchNorm) -> nn.Module:
    tensors = (layer.weight, layer.running_mean)
    if any(tensor is not None and tensor.is_cuda for tensor in tensors):
        return nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    new = SyncBatchNorm(
        layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats, device="meta"
    )
    new._parameters, new._buffers = dict(layer._parameters), dict(layer._buffers)
    return new.train(layer.training)


def _dims(input: Tensor) -> list[int]:
    return [0, *range(2, input.dim())]


def _wide(input: Tensor) -> Tensor:
    return input.to(torch.promote_types(input.dtype, torch.float32))


def _column(values: Tensor, input: Tensor) -> Tensor:
    """(C,) so that it goes with (N, C, ...)."""
    return values.view(1, -1, *[1] * (input.dim() - 2))


@torch.no_grad()
def _moments(input: Tensor) -> collectives.Moments:
    values = _wide(input)
    mean = values.mean(_dims(values))
    squares = (values - _column(mean, values)).square_().sum(_dims(values))
    return collectives.pooled(values.numel() // values.shape[1], mean, squares)


def _normalise(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, moments: collectives.Moments, eps: float
) -> Tensor:
    variance = moments.squares / moments.elements
    return _Normalise.apply(input, weight, bias, moments.mean, variance, moments.elements, eps)  # pyright: ignore[reportReturnType]


class _Normalise(torch.autograd.Function):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, where mean and variance are functions of every x.

    With h = (x - mean) / sqrt(variance + eps) and sums over the batches of all processes:
    dx = weight / sqrt(variance + eps) * (dy - sum(dy) / count - h sum(dy h) / count).
    Source: Ioffe, Szegedy, Batch Normalization, ICML 2015, section 3 (simplified).
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(input, weight, mean, variance, count)
        ctx.eps = eps
        return F.batch_norm(input, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        input, weight, mean, variance, count = ctx.saved_tensors
        wide, inverse = _wide(grad_outputs[0]), (variance + ctx.eps).rsqrt()
        normalised = (_wide(input) - _column(mean, input)).mul_(_column(inverse, input))
        sums = torch.stack([wide.sum(_dims(wide)), (wide * normalised).sum(_dims(wide))])
        for_input = None
        if ctx.needs_input_grad[0]:
            of_gradient, of_product = collectives.summed(sums) / count
            factor = inverse if weight is None else inverse * weight
            for_input = wide - _column(of_gradient, wide) - normalised.mul_(_column(of_product, wide))
            for_input = (for_input * _column(factor, wide)).to(input.dtype)
        for_bias, for_weight = sums.to(input.dtype if weight is None else weight.dtype)
        return (
            for_input,
            for_weight if ctx.needs_input_grad[1] else None,
            for_bias if ctx.needs_input_grad[2] else None,
            *(None,) * 4,
        )
