"""adder1d, adder3d and adder_transpose2d with both surrogate gradients against float64 NumPy."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from adder_oracle import ROUNDOFF, Expected
from family_oracle import adder, adder_transpose
from torch import Tensor

from adderkit.ops import adder1d, adder2d, adder3d, adder_transpose2d, three_dimensions, transpose

F = torch.nn.functional


class Case(NamedTuple):
    """A call: geometry as one number for each dimension."""

    batch: int
    channels: int
    size: tuple[int, ...]
    filters: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    output_padding: tuple[int, ...] | None = None  # of a transposed call

    def run(self, x: Tensor, f: Tensor) -> Tensor:
        if self.output_padding is not None:
            sizes = self.stride, self.padding, self.output_padding, self.groups, self.dilation
            return adder_transpose2d(x, f, None, *sizes)
        function: Callable[..., Tensor] = {1: adder1d, 2: adder2d, 3: adder3d}[len(self.size)]
        return function(x, f, None, self.stride, self.padding, self.dilation, self.groups)

    def torch_shape(self, x: Tensor, f: Tensor) -> torch.Size:
        if self.output_padding is not None:
            sizes = self.stride, self.padding, self.output_padding, self.groups, self.dilation
            return F.conv_transpose2d(x, f, None, *sizes).shape
        function: Callable[..., Tensor] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(self.size)]
        return function(x, f, None, self.stride, self.padding, self.dilation, self.groups).shape


@cache
def draw(case: Case, seed: int = 0, offset: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Expected]:
    rng = np.random.default_rng(seed)
    is_transposed = case.output_padding is not None
    first, second = (case.channels, case.filters) if is_transposed else (case.filters, case.channels)
    x = (rng.standard_normal((case.batch, case.channels, *case.size)) + offset).astype(np.float32)
    f = (rng.standard_normal((first, second // case.groups, *case.kernel)) + offset).astype(np.float32)
    shape = case.torch_shape(torch.from_numpy(x), torch.from_numpy(f))
    g = rng.standard_normal(shape).astype(np.float32)
    oracle = adder_transpose if is_transposed else adder
    wide = x.astype(float), f.astype(float), g.astype(float)
    expected = oracle(*wide, case.stride, case.padding, case.dilation, case.groups)
    return torch.from_numpy(x), torch.from_numpy(f), torch.from_numpy(g), expected


def check(case: Case, x: Tensor, f: Tensor, g: Tensor, expected: Expected) -> None:
    x, f = x.detach().requires_grad_(), f.detach().requires_grad_()
    output = case.run(x, f)
    grad_x, grad_f = torch.autograd.grad(output, (x, f), g)
    assert_close(output, expected.output, expected.output_scale, 48)
    assert_close(grad_x, expected.grad_input, expected.grad_input_scale, 16)
    assert_close(grad_f, expected.grad_weight, expected.grad_weight_scale, 48)


def assert_close(actual: Tensor, expected: np.ndarray, scale: np.ndarray, units: float) -> None:
    """Within `units` roundings of the magnitudes that were added; exactly 0 where nothing was."""
    values = actual.detach().double().numpy()
    assert values.shape == expected.shape
    assert np.isfinite(values).all()
    np.testing.assert_array_less(np.abs(values - expected), units * ROUNDOFF * scale + 1e-30)


def random_case(kind: str, seed: int) -> Case:
    choose = random.Random(f"{kind} {seed}")
    dims = {"1d": 1, "3d": 3, "transpose": 2}[kind]
    many = lambda low, high: tuple(choose.randint(low, high) for _ in range(dims))  # noqa: E731
    kernel, stride, padding, dilation = many(1, 4 - dims // 3), many(1, 3), many(0, 3), many(1, 3 - dims // 3)
    groups = choose.choice([1, 1, 2, 3])
    channels, filters = groups * choose.choice([1, 2, 5, 17]), groups * choose.choice([1, 3, 4, 18])
    size = many(1, {1: 20, 2: 7, 3: 5}[dims])
    if kind == "transpose":
        extra = tuple(choose.randint(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True))
        full = [
            (n - 1) * s + d * (k - 1) + 1 + e
            for n, s, d, k, e in zip(size, stride, dilation, kernel, extra, strict=True)
        ]
        padding = tuple(min(p, (n - 1) // 2) for p, n in zip(padding, full, strict=True))
        return Case(choose.randint(1, 3), channels, size, filters, kernel, stride, padding, dilation, groups, extra)
    reach = [d * (k - 1) + 1 - 2 * p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    size = tuple(max(n, r) for n, r in zip(size, reach, strict=True))
    return Case(choose.randint(1, 3), channels, size, filters, kernel, stride, padding, dilation, groups)


SENTINEL = 1e30


def _surrounded(tensor: Tensor) -> Tensor:
    """A view into a larger block of values that would spoil every sum they entered."""
    block = torch.full([size + 4 for size in tensor.shape], SENTINEL)
    view = block[tuple(slice(2, 2 + size) for size in tensor.shape)]
    return view.copy_(tensor)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t,
    "channels last": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
    "surrounded": _surrounded,
    "surrounded channels last": lambda t: _surrounded(t.movedim(1, -1)).movedim(-1, 1),
    "reversed": lambda t: t.permute(*reversed(range(t.dim()))).contiguous().permute(*reversed(range(t.dim()))),
}


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("kind", ["1d", "3d", "transpose"])
def test_random_layers(path, kind, seed):
    case = random_case(kind, seed)
    x, f, g, expected = draw(case, seed)
    choose = random.Random(seed)
    layouts = [LAYOUTS[choose.choice(list(LAYOUTS))] for _ in range(3)]
    check(case, *(layout(tensor) for layout, tensor in zip(layouts, (x, f, g), strict=True)), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["1d", "3d", "transpose"])
def test_memory_orders(path, kind, layout):
    base = Case(2, 5, (6, 7), 18, (3, 4), (2, 1), (1, 2), (1, 2), 1)
    case = {
        "1d": base._replace(size=(17,), kernel=(4,), stride=(2,), padding=(1,), dilation=(2,)),
        "3d": base._replace(size=(4, 5, 6), kernel=(3, 2, 3), stride=(1, 2, 1), padding=(1, 1, 2), dilation=(2, 1, 1)),
        "transpose": base._replace(output_padding=(1, 0)),
    }[kind]
    x, f, g, expected = draw(case)
    change = LAYOUTS[layout]
    check(case, change(x), f, g, expected)
    check(case, x, change(f), change(g), expected)
    check(case, change(x), change(f), change(g), expected)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_transposed_geometries(stride, padding, kernel, dilation):
    """Every residue of taps modulo the stride, kernels below and above it, outputs that nothing reaches."""
    size = 5
    padding = min(padding, ((size - 1) * stride + dilation * (kernel - 1)) // 2)
    for extra in range(max(stride, dilation)):
        case = Case(2, 3, (size, size - 2), 4, (kernel, 2), (stride, 1), (padding, 0), (dilation, 2), 1, (extra, 1))
        check(case, *draw(case))


@pytest.mark.parametrize(("channels", "filters", "groups"), [(6, 6, 6), (6, 12, 6), (12, 6, 3), (4, 4, 2)])
@pytest.mark.parametrize("kind", ["1d", "3d", "transpose"])
def test_groups(path, kind, channels, filters, groups):
    dims = {"1d": 1, "3d": 3, "transpose": 2}[kind]
    one, extra = (1,) * dims, (1, 1) if kind == "transpose" else None
    case = Case(2, channels, (5, 4, 6)[:dims], filters, (3, 2, 3)[:dims], (2,) * dims, one, one, groups, extra)
    check(case, *draw(case))


@pytest.mark.parametrize("chunk", [1, 300, 700])
def test_volumes_in_several_chunks(path, monkeypatch, chunk):
    """Chunks of single frames, of some frames of an image, of some images; the last one smaller."""
    monkeypatch.setattr(three_dimensions, "CHUNK", chunk)
    case = Case(5, 4, (5, 3, 2), 6, (3, 2, 2), (2, 1, 1), (2, 1, 0), (2, 1, 1), 2)
    check(case, *draw(case))


@pytest.mark.parametrize("is_channels_last", [False, True])
@pytest.mark.parametrize("kind", ["3d", "transpose"])
def test_nothing_is_written_outside_outputs_and_input_gradients(path, kind, is_channels_last):
    """Into views with sentinels around them, which keep their values; `adder1d` is `adder2d`, tested beside it."""
    module = {"3d": three_dimensions, "transpose": transpose}[kind]
    case = {
        "3d": Case(2, 6, (4, 5, 6), 18, (3, 2, 3), (1, 2, 1), (1, 1, 2), (2, 1, 1), 2),
        "transpose": Case(2, 6, (5, 6), 18, (3, 4), (2, 1), (1, 2), (1, 2), 2, (1, 0)),
    }[kind]
    x, f, g, expected = draw(case)
    extra = [] if case.output_padding is None else [case.output_padding]
    geometry = (case.stride, case.padding, *extra, case.dilation, case.groups)
    change = LAYOUTS["surrounded channels last" if is_channels_last else "surrounded"]
    for run, right, scale in (
        (lambda view: module._forward(x, f, view, *geometry), expected.output, expected.output_scale),
        (lambda view: module._input_grad(g, x, f, view, *geometry), expected.grad_input, expected.grad_input_scale),
    ):
        view = change(torch.zeros(right.shape))
        run(view)
        assert_close(view, right, scale, 48)
        view.fill_(SENTINEL)
        block = view._base
        assert block is not None and block.numel() > 2 * view.numel()
        assert (block == SENTINEL).all()


def test_outputs_that_no_tap_reaches_are_zero(path):
    x, f = torch.randn(2, 3, 4, 4), torch.randn(3, 5, 1, 1)
    output = adder_transpose2d(x, f, stride=3, output_padding=2)
    assert output.shape == (2, 5, 12, 12)
    reached = torch.zeros(12, 12, dtype=torch.bool)
    reached[::3, ::3] = True
    assert (output[:, :, ~reached] == 0).all()
    assert (output[:, :, reached] < 0).all()
    bias = torch.arange(5.0)
    biased = adder_transpose2d(x, f, bias, stride=3, output_padding=2)
    assert torch.equal(biased, output + bias.view(1, 5, 1, 1))


@pytest.mark.parametrize("offset", [1e2, 1e5])
def test_a_common_offset_costs_nearly_nothing_at_the_border_too(path, offset):
    """|x - f| does not change when both move, and there is no |0 - f| that could swallow it."""
    case = Case(2, 16, (5, 6), 17, (3, 4), (2, 2), (1, 1), (1, 1), 1, (1, 0))
    x, f, _, expected = draw(case, 0, offset)
    error = np.abs(case.run(x, f).double().numpy() / expected.output - 1)
    assert error.max() < 256 * ROUNDOFF


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_not_finite_values_stay_where_their_taps_are(path, value):
    x, f = torch.randn(1, 2, 3, 3), torch.randn(2, 2, 3, 3)
    f[0, 1, 0, 0] = value  # lands on outputs 0, 2, 4 of 7 in both directions
    output = adder_transpose2d(x, f, stride=2)
    touched = torch.zeros(7, 7, dtype=torch.bool)
    touched[:5:2, :5:2] = True
    assert torch.isfinite(output[0, 0]).all()
    assert torch.isfinite(output[0, 1, ~touched]).all()
    assert not torch.isfinite(output[0, 1, touched]).any()


def functions() -> list[Any]:
    def call(kind: str, dtype: torch.dtype, batch: int = 2) -> tuple[Case, Tensor, Tensor]:
        dims = {"1d": 1, "3d": 3, "transpose": 2}[kind]
        one, extra = (1,) * dims, (1, 1) if kind == "transpose" else None
        case = Case(batch, 9, (4, 5, 3)[:dims], 7, (3,) * dims, (2,) * dims, one, one, 1, extra)
        x, f = torch.zeros(batch, 9, *case.size, dtype=dtype), torch.zeros(*((9, 7) if extra else (7, 9)), *case.kernel)
        return case, x, f.to(dtype)

    return [pytest.param(lambda *a, kind=kind: call(kind, *a), id=kind) for kind in ("1d", "3d", "transpose")]


@pytest.mark.parametrize("call", functions())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_empty_batch(path, call, dtype):
    case, x, f = call(dtype, 0)
    output = case.run(x.requires_grad_(), f.requires_grad_())
    assert output.shape == case.torch_shape(x.float(), f.float())
    output.sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
    assert f.grad is not None and f.grad.count_nonzero() == 0


@pytest.mark.parametrize("call", functions())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_summed_in_float32(path, call, dtype):
    """One rounding at the end: what float32 gives for the same numbers, rounded."""
    case, _, _ = call(dtype)
    x, f, g, _ = draw(case)
    x, f, g = (tensor.to(dtype).requires_grad_() for tensor in (x, f, g))
    wide = [tensor.detach().float().requires_grad_() for tensor in (x, f)]
    output, right = case.run(x, f), case.run(*wide)
    grads = torch.autograd.grad(output, (x, f), g)
    right_grads = torch.autograd.grad(right, wide, g.float())
    for actual, expected in zip((output, *grads), (right, *right_grads), strict=True):
        assert actual.dtype == dtype
        torch.testing.assert_close(actual, expected.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("call", functions())
def test_float64_is_exact_to_float64(path, call):
    case, _, _ = call(torch.float64)
    x, f, g, expected = draw(case)
    x, f = x.double().requires_grad_(), f.double().requires_grad_()
    output = case.run(x, f)
    grads = torch.autograd.grad(output, (x, f), g.double())
    for actual, right in zip((output, *grads), expected[:3], strict=True):
        np.testing.assert_allclose(actual.detach().numpy(), right, rtol=1e-12, atol=1e-12)
