"""adder2d and its surrogate gradients in float64 NumPy, one output position at a time, from the formulas alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Unit roundoff of float32. Errors are bounded in units of it times the sum of the magnitudes that were added.
ROUNDOFF = 2.0**-24


class Geometry(NamedTuple):
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


class Expected(NamedTuple):
    output: Array
    grad_input: Array
    grad_weight: Array
    # What the sums add up in magnitude: sum(|x| + |f|), sum |g|, sum |g| (|x| + |f|).
    output_scale: Array
    grad_input_scale: Array
    grad_weight_scale: Array


def output_size(x: Array, f: Array, geometry: Geometry) -> tuple[int, int]:
    """Counts the positions at which the dilated filter fits, by trying."""
    sizes = []
    for axis in range(2):
        size = x.shape[2 + axis] + 2 * geometry.padding[axis]
        reach = geometry.dilation[axis] * (f.shape[2 + axis] - 1) + 1
        sizes.append(len([start for start in range(0, size, geometry.stride[axis]) if start + reach <= size]))
    return sizes[0], sizes[1]


def adder2d(x: Array, f: Array, g: Array, geometry: Geometry) -> Expected:
    """Computes everything that one call and its backward pass produce; `g` is the gradient of the output."""
    (top, left), groups = geometry.padding, geometry.groups
    padded = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)))
    height, width = output_size(x, f, geometry)
    output = np.zeros((len(x), len(f), height, width))
    output_scale = np.zeros_like(output)
    grad_padded, grad_padded_scale = np.zeros_like(padded), np.zeros_like(padded)
    grad_weight, grad_weight_scale = np.zeros_like(f), np.zeros_like(f)
    channels, filters = x.shape[1] // groups, len(f) // groups
    for group in range(groups):
        c = slice(group * channels, (group + 1) * channels)
        o = slice(group * filters, (group + 1) * filters)
        for row in range(height):
            for column in range(width):
                rows = row * geometry.stride[0] + geometry.dilation[0] * np.arange(f.shape[2])
                columns = column * geometry.stride[1] + geometry.dilation[1] * np.arange(f.shape[3])
                where = np.ix_(range(len(x)), range(c.start, c.stop), rows, columns)
                patch, filter_ = padded[where][:, None], f[o][None]
                difference = patch - filter_  # image, filter, channel, tap row, tap column
                grad = g[:, o, row, column][:, :, None, None, None]
                magnitude = np.abs(patch) + np.abs(filter_)
                output[:, o, row, column] = -np.abs(difference).sum((2, 3, 4))
                output_scale[:, o, row, column] = magnitude.sum((2, 3, 4))
                grad_padded[where] += (grad * np.clip(-difference, -1, 1)).sum(1)
                grad_padded_scale[where] += np.abs(grad * np.ones_like(difference)).sum(1)
                grad_weight[o] += (grad * difference).sum(0)
                grad_weight_scale[o] += (np.abs(grad) * magnitude).sum(0)
    inside = np.s_[:, :, top : top + x.shape[2], left : left + x.shape[3]]
    return Expected(
        output,
        grad_padded[inside],
        grad_weight,
        output_scale,
        grad_padded_scale[inside],
        grad_weight_scale,
    )
