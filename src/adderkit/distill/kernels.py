"""The kernels of PKKD: exponentials of raw operator outputs, on a scale taken from the data.

A 3x3 adder output is about -138, -277, -556 for 16, 32, 64 input channels at the start, so `exp(y)` underflows. Its
scale must come from the data; and since `exp(y / s) = exp(-m / s) exp((y + m) / s)`, subtracting the mean first only
changes a constant factor, which the linear map or the unit variance behind the kernel absorbs.

Theorem 1, which says what the convolution's kernel is, as code: `theorem1`, whose functions are here too.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from adderkit import collectives
from adderkit.distill.theorem1 import coefficient, exact, features, monomials, polynomial_kernel, truncated

__all__ = [
    "LIMIT",
    "RunningScale",
    "adder_kernel",
    "coefficient",
    "convolution_kernel",
    "exact",
    "features",
    "monomials",
    "polynomial_kernel",
    "truncated",
]

# exp(10) = 22,026 is already far outside what a linear map can use; beyond it one outlier would own the whole loss.
LIMIT = 10.0

_LARGEST = math.exp(LIMIT)


class RunningScale(nn.Module):
    """Running mean and deviation of a raw output, its centre and its unit: of all elements, or channel by channel.

    The first batch sets them, later ones move them by `momentum`; no gradient flows through them. In evaluation mode
    they stand still. Where several processes train together, a batch is that of all of them. [reconstruction: the paper
    does not say where sigma comes from]

    Args:
        momentum: share of the newest batch.
        channels: of the outputs, for statistics of each; None: of all elements together.
        device: of the statistics.
    """

    mean: Tensor
    deviation: Tensor
    batches: Tensor

    def __init__(self, momentum: float = 0.1, channels: int | None = None, device: torch.device | None = None) -> None:
        super().__init__()
        self.momentum = momentum
        shape = () if channels is None else (channels, 1, 1)
        self.register_buffer("mean", torch.zeros(shape, device=device))
        self.register_buffer("deviation", torch.ones(shape, device=device))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64, device=device))

    def forward(self, output: Tensor) -> Tensor:
        """The output less its running mean, in its own unit, float32 at least; divide by `deviation` to standardise."""
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        if self.training:
            self._follow(output.detach())
        return output - self.mean

    def _follow(self, output: Tensor) -> None:
        elements = output.numel() // self.mean.numel()
        # torch.std_mean takes six times as long on a CPU: an eighth of a whole training step of ResNet-8
        if self.mean.dim() == 0:
            mean = output.mean()
            deviation = torch.linalg.vector_norm(output - mean) / math.sqrt(elements)
        else:
            mean = output.mean((0, 2, 3), keepdim=True)[0]
            deviation = ((output - mean).square_().sum((0, 2, 3), keepdim=True)[0] / elements).sqrt()
        if collectives.process_count() > 1:
            count, mean, squares = collectives.pooled(elements, mean, deviation**2 * elements)
            deviation = (squares / count).sqrt()
        rate = torch.where(self.batches == 0, 1.0, self.momentum)
        self.mean.lerp_(mean.to(self.mean.dtype), rate)
        self.deviation.lerp_(deviation.clamp(min=1e-6).to(self.deviation.dtype), rate)
        self.batches.add_(1)


class _LimitedExponential(torch.autograd.Function):
    """`exp(min(factor * output, LIMIT))` in one new tensor.

    As product, `torch.clamp` and `torch.exp` it takes three; the last two were a quarter of a training step with every
    operator tapped, and exp takes three times as long as exp2 on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, factor: Tensor) -> Tensor:
        value = (output * (factor * math.log2(math.e))).exp2_().clamp_(max=_LARGEST)
        ctx.save_for_backward(output, factor, value)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        output, factor, value = ctx.saved_tensors
        slope = (grads[0] * value).masked_fill_(value >= _LARGEST, 0.0)
        of_factor = (slope * output).sum_to_size(factor.shape) if ctx.needs_input_grad[1] else None
        return slope.mul_(factor) if ctx.needs_input_grad[0] else None, of_factor


def _limited_exponential(output: Tensor, factor: Tensor | float) -> Tensor:
    if not isinstance(factor, Tensor):
        factor = torch.tensor(factor, dtype=output.dtype, device=output.device)
    return _LimitedExponential.apply(output, factor)  # type: ignore[no-any-return]


def convolution_kernel(output: Tensor, sigma: Tensor | float, sign: float = -1.0) -> Tensor:
    """`exp(sign o / (2 sigma^2))`, elementwise, with the exponent limited to 10.

    Source: PKKD supplementary, Theorem 1 (the left side of Eq. 7, sign -1).
    """
    return _limited_exponential(output, sign / (2 * sigma**2))


def adder_kernel(output: Tensor, sigma: Tensor | float, sign: float = 1.0) -> Tensor:
    """`exp(sign y / sigma)`, elementwise, with the exponent limited to 10.

    y = -||x - f||_1, so sign +1 is the Laplace kernel of patch and filter: it rises with their similarity.
    [reconstruction: the main paper's Eq. 7 is known second hand only]
    """
    return _limited_exponential(output, sign / sigma)
