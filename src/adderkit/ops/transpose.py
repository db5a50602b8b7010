"""`adder_transpose2d`: one `adder2d` for each set of outputs that see the same taps, over real taps only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import gcd
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adderkit.ops.schema import register
from adderkit.ops.shared import add_bias, convolution_weight_grad, no_forward_mode
from adderkit.ops.validate import check_adder_transpose2d, count, pair


def adder_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """Transposed adder convolution: the signature of `torch.nn.functional.conv_transpose2d`.

    Every input element adds -|x - f| to each output that its filter reaches. Only real taps count: a convolution may
    insert zeros between the inputs and around them, because 0 * f adds nothing; here |0 - f| would add an offset
    that differs from output to output. So, unlike in `adder2d`, the border adds nothing, and outputs that no tap
    reaches are 0 (plus bias). Neighbouring outputs see different numbers of taps where the kernel size is no
    multiple of the stride; with a multiple, as 4 over 2, and dilation 1 all but the border's see equally many.

    Its gradients are the same surrogates as `adder2d`'s, over the same taps. The output is channels_last where the
    input or the filters are. Under autocast it computes in float32 and returns that.

    Shape: input (N, C_in, H, W) or (C_in, H, W), weight (C_in, C_out / groups, K_h, K_w), bias (C_out,);
        output (N, C_out, H_out, W_out) or (C_out, H_out, W_out), where
        H_out = (H - 1) * stride - 2 * padding + dilation * (K_h - 1) + output_padding + 1.

    Args:
        input: float32, float64, bfloat16 or float16; float32 has the fast kernels.
        weight: the filters, of the dtype and on the device of `input`.
        bias: added to the output; its gradient is the ordinary one.
        stride: an integer or (vertical, horizontal), >= 1.
        padding: rows and columns taken away on each side, an integer or (vertical, horizontal), >= 0.
        output_padding: rows and columns added at the bottom and on the right, below `stride` or `dilation`.
        groups: number of blocks that input and output channels are split into.
        dilation: an integer or (vertical, horizontal), >= 1.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
        NotImplementedError: double backward or forward-mode differentiation, which surrogates do not have.

    Source: AdderNet (Chen et al., CVPR 2020), Eq. 2, 5 and 6, on the taps of a transposed convolution.
    """
    sizes = pair("stride", stride, 1), pair("padding", padding, 0), pair("output_padding", output_padding, 0)
    groups = count("groups", groups)
    is_unbatched = input.dim() == 3
    input, weight = no_forward_mode("adder_transpose2d", input, weight)
    batch = input.unsqueeze(0) if is_unbatched else input
    dilations = pair("dilation", dilation, 1)
    output = torch.ops.adderkit.adder_transpose2d.default(batch, weight, *sizes, dilations, groups)
    output = add_bias(output, bias)
    return output.squeeze(0) if is_unbatched else output


class _Run(NamedTuple):
    """Outputs along one dimension that see the same taps: one dense run of inputs, seen by a filter of stride 1."""

    outputs: slice
    inputs: slice
    taps: slice  # of the flipped filter
    dilation: int


@lru_cache(maxsize=1024)  # a network repeats a few sizes; a run of 64 outputs takes some 50 us to find
def _runs(inputs: int, outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[_Run, ...]:
    step = stride // gcd(stride, dilation)  # from one tap of an output to its next
    spacing = step * dilation // stride  # of the inputs that they see
    runs: list[_Run] = []
    for phase in range(min(stride, outputs)):
        first, seen = phase, ()
        for output in range(phase, outputs + stride, stride):  # one past the end closes the last run
            reached = output + padding  # tap k of input i lands on stride * i + dilation * k - padding
            taps = tuple(
                tap
                for tap in range(kernel)
                if (reached - dilation * tap) % stride == 0 and 0 <= (reached - dilation * tap) // stride < inputs
            )
            if output < outputs and taps == seen:
                continue
            if seen:
                count = (output - first) // stride
                start = (first + padding - dilation * seen[-1]) // stride
                runs.append(
                    _Run(
                        slice(first, first + (count - 1) * stride + 1, stride),
                        slice(start, start + count + (len(seen) - 1) * spacing),
                        slice(kernel - 1 - seen[-1], kernel - seen[0], step),
                        spacing,
                    )
                )
            first, seen = output, taps
            if output >= outputs:
                break
    return tuple(runs)


def _regions(input: Tensor, weight: Tensor, output: Tensor, geometry: tuple[Any, ...]) -> Iterator[tuple[_Run, _Run]]:
    stride, padding, _, dilation, _ = geometry
    rows, columns = (
        _runs(input.shape[axis], output.shape[axis], weight.shape[axis], stride[i], padding[i], dilation[i])
        for i, axis in enumerate((2, 3))
    )
    return ((row, column) for row in rows for column in columns)


def _forward(input: Tensor, weight: Tensor, output: Tensor, *geometry: Any) -> None:
    groups = geometry[4]
    filters = _flipped(weight, groups)
    output.zero_()
    for row, column in _regions(input, weight, output, geometry):
        output[:, :, row.outputs, column.outputs] = torch.ops.adderkit.adder2d.default(
            input[:, :, row.inputs, column.inputs],
            filters[:, :, row.taps, column.taps],
            (1, 1),
            (0, 0),
            (row.dilation, column.dilation),
            groups,
        )


def _input_grad(grad_output: Tensor, input: Tensor, weight: Tensor, grad_input: Tensor, *geometry: Any) -> None:
    groups = geometry[4]
    filters = _flipped(weight, groups)
    grad_input.zero_()
    for row, column in _regions(input, weight, grad_output, geometry):
        grad_input[:, :, row.inputs, column.inputs] += torch.ops.adderkit.adder2d_input_grad.default(
            grad_output[:, :, row.outputs, column.outputs],
            input[:, :, row.inputs, column.inputs],
            filters[:, :, row.taps, column.taps],
            (1, 1),
            (0, 0),
            (row.dilation, column.dilation),
            groups,
        )


def _weight_grad(grad_output: Tensor, input: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
    """sum g * (x - f) = the transposed convolution's weight gradient - f * (sum of g over the outputs of each tap)."""
    stride, padding, output_padding, dilation, groups = geometry
    product = convolution_weight_grad(grad_output, input, weight, stride, padding, dilation, groups, output_padding)
    total = grad_output.sum(0)
    for axis in (0, 1):
        reached = (
            _reached(input.shape[2 + axis], total.shape[1], tap, stride[axis], padding[axis], dilation[axis])
            for tap in range(weight.shape[2 + axis])
        )
        # (C_out, rows, columns) to (C_out, columns, vertical taps) to (C_out, vertical taps, horizontal taps)
        total = torch.stack([total[:, outputs].sum(1) for outputs in reached], -1)
    total = total.unflatten(0, (groups, 1, -1)).expand(-1, weight.shape[0] // groups, -1, -1, -1)
    return torch.addcmul(product, weight, total.flatten(0, 1), value=-1)


def _reached(inputs: int, outputs: int, tap: int, stride: int, padding: int, dilation: int) -> slice:
    """The outputs that a tap lands on."""
    offset = dilation * tap - padding
    first = max(0, -(offset // stride))  # the first input whose tap lands inside
    last = min(inputs - 1, (outputs - 1 - offset) // stride)
    return slice(offset + first * stride, offset + last * stride + 1, stride) if first <= last else slice(0, 0)


def _flipped(weight: Tensor, groups: int) -> Tensor:
    """(C_in, C_out / groups, K_h, K_w) as the flipped filters of `adder2d`: (C_out, C_in / groups, K_h, K_w)."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip(2, 3)


register(
    "adder_transpose2d",
    "SymInt[2] stride, SymInt[2] padding, SymInt[2] output_padding, SymInt[2] dilation, SymInt groups",
    check_adder_transpose2d,
    _forward,
    _input_grad,
    _weight_grad,
)
