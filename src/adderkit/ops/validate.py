"""The one check of `adder2d` arguments: eager kernels and fake kernels call it, so the messages agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def pair(name: str, value: int | Sequence[int], minimum: int) -> tuple[int, int]:
    """Returns `value` as (vertical, horizontal); a single integer serves both.

    Raises:
        ValueError: where it is neither an integer nor two of them, or one is below `minimum`.
    """
    if type(value) is int:  # the common forms first: a call makes six pairs
        vertical = horizontal = value
    else:
        values = tuple(value) if isinstance(value, Sequence) else (value,)
        if isinstance(value, str) or len(values) not in (1, 2) or not all(map(_is_int, values)):
            raise ValueError(f"`{name}` (={value!r}) must be an integer or a pair of integers")
        vertical, horizontal = values[0], values[-1]
    if vertical < minimum or horizontal < minimum:
        raise ValueError(f"`{name}` (={value!r}) must be >= {minimum}")
    return vertical, horizontal


def _is_int(value: object) -> bool:
    return type(value) is int or (isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool))


def check_adder2d(
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> tuple[int, int]:
    """Checks one call and returns the output's (height, width).

    Shape: input (N, C_in, H, W), weight (C_out, C_in / groups, K_h, K_w).

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    if input.dim() != 4:
        raise ValueError(f"`input` (shape {tuple(input.shape)}) must have 4 dimensions (N, C_in, H, W)")
    if weight.dim() != 4:
        raise ValueError(
            f"`weight` (shape {tuple(weight.shape)}) must have 4 dimensions (C_out, C_in / groups, K_h, K_w)"
        )
    if input.dtype not in FLOATING:
        raise ValueError(f"`input` (dtype {input.dtype}) must be float32, float64, bfloat16 or float16")
    if weight.dtype != input.dtype:
        raise ValueError(f"`weight` (dtype {weight.dtype}) must have the dtype of `input` ({input.dtype})")
    if weight.device != input.device:
        raise ValueError(f"`weight` (on {weight.device}) must be on the device of `input` ({input.device})")
    vertical_stride, horizontal_stride = pair("stride", stride, 1)
    vertical_padding, horizontal_padding = pair("padding", padding, 0)
    vertical_dilation, horizontal_dilation = pair("dilation", dilation, 1)
    if not _is_int(groups) or groups < 1:
        raise ValueError(f"`groups` (={groups!r}) must be an integer >= 1")
    _, channels, height, width = input.shape
    out_channels, group_channels, kernel_height, kernel_width = weight.shape
    if min(out_channels, group_channels, kernel_height, kernel_width) < 1:
        raise ValueError(f"`weight` (shape {tuple(weight.shape)}) must have no empty dimension")
    if out_channels % groups != 0:
        raise ValueError(f"`groups` (={groups}) must divide the {out_channels} filters of `weight`")
    if channels != group_channels * groups:
        raise ValueError(
            f"`input` (shape {tuple(input.shape)}) must have {group_channels * groups} channels: "
            f"`weight` (shape {tuple(weight.shape)}) with `groups` (={groups})"
        )
    out_height = _out("height", height, kernel_height, vertical_stride, vertical_padding, vertical_dilation)
    out_width = _out("width", width, kernel_width, horizontal_stride, horizontal_padding, horizontal_dilation)
    return out_height, out_width


def _out(name: str, size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    reach = dilation * (kernel - 1) + 1
    if size + 2 * padding < reach:
        raise ValueError(
            f"`input` {name} (={size}, {size + 2 * padding} with padding) must be >= {reach}, "
            f"the dilated {name} of the filter"
        )
    return (size + 2 * padding - reach) // stride + 1


def check_grad_output(grad_output: Tensor, input: Tensor, weight: Tensor, size: tuple[int, int]) -> None:
    """Checks the gradient that a backward kernel is given against the forward call's output.

    Raises:
        ValueError: naming `grad_output`, its shape or dtype and what is allowed.
    """
    expected = (input.shape[0], weight.shape[0], *size)
    if tuple(grad_output.shape) != expected:
        raise ValueError(f"`grad_output` (shape {tuple(grad_output.shape)}) must have the shape {expected}")
    if grad_output.dtype != input.dtype or grad_output.device != input.device:
        raise ValueError(
            f"`grad_output` ({grad_output.dtype} on {grad_output.device}) must be like `input` "
            f"({input.dtype} on {input.device})"
        )
