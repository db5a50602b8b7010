"""Values that break fast arithmetic: offsets, infinities, NaN; and empty batches, writes, threads, types."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from adder_oracle import ROUNDOFF, Geometry
from adder_oracle import adder2d as expected_adder2d

import adderkit
from adderkit.ops import cpu, reference

GEOMETRY = ((1, 1), (1, 1), (1, 1), 1)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e2, 1e3, 1e4, 1e5])
def test_a_common_offset_costs_nearly_nothing(path, offset):
    """|x - f| does not change when both move; without padding the error must not grow with the offset."""
    x, f = draw(0, 2, 16, 7, 8) + offset, draw(1, 17, 16, 3, 3) + offset
    output = adderkit.adder2d(x, f).double().numpy()
    grad = np.zeros_like(output)
    expected = expected_adder2d(x.double().numpy(), f.double().numpy(), grad, Geometry()).output
    assert np.abs(output / expected - 1).max() < 64 * ROUNDOFF * 4


@pytest.mark.parametrize("offset", [1e2, 1e5])
def test_offset_input_gradient(path, offset):
    x, f, g = draw(0, 2, 5, 7, 8) + offset, draw(1, 9, 5, 3, 3) + offset, draw(2, 2, 9, 7, 8)
    expected = expected_adder2d(x.double().numpy(), f.double().numpy(), g.double().numpy(), Geometry(padding=(1, 1)))
    actual = torch.ops.adderkit.adder2d_input_grad(g, x, f, *GEOMETRY).double().numpy()
    np.testing.assert_array_less(
        np.abs(actual - expected.grad_input), 16 * ROUNDOFF * expected.grad_input_scale + 1e-30
    )


def test_the_offset_of_one_tensor_alone(path):
    for x_offset, f_offset in ((1e4, 0.0), (0.0, 1e4), (1e4, -1e4)):
        x, f = draw(0, 1, 7, 6, 6) + x_offset, draw(1, 5, 7, 3, 3) + f_offset
        expected = torch.empty(1, 5, 4, 4, dtype=torch.float64)
        reference.forward(x.double(), f.double(), expected, (1, 1), (0, 0), (1, 1), 1)
        assert (adderkit.adder2d(x, f) / expected - 1).abs().max() < 64 * ROUNDOFF


BAD = {"inf": torch.inf, "-inf": -torch.inf, "nan": torch.nan, "huge": 3e38, "-huge": -3e38}


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("where", ["x", "f", "both", "pair"])
def test_not_finite_values_as_the_formula_says(path, where, value, channels):
    x, f = draw(0, 2, channels, 6, 9), draw(1, 5, channels, 3, 3)
    if where != "f":
        x[1, channels - 1, 2, 3] = x[0, 0, 0, 0] = BAD[value]
    if where == "pair":
        x[1, channels - 1, 2, 4] = -BAD[value]
    if where in ("f", "both"):
        f[2, 1, 1, 1] = f[4, 0, 2, 0] = BAD[value]
    expected = torch.empty(2, 5, 6, 9)
    reference.forward(x, f, expected, *GEOMETRY)
    for format in (torch.contiguous_format, torch.channels_last):
        actual = adderkit.adder2d(x.contiguous(memory_format=format), f, padding=1)
        torch.testing.assert_close(actual, expected, equal_nan=True, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("where", ["x", "f", "g", "x and f"])
@pytest.mark.parametrize("stride", [1, 2])
def test_not_finite_input_gradients(path, where, value, stride):
    x, f, g = draw(0, 2, 5, 6, 9), draw(1, 4, 5, 3, 2), None
    geometry = ((stride, stride), (1, 0), (1, 1), 1)
    g = draw(2, *adderkit.adder2d(x, f, None, *geometry).shape)
    if "x" in where:
        x[1, 4, 2, 3] = x[0, 0, 0, 0] = x[0, 1, 5, 8] = BAD[value]
    if "f" in where:
        f[2, 4, 1, 1] = f[3, 0, 2, 0] = BAD[value]
    if where == "g":
        g[1, 2, 1, 1] = BAD[value]
    expected = torch.empty_like(x)
    reference.input_grad(g, x, f, expected, *geometry)
    actual = torch.ops.adderkit.adder2d_input_grad(g, x, f, *geometry)
    torch.testing.assert_close(actual, expected, equal_nan=True, rtol=1e-5, atol=1e-4)


def test_equal_input_and_filter_give_zero_and_never_more(path):
    """Rounding must not make the distance negative."""
    f = draw(0, 6, 33, 3, 3) * 7
    output = adderkit.adder2d(f, f)
    assert (output <= 0).all()
    assert output.diagonal().abs().max() < 1e-2
    assert adderkit.adder2d(torch.zeros(1, 2, 3, 3), torch.zeros(2, 2, 3, 3)).count_nonzero() == 0


def test_the_clamp_has_its_bounds(path):
    """Distances of exactly 1, a little less, a little more, and far off."""
    x = torch.tensor([[[[0.0, 1.0, -1.0, 0.999, 1.001, 50.0, -50.0, 0.25]]]])
    f, g = torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 8), 2.0)
    actual = torch.ops.adderkit.adder2d_input_grad(g, x, f, (1, 1), (0, 0), (1, 1), 1)
    torch.testing.assert_close(actual, 2 * (-x).clamp(-1, 1), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_empty_batch(path, dtype):
    x = torch.zeros(0, 3, 5, 5, dtype=dtype, requires_grad=True)
    f = torch.zeros(4, 3, 3, 3, dtype=dtype, requires_grad=True)
    output = adderkit.adder2d(x, f, padding=1)
    assert output.shape == (0, 4, 5, 5)
    output.sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
    assert f.grad is not None and f.grad.count_nonzero() == 0


@pytest.mark.parametrize("is_channels_last", [False, True])
def test_nothing_is_written_outside_the_output(path, is_channels_last):
    if path == "reference":
        pytest.skip("the reference writes through torch")
    x, f, g = draw(0, 2, 18, 6, 9), draw(1, 19, 18, 3, 3), draw(2, 2, 19, 6, 9)
    blocks = []
    for channels, run in (
        (19, lambda view: cpu.forward(x, f, view, *GEOMETRY)),
        (18, lambda view: cpu.input_grad(g, x, f, view, *GEOMETRY)),
    ):
        shape = (4, 8, 11, channels + 2) if is_channels_last else (4, channels + 2, 8, 11)
        block = torch.full(shape, 12345.0)
        inner = block[1:3, 1:-1, 1:-1, 1:-1]
        run(inner.permute(0, 3, 1, 2) if is_channels_last else inner)
        assert (inner != 12345.0).all()
        inner.fill_(12345.0)
        blocks.append(block)
    assert all((block == 12345.0).all() for block in blocks)


def test_threads_and_repeats_give_the_same_bits(path):
    x, f = draw(0, 3, 33, 17, 19), draw(1, 65, 33, 3, 3)
    g = draw(2, 3, 65, 17, 19)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            results.append(
                (adderkit.adder2d(x, f, padding=1), torch.ops.adderkit.adder2d_input_grad(g, x, f, *GEOMETRY))
            )
    finally:
        torch.set_num_threads(before)
    for output, grad in results[1:]:
        assert torch.equal(output, results[0][0])
        assert torch.equal(grad, results[0][1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_summed_in_float32(path, dtype):
    x, f, g = draw(0, 2, 9, 6, 6).to(dtype), draw(1, 7, 9, 3, 3).to(dtype), draw(2, 2, 7, 6, 6).to(dtype)
    wide = (x.double().numpy(), f.double().numpy(), g.double().numpy())
    expected = expected_adder2d(*wide, Geometry(padding=(1, 1)))
    x.requires_grad_()
    f.requires_grad_()
    output = adderkit.adder2d(x, f, padding=1)
    grads = torch.autograd.grad(output, (x, f), g)
    step = torch.finfo(dtype).eps / 2
    for actual, right in zip((output, *grads), expected[:3], strict=True):
        assert actual.dtype == dtype
        error = np.abs(actual.detach().double().numpy() - right)
        np.testing.assert_array_less(error, 1.01 * step * np.abs(right) + 1e-4)


def test_float64_is_exact_to_float64(path):
    x, f, g = draw(0, 2, 9, 6, 6).double(), draw(1, 7, 9, 3, 3).double(), draw(2, 2, 7, 6, 6).double()
    expected = expected_adder2d(x.numpy(), f.numpy(), g.numpy(), Geometry(padding=(1, 1)))
    x.requires_grad_()
    f.requires_grad_()
    output = adderkit.adder2d(x, f, padding=1)
    for actual, right in zip((output, *torch.autograd.grad(output, (x, f), g)), expected[:3], strict=True):
        np.testing.assert_allclose(actual.detach().numpy(), right, rtol=1e-12, atol=1e-12)
