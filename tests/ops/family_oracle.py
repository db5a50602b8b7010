"""The whole family in float64 NumPy, from the definitions: gathered taps in n dimensions, scattered taps transposed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from adder_oracle import Array, Expected


def adder(
    x: Array, f: Array, g: Array, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
) -> Expected:
    """Convolution of any number of dimensions: y[p] = -sum over taps t of |x[p * stride + t * dilation] - f[t]|."""
    margins = [(0, 0), (0, 0), *((size, size) for size in padding)]
    padded = np.pad(x, margins)
    total = _Sums(padded, f, (len(x), len(f), *g.shape[2:]))
    channels, filters = x.shape[1] // groups, len(f) // groups
    for group, position, tap in product(range(groups), np.ndindex(*g.shape[2:]), np.ndindex(*f.shape[2:])):
        c = slice(group * channels, (group + 1) * channels)
        o = slice(group * filters, (group + 1) * filters)
        source = tuple(p * s + t * d for p, s, t, d in zip(position, stride, tap, dilation, strict=True))
        total.add(g, (slice(None), c, *source), (o, slice(None), *tap), (slice(None), o, *position), False)
    inside = (slice(None), slice(None), *(slice(m[0], m[0] + n) for m, n in zip(margins[2:], x.shape[2:], strict=True)))
    return total.expected(inside)


def adder_transpose(
    x: Array, f: Array, g: Array, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
) -> Expected:
    """Every input element i adds -|x[i] - f[t]| to the output i * stride + t * dilation - padding, where there is one.

    Shape: f (C_in, C_out / groups, *taps); the output's sizes are those of `g`.
    """
    total = _Sums(x, f, (len(x), f.shape[1] * groups, *g.shape[2:]))
    channels, filters = x.shape[1] // groups, f.shape[1]
    for group, position, tap in product(range(groups), np.ndindex(*x.shape[2:]), np.ndindex(*f.shape[2:])):
        c = slice(group * channels, (group + 1) * channels)
        o = slice(group * filters, (group + 1) * filters)
        moves = zip(position, stride, tap, dilation, padding, strict=True)
        target = tuple(i * s + t * d - p for i, s, t, d, p in moves)
        if all(0 <= at < size for at, size in zip(target, g.shape[2:], strict=True)):
            total.add(g, (slice(None), c, *position), (c, slice(None), *tap), (slice(None), o, *target), True)
    return total.expected(np.s_[:])


class _Sums:
    def __init__(self, x: Array, f: Array, shape: tuple[int, ...]) -> None:
        self.x, self.f = x, f
        self.output, self.output_scale = np.zeros(shape), np.zeros(shape)
        self.grad_input, self.grad_input_scale = np.zeros_like(x), np.zeros_like(x)
        self.grad_weight, self.grad_weight_scale = np.zeros_like(f), np.zeros_like(f)

    def add(self, g: Array, source: tuple, tap: tuple, target: tuple, is_transposed: bool) -> None:
        """Adds one tap at one position, for all images, channels and filters of a group."""
        x, f = self.x[source][:, None, :], self.f[tap]  # (N, 1, C), (O, C)
        f = (f.T if is_transposed else f)[None]
        grad, difference, magnitude = g[target][:, :, None], x - f, np.abs(x) + np.abs(f)
        self.output[target] -= np.abs(difference).sum(2)
        self.output_scale[target] += magnitude.sum(2)
        self.grad_input[source] += (grad * np.clip(-difference, -1, 1)).sum(1)
        self.grad_input_scale[source] += np.abs(grad * np.ones_like(difference)).sum(1)
        back = (grad * difference).sum(0), (np.abs(grad) * magnitude).sum(0)  # (O, C)
        self.grad_weight[tap] += back[0].T if is_transposed else back[0]
        self.grad_weight_scale[tap] += back[1].T if is_transposed else back[1]

    def expected(self, inside: object) -> Expected:
        return Expected(
            self.output,
            self.grad_input[inside],
            self.grad_weight,
            self.output_scale,
            self.grad_input_scale[inside],
            self.grad_weight_scale,
        )
