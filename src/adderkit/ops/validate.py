"""The checks of arguments: eager kernels and fake kernels call the same ones, so the messages agree."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

_COUNTS = {1: "a sequence of one", 2: "a pair of integers", 3: "three of them"}
_POSITIONS = {1: "L", 2: "H, W", 3: "D, H, W"}
_TAPS = {1: "K", 2: "K_h, K_w", 3: "K_d, K_h, K_w"}
_SIZES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}


def numbers(name: str, value: int | Sequence[int], dims: int, minimum: int) -> tuple[int, ...]:
    """Returns `value` as one integer for each of `dims` dimensions; a single integer serves all.

    Raises:
        ValueError: where it is neither an integer nor that many of them, or one is below `minimum`.
    """
    if type(value) is int:  # the common form first: a call makes six of these
        values = (value,)
    else:
        found = tuple(map(_integer, value)) if isinstance(value, Sequence) else (_integer(value),)
        values = tuple(number for number in found if number is not None)
        if len(values) != len(found) or len(values) not in (1, dims):
            raise ValueError(f"`{name}` (={value!r}) must be an integer or {_COUNTS[dims]}")
    if min(values) < minimum:
        raise ValueError(f"`{name}` (={value!r}) must be >= {minimum}")
    return values if len(values) == dims else values * dims


def pair(name: str, value: int | Sequence[int], minimum: int) -> tuple[int, int]:
    """`numbers` for (vertical, horizontal)."""
    vertical, horizontal = numbers(name, value, 2, minimum)
    return vertical, horizontal


def count(name: str, value: object) -> int:
    """Returns a number of channels, features or groups as a plain integer.

    Raises:
        ValueError: naming the argument and its value, where it is no integer >= 1.
    """
    number = _integer(value)
    if number is None or number < 1:
        raise ValueError(f"`{name}` (={value!r}) must be an integer >= 1")
    return number


def _integer(value: Any) -> int | None:
    """Plain integers, the symbolic ones of a compiler as they are, NumPy's and others' as plain ones; else None."""
    if type(value) is int or isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    if isinstance(value, (bool, Tensor)):  # a tensor's value would hold up the device, or not be there
        return None
    try:
        return index(value)
    except TypeError:
        return None


def check_padding(padding: int | Sequence[int] | str, stride: tuple[int, ...]) -> tuple[int, ...] | str:
    """Returns `padding` as one integer per dimension of `stride`, or "valid" or "same" as they are.

    Raises:
        ValueError: naming `padding` or `stride`, its value and what is allowed.
    """
    if not isinstance(padding, str):
        return numbers("padding", padding, len(stride), 0)
    if padding not in ("valid", "same"):
        raise ValueError(f"`padding` (={padding!r}) must be integers, 'valid' or 'same'")
    if padding == "same" and any(step != 1 for step in stride):
        shown = stride if stride[1:] else stride[0]
        raise ValueError(f"`stride` (={shown}) must be 1 where `padding` is 'same'")
    return padding


def check_adder2d(input: Tensor, weight: Tensor, *geometry: Any) -> tuple[int, ...]:
    """Checks one call (stride, padding, dilation, groups) and returns the output's shape.

    Shape: input (N, C_in, H, W), weight (C_out, C_in / groups, K_h, K_w).

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    check_tensors(2, input, weight)
    return (input.shape[0], weight.shape[0], *check_adder(2, input, weight, *geometry))


