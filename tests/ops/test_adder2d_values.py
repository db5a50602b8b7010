"""Forward and both surrogate gradients against float64 NumPy: sizes, geometries, memory orders, paths."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import pytest
import torch
from adder_oracle import ROUNDOFF, Expected, Geometry, output_size
from adder_oracle import adder2d as expected_adder2d
from torch import Tensor

import adderkit

CHANNELS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97]


@cache
def case(
    seed: int, batch: int, channels: int, size: tuple[int, int], filters: int, kernel: tuple[int, int], g: Geometry
) -> tuple[Tensor, Tensor, Tensor, Expected]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, channels, *size)).astype(np.float32)
    f = rng.standard_normal((filters, channels // g.groups, *kernel)).astype(np.float32)
    grad = rng.standard_normal((batch, filters, *output_size(x, f, g))).astype(np.float32)
    expected = expected_adder2d(x.astype(float), f.astype(float), grad.astype(float), g)
    return torch.from_numpy(x), torch.from_numpy(f), torch.from_numpy(grad), expected


def check(x: Tensor, f: Tensor, grad: Tensor, geometry: Geometry, expected: Expected) -> None:
    x, f = x.detach().requires_grad_(), f.detach().requires_grad_()
    output = adderkit.adder2d(x, f, None, *geometry)
    grad_x, grad_f = torch.autograd.grad(output, (x, f), grad)
    assert_close(output, expected.output, expected.output_scale, 48)
    assert_close(grad_x, expected.grad_input, expected.grad_input_scale, 16)
    assert_close(grad_f, expected.grad_weight, expected.grad_weight_scale, 48)


def assert_close(actual: Tensor, expected: np.ndarray, scale: np.ndarray, units: float) -> None:
    """Within `units` roundings of the magnitudes that were added; one lost tap is a thousand times more."""
    values = actual.detach().double().numpy()
    assert values.shape == expected.shape
    assert np.isfinite(values).all()
    np.testing.assert_array_less(np.abs(values - expected), units * ROUNDOFF * scale + 1e-30)


@pytest.mark.parametrize("index", range(len(CHANNELS)), ids=lambda index: f"channels{CHANNELS[index]}")
def test_every_channel_count(path, index):
    channels, filters = CHANNELS[index], CHANNELS[-1 - index * 7 % len(CHANNELS)]
    geometry = Geometry(padding=(1, 1))
    x, f, grad, expected = case(index, 2, channels, (5, 7), filters, (3, 3), geometry)
    check(x, f, grad, geometry, expected)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 3), (1, 2), (3, 1)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 0), (3, 3)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 3), (1, 4)])
def test_every_geometry(path, stride, padding, kernel):
    geometry = Geometry(stride, padding)
    x, f, grad, expected = case(1, 2, 5, (7, 9), 6, kernel, geometry)
    check(x, f, grad, geometry, expected)


@pytest.mark.parametrize("width", range(1, 36))
def test_every_width(path, width):
    """Tiles of all sizes, their tails, and several of them in a row."""
    geometry = Geometry(padding=(0, 1))
    x, f, grad, expected = case(2, 1, 3, (2, width), 17, (1, 2), geometry)
    check(x, f, grad, geometry, expected)


@pytest.mark.parametrize(
    ("geometry", "kernel"),
    [
        (Geometry(dilation=(2, 2)), (3, 3)),
        (Geometry((2, 3), (3, 4), (3, 2)), (3, 2)),
        (Geometry((2, 2), (4, 4), (4, 4)), (3, 3)),
        (Geometry((3, 2), (1, 0), (1, 5)), (2, 3)),
        (Geometry((4, 5), (0, 2), (2, 3)), (2, 2)),
        (Geometry((9, 11), (0, 0), (1, 1)), (2, 2)),
        (Geometry(padding=(6, 7)), (2, 3)),
    ],
)
def test_dilation_and_large_strides(path, geometry, kernel):
    x, f, grad, expected = case(3, 2, 6, (13, 15), 7, kernel, geometry)
    check(x, f, grad, geometry, expected)


@pytest.mark.parametrize(("groups", "channels", "filters"), [(2, 34, 6), (3, 9, 51), (8, 8, 8), (4, 4, 12)])
def test_groups(path, groups, channels, filters):
    geometry = Geometry((1, 2), (1, 1), groups=groups)
    x, f, grad, expected = case(4, 2, channels, (6, 7), filters, (3, 3), geometry)
    check(x, f, grad, geometry, expected)


@pytest.mark.parametrize("channels", CHANNELS)
def test_depthwise(path, channels):
    """Tiles along rows and columns, their tails and borders; read in place and through copies."""
    for geometry, size, kernel in (
        (Geometry(padding=(1, 1), groups=channels), (11, 19), (3, 3)),
        (Geometry((2, 2), (2, 2), groups=channels), (10, 22), (5, 5)),
        (Geometry((3, 1), (3, 0), (2, 3), channels), (9, 8), (2, 3)),
        (Geometry((1, 2), (4, 3), groups=channels), (2, 3), (3, 4)),
    ):
        x, f, grad, expected = case(8, 2, channels, size, channels, kernel, geometry)
        last = LAYOUTS["channels_last"]
        check(x, f, grad, geometry, expected)
        check(last(x), f, last(grad), geometry, expected)
        check(last(x), last(f), grad, geometry, expected)


def test_many_bands_of_rows(path):
    """An image too large for one band of scratch, so that bands meet inside it."""
    geometry = Geometry(padding=(1, 1))
    x, f, grad, expected = case(5, 1, 97, (24, 24), 3, (3, 3), geometry)
    check(x, f, grad, geometry, expected)


def _surrounded(tensor: Tensor) -> Tensor:
    """A view into a larger block of values that would spoil every sum they entered."""
    block = torch.full([size + 4 for size in tensor.shape], 1e30)
    view = block[tuple(slice(2, 2 + size) for size in tensor.shape)]
    return view.copy_(tensor)


def _every_second(tensor: Tensor) -> Tensor:
    block = torch.full([size * 2 for size in tensor.shape], 1e30)
    return block[tuple(slice(None, None, 2) for _ in tensor.shape)].copy_(tensor)


LAYOUTS = {
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "surrounded": _surrounded,
    "surrounded channels_last": lambda t: _surrounded(t.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "every second": _every_second,
    "columns before rows": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "batch last": lambda t: t.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
}


@pytest.mark.parametrize("channels", [3, 16, 21])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_orders(path, layout, channels):
    geometry = Geometry((1, 2), (1, 1), (2, 1))
    x, f, grad, expected = case(6, 2, channels, (6, 19), 18, (3, 3), geometry)
    change = LAYOUTS[layout]
    check(change(x), f, grad, geometry, expected)
    check(x, change(f), grad, geometry, expected)
    check(change(x), change(f), change(grad), geometry, expected)


def test_expanded_tensors(path):
    """Broadcast views, as `sum().backward()` hands over: strides of 0."""
    geometry = Geometry(padding=(1, 1))
    rng = np.random.default_rng(7)
    x = torch.from_numpy(rng.standard_normal((1, 1, 6, 1)).astype(np.float32)).expand(3, 5, 6, 7)
    f = torch.from_numpy(rng.standard_normal((1, 5, 1, 3)).astype(np.float32)).expand(4, 5, 3, 3)
    grad = torch.tensor(0.5).expand(3, 4, 6, 7)
    expected = expected_adder2d(x.double().numpy(), f.double().numpy(), grad.double().numpy(), geometry)
    check(x, f, grad, geometry, expected)


@pytest.mark.parametrize("seed", range(40))
def test_random_layers(path, seed):
    """Everything mixed."""
    draw = random.Random(seed)
    groups = draw.choice([1, 1, 2, 3])
    kernel = draw.randint(1, 4), draw.randint(1, 4)
    geometry = Geometry(
        (draw.randint(1, 3), draw.randint(1, 3)),
        (draw.randint(0, 3), draw.randint(0, 3)),
        (draw.randint(1, 2), draw.randint(1, 2)),
        groups,
    )
    size = tuple(
        max(draw.randint(1, 12), geometry.dilation[axis] * (kernel[axis] - 1) + 1 - 2 * geometry.padding[axis])
        for axis in range(2)
    )
    channels, filters = draw.choice(CHANNELS[:13]) * groups, draw.choice(CHANNELS[:13]) * groups
    x, f, grad, expected = case(seed, draw.randint(1, 3), channels, (size[0], size[1]), filters, kernel, geometry)
    layout = draw.choice([lambda t: t, *LAYOUTS.values()])
    check(layout(x), f, layout(grad), geometry, expected)
