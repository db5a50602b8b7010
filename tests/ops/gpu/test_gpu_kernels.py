"""The GPU's forward and input gradient against float64 NumPy: the processor's tests with fewer shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from adder_oracle import ROUNDOFF, Expected, Geometry
from adder_oracle import adder2d as expected_adder2d
from test_adder2d_values import LAYOUTS, assert_close, case
from torch import Tensor

from adderkit.ops import gpu, reference
from adderkit.ops.formats import empty_input_grad, empty_output

PADDED = Geometry(padding=(1, 1))
BAD = {"inf": torch.inf, "-inf": -torch.inf, "nan": torch.nan, "huge": 3e38}


def run(x: Tensor, f: Tensor, g: Tensor, geometry: Geometry, device: torch.device) -> tuple[Tensor, Tensor]:
    """Both kernels on `device`, in the layouts given; results were NaN before."""
    x, f, g = (_to(tensor, device) for tensor in (x, f, g))
    output = empty_output(x, f, g.shape).fill_(torch.nan)
    grad = empty_input_grad(x).fill_(torch.nan)
    gpu.forward(x, f, output, *geometry)
    gpu.input_grad(g, x, f, grad, *geometry)
    return output.cpu(), grad.cpu()


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    """With its strides and what lies between its elements, which `Tensor.to` drops."""
    whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
    return whole.to(device).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def check(x: Tensor, f: Tensor, g: Tensor, geometry: Geometry, expected: Expected, device: torch.device) -> None:
    output, grad = run(x, f, g, geometry, device)
    assert_close(output, expected.output, expected.output_scale, 48)
    assert_close(grad, expected.grad_input, expected.grad_input_scale, 16)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("channels", "filters"), [(1, 1), (2, 3), (3, 17), (4, 8), (5, 2), (8, 9), (12, 16), (17, 4), (20, 33)]
)
def test_channel_counts(device, channels, filters):
    x, f, g, expected = case(channels, 2, channels, (4, 5), filters, (2, 2), PADDED)
    check(x, f, g, PADDED, expected, device)


@pytest.mark.parametrize(
    ("geometry", "kernel"),
    [
        (Geometry(), (1, 1)),
        (Geometry((2, 2)), (1, 1)),
        (Geometry(padding=(2, 0)), (1, 4)),
        (Geometry((2, 2), (1, 1)), (3, 3)),
        (Geometry((1, 2), (3, 3)), (2, 3)),
        (Geometry((3, 1), (0, 1)), (2, 3)),
        (Geometry((3, 3), (1, 1)), (1, 2)),
        (Geometry(dilation=(2, 2)), (3, 3)),
        (Geometry((2, 3), (3, 4), (3, 2)), (3, 2)),
        (Geometry((2, 2), (4, 4), (4, 4)), (3, 3)),
        (Geometry((4, 6), (0, 2), (2, 3)), (2, 2)),
        (Geometry((5, 7), (0, 0), (1, 1)), (2, 2)),
        (Geometry(padding=(6, 7)), (2, 3)),
    ],
)
def test_geometries(device, geometry, kernel):
    x, f, g, expected = case(3, 2, 6, (13, 15), 7, kernel, geometry)
    check(x, f, g, geometry, expected, device)


@pytest.mark.parametrize(("groups", "channels", "filters"), [(2, 8, 6), (3, 9, 6), (8, 8, 8), (4, 4, 12), (5, 10, 5)])
def test_groups(device, groups, channels, filters):
    geometry = Geometry((1, 2), (1, 1), groups=groups)
    x, f, g, expected = case(4, 2, channels, (6, 7), filters, (3, 3), geometry)
    check(x, f, g, geometry, expected, device)


@pytest.fixture
def tile(request, monkeypatch):
    """One tile alone, and kernels compiled for a layer's strides, as large layers get them."""
    monkeypatch.setattr(gpu, "_LARGE", 0)
    monkeypatch.setattr(gpu, "FORWARD_TILES", gpu.FORWARD_TILES[request.param : request.param + 1])
    monkeypatch.setattr(gpu, "INPUT_GRAD_TILES", gpu.INPUT_GRAD_TILES[request.param : request.param + 1])
    return request.param


@pytest.mark.parametrize("tile", range(len(gpu.FORWARD_TILES)), indirect=True)
@pytest.mark.parametrize(("channels", "filters", "is_last"), [(4, 18, False), (18, 4, False), (20, 4, True)])
def test_tiles(device, tile, channels, filters, is_last):
    """Several programs of each size along pixels and lanes, and their tails."""
    x, f, g, expected = case(5, 2, channels, (17, 19), filters, (1, 2), Geometry())
    if is_last:
        x, g = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, g))
    check(x, f, g, Geometry(), expected, device)