def check_adder(
    dims: int,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> tuple[int, ...]:
    """Checks the sizes of one call in `dims` dimensions, which `check_dims` found, and returns the output's.

    Shape: input (N, C_in, *sizes), weight (C_out, C_in / groups, *taps).

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    strides, dilations = numbers("stride", stride, dims, 1), numbers("dilation", dilation, dims, 1)
    paddings = numbers("padding", padding, dims, 0)
    count("groups", groups)
    filters, group_channels = weight.shape[:2]
    if filters % groups != 0:
        raise ValueError(f"`groups` (={groups}) must divide the {filters} filters of `weight`")
    _check_channels(input, weight, group_channels * groups, groups)
    return tuple(map(_out, _SIZES[dims], input.shape[2:], weight.shape[2:], strides, paddings, dilations))


def check_adder3d(input: Tensor, weight: Tensor, *geometry: Any) -> tuple[int, ...]:
    """Checks one call (stride, padding, dilation, groups) and returns the output's shape.

    Shape: input (N, C_in, D, H, W), weight (C_out, C_in / groups, K_d, K_h, K_w).

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    check_tensors(3, input, weight)
    return (input.shape[0], weight.shape[0], *check_adder(3, input, weight, *geometry))


def check_adder_transpose2d(
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> tuple[int, ...]:
    """Checks one call and returns the output's shape.

    Shape: input (N, C_in, H, W), weight (C_in, C_out / groups, K_h, K_w).

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    check_tensors(2, input, weight, "C_in, C_out / groups")
    strides, dilations = pair("stride", stride, 1), pair("dilation", dilation, 1)
    paddings, extras = pair("padding", padding, 0), pair("output_padding", output_padding, 0)
    count("groups", groups)
    if weight.shape[0] % groups != 0:
        raise ValueError(f"`groups` (={groups}) must divide the {weight.shape[0]} input channels of `weight`")
    _check_channels(input, weight, weight.shape[0], groups)
    sizes = []
    for axis, name in enumerate(_SIZES[2]):
        size, extra, most = input.shape[2 + axis], extras[axis], max(strides[axis], dilations[axis]) - 1
        _check_size(name, size)
        if extra > most:
            raise ValueError(
                f"`output_padding` (={extra} for the {name}) must be <= {most}, below `stride` or `dilation`"
            )
        full = (size - 1) * strides[axis] + dilations[axis] * (weight.shape[2 + axis] - 1) + 1 + extra
        if full <= 2 * paddings[axis]:
            raise ValueError(f"`padding` (={paddings[axis]} for the {name}) must be < {full}/2: it removes all outputs")
        sizes.append(full - 2 * paddings[axis])
    return (input.shape[0], weight.shape[1] * groups, *sizes)


def check_dims(dims: int, input: Tensor, weight: Tensor, channels: str) -> None:
    """Checks that both tensors have `dims` dimensions besides batch and channels, and that filters are not empty.

    Raises:
        ValueError: naming the tensor, its shape and what is allowed.
    """
    if input.dim() != 2 + dims:
        raise ValueError(
            f"`input` (shape {tuple(input.shape)}) must have {2 + dims} dimensions (N, C_in, {_POSITIONS[dims]})"
        )
    if weight.dim() != 2 + dims:
        raise ValueError(
            f"`weight` (shape {tuple(weight.shape)}) must have {2 + dims} dimensions ({channels}, {_TAPS[dims]})"
        )
    if min(weight.shape) < 1:
        raise ValueError(f"`weight` (shape {tuple(weight.shape)}) must have no empty dimension")


def check_tensors(dims: int, input: Tensor, weight: Tensor, channels: str = "C_out, C_in / groups") -> None:
    """Checks dimensions (as `check_dims`), types and devices.

    Raises:
        ValueError: naming the tensor, its shape, type or device and what is allowed.
    """
    check_dims(dims, input, weight, channels)
    if input.dtype not in FLOATING:
        raise ValueError(f"`input` (dtype {input.dtype}) must be float32, float64, bfloat16 or float16")
    if weight.dtype != input.dtype:
        raise ValueError(f"`weight` (dtype {weight.dtype}) must have the dtype of `input` ({input.dtype})")
    if weight.device != input.device:
        raise ValueError(f"`weight` (on {weight.device}) must be on the device of `input` ({input.device})")


def _check_channels(input: Tensor, weight: Tensor, channels: int, groups: int) -> None:
    if input.shape[1] != channels:
        raise ValueError(
            f"`input` (shape {tuple(input.shape)}) must have {channels} channels: "
            f"`weight` (shape {tuple(weight.shape)}) with `groups` (={groups})"
        )


def _check_size(name: str, size: int) -> None:
    if size < 1:
        raise ValueError(f"`input` {name} (={size}) must be >= 1")


def _out(name: str, size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    reach = dilation * (kernel - 1) + 1
    if size < 1 or size + 2 * padding < reach:
        _check_size(name, size)
        raise ValueError(
            f"`input` {name} (={size}, {size + 2 * padding} with padding) must be >= {reach}, "
            f"the dilated {name} of the filter"
        )
    return (size + 2 * padding - reach) // stride + 1


def check_grad(grad_output: Tensor, input: Tensor, expected: tuple[int, ...]) -> None:
    """Checks the gradient that a backward kernel is given against the shape of the forward call's output.

    Raises:
        ValueError: naming `grad_output`, its shape or dtype and what is allowed.
    """
    if tuple(grad_output.shape) != expected:
        raise ValueError(f"`grad_output` (shape {tuple(grad_output.shape)}) must have the shape {expected}")
    if grad_output.dtype != input.dtype or grad_output.device != input.device:
        raise ValueError(
            f"`grad_output` ({grad_output.dtype} on {grad_output.device}) must be like `input` "
            f"({input.dtype} on {input.device})"
        )


def check_bias(bias: Tensor, channels: int, dtype: torch.dtype, is_autocast: bool) -> None:
    """Checks that `bias` has one number for each of `channels` and, outside autocast, the output's `dtype`.

    Raises:
        ValueError: naming `bias`, its shape or dtype and what is allowed.
    """
    if bias.shape != (channels,):
        raise ValueError(f"`bias` (shape {tuple(bias.shape)}) must have the shape ({channels},)")
    if bias.dtype != dtype and not is_autocast:
        raise ValueError(f"`bias` (dtype {bias.dtype}) must have the dtype of `input` ({dtype})")
