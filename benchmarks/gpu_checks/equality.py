"""The operation against its definition in float64: values, that every element is written, the same bits twice."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adderkit.ops import reference
from gpu_checks.clock import is_lost

# Of the sum of the magnitudes added up. float32: a rounding a term would be 6e-8 times their number; half types: their
# results are rounded once, to 8 or 11 bits.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1 / 128, torch.float16: 1 / 1024}
_CHANNELS = (1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 48, 64, 65, 97)


class Case(NamedTuple):
    """A layer and what it gets."""

    batch: int
    channels: int
    height: int
    width: int
    filters: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    dtype: torch.dtype
    channels_last: bool
    offset: float


FIXED = (
    Case(8, 16, 32, 32, 16, (3, 3), (1, 1), (1, 1), (1, 1), 1, torch.float32, False, 0.0),
    Case(8, 16, 32, 32, 32, (3, 3), (2, 2), (1, 1), (1, 1), 1, torch.float32, True, 0.0),
    Case(8, 64, 8, 8, 64, (3, 3), (1, 1), (1, 1), (1, 1), 1, torch.bfloat16, True, 0.0),
    Case(4, 128, 28, 28, 128, (3, 3), (1, 1), (1, 1), (1, 1), 1, torch.float32, False, 0.0),
    Case(2, 512, 7, 7, 512, (3, 3), (1, 1), (1, 1), (1, 1), 1, torch.float32, False, 0.0),
    Case(2, 64, 28, 28, 256, (1, 1), (1, 1), (0, 0), (1, 1), 1, torch.float16, True, 0.0),
    Case(4, 32, 16, 16, 32, (3, 3), (1, 1), (1, 1), (1, 1), 1, torch.float32, False, 1e3),
    Case(4, 32, 16, 16, 32, (3, 3), (1, 1), (1, 1), (1, 1), 32, torch.float32, False, 0.0),
)


def drawn(count: int, seed: int) -> list[Case]:
    """Random layers, odd ones among them."""
    draw = random.Random(seed)
    cases: list[Case] = []
    for _ in range(count):
        groups = draw.choice((1, 1, 1, 1, 2, 3))
        pair = lambda *values: (draw.choice(values), draw.choice(values))  # noqa: E731
        kernel, dilation = pair(1, 2, 3, 3, 5), pair(1, 1, 1, 2)
        cases.append(
            Case(
                batch=draw.randint(1, 5),
                channels=groups * draw.choice(_CHANNELS),
                height=draw.randint(9, 20),
                width=draw.randint(9, 20),
                filters=groups * draw.choice(_CHANNELS),
                kernel=kernel,
                stride=pair(1, 1, 2, 3),
                padding=pair(0, 1, 2, 3),
                dilation=dilation,
                groups=groups,
                dtype=draw.choice((torch.float32, torch.float32, torch.bfloat16, torch.float16)),
                channels_last=draw.random() < 0.5,
                offset=draw.choice((0.0, 0.0, 0.0, 10.0)),
            )
        )
    return cases


def errors(case: Case, device: torch.device) -> dict[str, float]:
    """Largest errors of the output and both gradients, as fractions of the sums of magnitudes.

    Raises:
        RuntimeError: two calls gave different bits.
    """
    generator = torch.Generator().manual_seed(case.height * 1000 + case.filters)
    shape_f = (case.filters, case.channels // case.groups, *case.kernel)

    def normal(*shape: int) -> Tensor:
        tensor = (torch.randn(shape, generator=generator) + case.offset).to(device, case.dtype)
        return tensor.contiguous(memory_format=torch.channels_last) if case.channels_last else tensor

    geometry: tuple[Any, ...] = (case.stride, case.padding, case.dilation, case.groups)
    x, f = normal(case.batch, case.channels, case.height, case.width), normal(*shape_f)
    ops = torch.ops.adderkit
    output = ops.adder2d(x, f, *geometry)
    g = (torch.randn(output.shape, generator=generator)).to(device, case.dtype)
    found = {
        "forward": output,
        "input_grad": ops.adder2d_input_grad(g, x, f, *geometry),
        "weight_grad": ops.adder2d_weight_grad(g, x, f, *geometry),
    }
    again = (ops.adder2d(x, f, *geometry), ops.adder2d_input_grad(g, x, f, *geometry))
    if not (torch.equal(again[0], output) and torch.equal(again[1], found["input_grad"])):
        raise RuntimeError("two calls gave different bits")

    wide_x, wide_f, wide_g = x.double(), f.double(), g.double()
    forward = torch.empty(output.shape, dtype=torch.float64, device=device)
    reference.forward(wide_x, wide_f, forward, *geometry)
    input_grad = torch.empty(x.shape, dtype=torch.float64, device=device)
    reference.input_grad(wide_g, wide_x, wide_f, input_grad, *geometry)
    weight_grad = _weight_grad(wide_g, wide_x, wide_f, geometry)
    # sum(|x| + |f|): an adder layer of the magnitudes against minus themselves; the gradients' alike
    scale = torch.empty_like(forward)
    reference.forward(wide_x.abs(), -wide_f.abs(), scale, *geometry)
    magnitudes = {
        "forward": -scale,
        "input_grad": _input_scale(wide_g, wide_x, wide_f, geometry),
        "weight_grad": _weight_grad(wide_g.abs(), wide_x.abs(), -wide_f.abs(), geometry),
    }
    expected = {"forward": forward, "input_grad": input_grad, "weight_grad": weight_grad}
    return {
        name: float(((found[name].double() - expected[name]).abs() / magnitudes[name].clamp(min=1e-30)).max())
        for name in found
    }


def _weight_grad(g: Tensor, x: Tensor, f: Tensor, geometry: tuple[Any, ...]) -> Tensor:
    stride, padding, dilation, groups = geometry
    with torch.backends.cudnn.flags(enabled=False):  # which need not have a deterministic way for every geometry
        product = torch.nn.grad.conv2d_weight(x, f.shape, g, stride, padding, dilation, groups)  # type: ignore[arg-type]
    return product - f * g.sum((0, 2, 3)).view(-1, 1, 1, 1)


def _input_scale(g: Tensor, x: Tensor, f: Tensor, geometry: tuple[Any, ...]) -> Tensor:
    """sum |g| over the same taps (the input gradient of a layer whose differences are all above 1), times what the
    differences are rounded at: 8, as for normal numbers, is counted as 1."""
    scale = torch.empty_like(x)
    largest = float(x.abs().max() + f.abs().max())
    reference.input_grad(g.abs(), x, torch.full_like(f, 2 * largest + 1), scale, *geometry)
    return scale * max(1.0, largest / 8)


def check(cases: list[Case], device: torch.device) -> list[dict[str, Any]]:
    """A row per case: errors, and whether all are within the tolerance. Empty tensors are filled with NaN first."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what `torch.empty` gives with NaN
    rows: list[dict[str, Any]] = []
    try:
        for case in cases:
            row: dict[str, Any] = case._asdict() | {"dtype": str(case.dtype)}
            try:
                row |= errors(case, device)
                row["ok"] = all(
                    row[name] <= TOLERANCES[case.dtype] for name in ("forward", "input_grad", "weight_grad")
                )
            except Exception as error:  # whatever a kernel does, the other cases are wanted too
                row |= {"ok": False, "error": f"{type(error).__name__}: {error}"[:500]}
            rows.append(row)
            if is_lost(device):
                row |= {"ok": False, "then": "the device is lost: no other case was tried"}
                break
    finally:
        torch.use_deterministic_algorithms(False)
    return rows