@pytest.mark.parametrize("is_last", [False, True])
def test_the_same_bits_from_every_tile_layout_and_repeat(device, monkeypatch, is_last):
    monkeypatch.setattr(gpu, "_RUN", 100)
    monkeypatch.setattr(gpu, "_BLOCK_TERMS", 36)
    x, f, g = draw(0, 1, 12, 5, 7), draw(1, 20, 12, 3, 3), draw(2, 1, 20, 5, 7)
    first = run(x, f, g, PADDED, device)
    if is_last:
        x, g = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, g))
    forward_tiles, input_grad_tiles = gpu.FORWARD_TILES, gpu.INPUT_GRAD_TILES
    for index in (0, 2, 3) if device.type == "cuda" else (0, 3):
        monkeypatch.setattr(gpu, "FORWARD_TILES", forward_tiles[index : index + 1])
        monkeypatch.setattr(gpu, "INPUT_GRAD_TILES", input_grad_tiles[index : index + 1])
        output, grad = run(x, f, g, PADDED, device)
        assert torch.equal(output, first[0])
        assert torch.equal(grad, first[1])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [3, 8])
def test_memory_orders(device, layout, channels):
    geometry = Geometry((1, 2), (1, 1), (2, 1))
    x, f, g, expected = case(6, 2, channels, (6, 9), 12, (3, 3), geometry)
    change = LAYOUTS[layout]
    check(change(x), change(f), change(g), geometry, expected, device)


def test_expanded_tensors(device):
    rng = np.random.default_rng(7)
    x = torch.from_numpy(rng.standard_normal((1, 1, 6, 1)).astype(np.float32)).expand(3, 5, 6, 7)
    f = torch.from_numpy(rng.standard_normal((1, 5, 1, 3)).astype(np.float32)).expand(4, 5, 3, 3)
    g = torch.tensor(0.5).expand(3, 4, 6, 7)
    expected = expected_adder2d(x.double().numpy(), f.double().numpy(), g.double().numpy(), PADDED)
    check(x, f, g, PADDED, expected, device)


def test_layouts_beyond_those_compiled_for(device, monkeypatch):
    monkeypatch.setattr(gpu, "_LARGE", 0)
    monkeypatch.setattr(gpu, "_constants", set(range(-gpu._MOST_CONSTANTS, 0)))
    for change in (lambda t: t, LAYOUTS["channels_last"]):
        x, f, g, expected = case(6, 2, 8, (6, 9), 12, (3, 3), PADDED)
        check(change(x), f, change(g), PADDED, expected, device)


def test_an_input_that_is_not_aligned(device):
    """Four channels can't be read at once from any address."""
    x, f, g, expected = case(6, 2, 8, (6, 9), 12, (3, 3), PADDED)
    x, g = (
        torch.cat([torch.full((1,), 1e30), tensor.permute(0, 2, 3, 1).reshape(-1)])[1:]
        .view(2, 6, 9, -1)
        .permute(0, 3, 1, 2)
        for tensor in (x, g)
    )
    check(x, f, g, PADDED, expected, device)


@pytest.mark.parametrize("is_last", [False, True])
def test_nothing_is_written_outside(device, is_last):
    x, f, g = (draw(seed, *shape).to(device) for seed, shape in enumerate([(2, 4, 6, 9), (5, 4, 3, 3), (2, 5, 6, 9)]))
    for channels, write in (
        (5, lambda view: gpu.forward(x, f, view, *PADDED)),
        (4, lambda view: gpu.input_grad(g, x, f, view, *PADDED)),
    ):
        shape = (4, 8, 11, channels + 2) if is_last else (4, channels + 2, 8, 11)
        block = torch.full(shape, 12345.0, device=device)
        inner = block[1:3, 1:-1, 1:-1, 1:-1]
        write(inner.permute(0, 3, 1, 2) if is_last else inner)
        assert (inner != 12345.0).all()
        inner.fill_(12345.0)
        assert (block == 12345.0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("is_last", [False, True])
def test_half_types_are_summed_in_float32_and_rounded_once(device, dtype, is_last):
    x, f, g = draw(0, 2, 8, 6, 6).to(dtype), draw(1, 4, 8, 3, 3).to(dtype), draw(2, 2, 4, 6, 6).to(dtype)
    wide = run(x.float(), f.float(), g.float(), PADDED, device)
    if is_last:
        x, g = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, g))
    output, grad = run(x, f, g, PADDED, device)
    for actual, expected in zip((output, grad), wide, strict=True):
        assert actual.dtype == dtype
        if gpu._kernels().is_interpreted and dtype == torch.bfloat16:  # the interpreter truncates
            assert ((actual.float() - expected).abs() < 2.0**-7 * expected.abs() + 1e-30).all()
        else:
            assert torch.equal(actual, expected.to(dtype))


