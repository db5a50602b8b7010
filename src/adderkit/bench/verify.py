"""What is wrong is not timed: results against the formulas in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d
from torch.nn.grad import conv2d_input, conv2d_weight

from adderkit.ops import reference

TOLERANCE = 1e-5  # of the sum of the magnitudes that are added up
_SAMPLE = 8  # filters and channels that are compared

Operation = Callable[[Tensor, Tensor, int, int], Tensor]
"""A layer: (input, filters, stride, padding) to output."""


class WrongResult(RuntimeError):
    """A contestant computes something else than the formula says."""


class Errors(NamedTuple):
    """Largest errors as fractions of sum(|x| + |f|), of sum |g| and of sum |g| (|x| + |f|)."""

    forward: float
    input_gradient: float
    filter_gradient: float


def forward_error(output: Tensor, x: Tensor, f: Tensor, stride: int, padding: int) -> float:
    """Largest error of `output` on its first and last image, for some filters, as a fraction of sum(|x| + |f|)."""
    images, filters = _some(len(x), 2), _some(len(f), _SAMPLE)
    x, f = x[images].double(), f[filters].double()
    found = output[images][:, filters]
    expected = torch.empty(found.shape, dtype=torch.float64, device=x.device)
    reference.forward(x, f, expected, *_geometry(stride, padding))
    scale = conv2d(x.abs(), torch.ones_like(f[:1]), stride=stride, padding=padding)
    return _fraction(found - expected, scale + f.abs().sum((1, 2, 3)).view(1, -1, 1, 1))


def layer_errors(operation: Operation, x: Tensor, f: Tensor, g: Tensor, stride: int, padding: int) -> Errors:
    """Errors of a layer and its gradients on these very tensors, those that are timed then.

    Compared are, as float64 takes its time: output and input gradient on the first and the last image, for some filters
    and channels; the filter gradient, whose sums run over the whole batch, for some filters and channels.
    """
    x, f = x.detach().requires_grad_(), f.detach().requires_grad_()
    output = operation(x, f, stride, padding)
    grad_x, grad_f = torch.autograd.grad(output, (x, f), g)
    x, f, output = x.detach(), f.detach(), output.detach()
    images, filters, channels = _some(len(x), 2), _some(len(f), _SAMPLE), _some(f.shape[1], _SAMPLE)

    x_few, g_few, f_few = x[images][:, channels].double(), g[images].double(), f[:, channels].double()
    expected_x = torch.empty(x_few.shape, dtype=torch.float64, device=x.device)
    reference.input_grad(g_few, x_few, f_few, expected_x, *_geometry(stride, padding))
    ones = torch.ones_like(f_few[:1, :1])
    one_channel = (len(images), 1, *x.shape[2:])
    scale_x = conv2d_input(one_channel, ones, g_few.abs().sum(1, keepdim=True), stride, padding)

    x_wide, g_wide, f_wide = x[:, channels].double(), g[:, filters].double(), f[filters][:, channels].double()
    expected_f = _filter_gradient(x_wide, f_wide, g_wide, stride, padding)
    scale_f = _filter_gradient(x_wide.abs(), -f_wide.abs(), g_wide.abs(), stride, padding)
    return Errors(
        forward_error(output, x, f, stride, padding),
        _fraction(grad_x[images][:, channels] - expected_x, scale_x),
        _fraction(grad_f[filters][:, channels] - expected_f, scale_f),
    )


def require(error: float, what: str) -> None:
    """Raises WrongResult where `error` is above the tolerance, or NaN."""
    if not error <= TOLERANCE:
        raise WrongResult(f"{what} is off by {error:.2g} of the sum of magnitudes, allowed {TOLERANCE:.0e}: not timed")


def _filter_gradient(x: Tensor, f: Tensor, g: Tensor, stride: int, padding: int) -> Tensor:
    """sum g (x - f), written as sum g x - f sum g: in float64 the difference is 1e-9 of the tolerance."""
    return conv2d_weight(x, f.shape, g, stride, padding) - f * g.sum((0, 2, 3)).view(-1, 1, 1, 1)


def _fraction(difference: Tensor, scale: Tensor) -> float:
    """max |difference| / scale; where nothing is added up the result must be zero itself."""
    return float((difference.abs() / scale.clamp(min=torch.finfo(torch.float64).tiny)).max())


def _some(count: int, most: int) -> list[int]:
    """At most `most` indices below `count`, spread evenly from the first to the last."""
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def _geometry(stride: int, padding: int) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]:
    return (stride, stride), (padding, padding), (1, 1), 1
