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
_FILTERS = 4  # whose gradients are compared; their float64 sums run over the whole batch

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
    """Largest error of `output` on its first and last image, as a fraction of sum(|x| + |f|)."""
    pick = _first_and_last(x)
    x, f = x[pick].double(), f.double()
    expected = torch.empty(len(x), *output.shape[1:], dtype=torch.float64)
    reference.forward(x, f, expected, *_geometry(stride, padding))
    scale = conv2d(x.abs(), torch.ones_like(f[:1]), stride=stride, padding=padding)
    return _fraction(output[pick] - expected, scale + f.abs().sum((1, 2, 3)).view(1, -1, 1, 1))


def layer_errors(operation: Operation, x: Tensor, f: Tensor, g: Tensor, stride: int, padding: int) -> Errors:
    """Errors of a layer and its gradients on these very tensors, those that are timed then.

    Output and input gradient are compared on the first and the last image, the filter gradient for a few filters.
    """
    x, f = x.detach().requires_grad_(), f.detach().requires_grad_()
    output = operation(x, f, stride, padding)
    grad_x, grad_f = torch.autograd.grad(output, (x, f), g)
    x, f, output = x.detach(), f.detach(), output.detach()

    pick = _first_and_last(x)
    x_few, g_few, f_wide = x[pick].double(), g[pick].double(), f.double()
    expected_x = torch.empty(x_few.shape, dtype=torch.float64)
    reference.input_grad(g_few, x_few, f_wide, expected_x, *_geometry(stride, padding))
    ones = torch.ones(1, *f.shape[1:], dtype=torch.float64)
    scale_x = conv2d_input(x_few.shape, ones, g_few.abs().sum(1, keepdim=True), stride, padding)

    some = sorted({round(i * (len(f) - 1) / (_FILTERS - 1)) for i in range(_FILTERS)})
    x_wide, f_some, g_some = x.double(), f_wide[some], g[:, some].double()
    expected_f = _filter_gradient(x_wide, f_some, g_some, stride, padding)
    scale_f = _filter_gradient(x_wide.abs(), -f_some.abs(), g_some.abs(), stride, padding)
    return Errors(
        forward_error(output, x, f, stride, padding),
        _fraction(grad_x[pick] - expected_x, scale_x),
        _fraction(grad_f[some] - expected_f, scale_f),
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


def _first_and_last(x: Tensor) -> list[int]:
    return sorted({0, len(x) - 1})


def _geometry(stride: int, padding: int) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]:
    return (stride, stride), (padding, padding), (1, 1), 1