@pytest.mark.parametrize("offset", [1.0, 1e3, 1e5])
def test_a_common_offset_costs_nothing(device, offset):
    x, f, g = draw(0, 2, 8, 5, 6) + offset, draw(1, 9, 8, 3, 3) + offset, draw(2, 2, 9, 3, 4)
    expected = expected_adder2d(x.double().numpy(), f.double().numpy(), g.double().numpy(), Geometry())
    output, grad = run(x, f, g, Geometry(), device)
    assert np.abs(output.double().numpy() / expected.output - 1).max() < 64 * ROUNDOFF
    assert_close(grad, expected.grad_input, expected.grad_input_scale, 16)


def test_long_sums_of_like_terms(device):
    """One colour under normal filters: terms that round in one direction, in shorter sums of their own."""
    x, f = torch.full((1, 256, 3, 3), 1.7), draw(1, 4, 256, 3, 3)
    expected = torch.empty(1, 4, 1, 1, dtype=torch.float64)
    reference.forward(x.double(), f.double(), expected, *Geometry())
    output = torch.empty(1, 4, 1, 1, device=device)
    gpu.forward(x.to(device), f.to(device), output, *Geometry())
    scale = (x.double().abs().sum() + f.double().abs().sum((1, 2, 3))).view(1, 4, 1, 1)
    assert ((output.cpu() - expected).abs() / scale).max() < 1e-5


def test_long_gradients_of_one_sign(device):
    x, f, g = draw(0, 1, 4, 3, 3), draw(1, 128, 4, 3, 3), torch.ones(1, 128, 3, 3)
    expected = torch.empty(1, 4, 3, 3, dtype=torch.float64)
    reference.input_grad(g.double(), x.double(), f.double(), expected, *PADDED)
    grad = torch.empty_like(x, device=device)
    gpu.input_grad(g.to(device), x.to(device), f.to(device), grad, *PADDED)
    assert (grad.cpu() - expected).abs().max() < 8 * ROUNDOFF * 9 * 128


def test_the_clamp_has_its_bounds(device):
    x = torch.tensor([[[[0.0, 1.0, -1.0, 0.999, 1.001, 50.0, -50.0, 0.25]]]])
    f, g = torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 8), 2.0)
    _, grad = run(x, f, g, Geometry(), device)
    torch.testing.assert_close(grad, 2 * (-x).clamp(-1, 1), rtol=0, atol=1.2e-7)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("where", ["x", "f", "x and f"])
@pytest.mark.parametrize("stride", [1, 3])
def test_not_finite_values_as_the_formulas_say(device, where, value, stride):
    geometry = Geometry((stride, stride), (1, 0))
    x, f = draw(0, 2, 5, 6, 9), draw(1, 4, 5, 3, 2)
    if "x" in where:
        x[1, 4, 2, 3] = x[0, 0, 0, 0] = x[0, 1, 5, 8] = BAD[value]
    if "f" in where:
        # Not twice the same huge number: beyond 2^24, f / 2 + 1/2 is f / 2, and the gradient at f = x is -g for 0.
        f[2, 4, 1, 1] = f[3, 0, 2, 0] = -BAD[value] if value == "huge" else BAD[value]
    output = torch.empty(2, 4, (6 + 2 - 3) // stride + 1, (9 - 2) // stride + 1)
    g = draw(2, *output.shape)
    grad = torch.empty_like(x)
    reference.forward(x, f, output, *geometry)
    reference.input_grad(g, x, f, grad, *geometry)
    actual = run(x, f, g, geometry, device)
    torch.testing.assert_close(actual[0], output, equal_nan=True, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(actual[1], grad, equal_nan=True, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_gradients_that_are_not_finite_reach_the_same_elements(device, value):
    """An infinite gradient may become NaN, but stays visible wherever the formula has it, and nowhere else."""
    x, f, g = draw(0, 2, 5, 6, 9), draw(1, 4, 5, 3, 2), draw(2, 2, 4, 6, 8)
    g[1, 2, 1, 1] = BAD[value]
    expected = torch.empty_like(x)
    reference.input_grad(g, x, f, expected, (1, 1), (1, 0), (1, 1), 1)
    _, grad = run(x, f, g, Geometry(padding=(1, 0)), device)
    assert torch.equal(grad.isfinite(), expected.isfinite())


def test_empty_batch(device):
    x, f, g = torch.zeros(0, 3, 5, 5), draw(1, 4, 3, 3, 3), torch.zeros(0, 4, 5, 5)
    output, grad = run(x, f, g, PADDED, device)
    assert output.shape == g.shape
    assert grad.shape == x.shape
