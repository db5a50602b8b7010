"""What the public functions of the family have in common: padding by name, and the bias."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from adderkit.ops.validate import check_bias, numbers


def resolve_padding(
    input: Tensor,
    weight: Tensor,
    padding: int | Sequence[int] | str,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[Tensor, tuple[int, ...]]:
    """Turns any `padding` into one integer per dimension, and pads what is not symmetric about "same".

    Raises:
        ValueError: naming `padding` or `stride`, its value and what is allowed.
    """
    dims = len(stride)
    if not isinstance(padding, str):
        return input, numbers("padding", padding, dims, 0)
    if padding not in ("valid", "same"):
        raise ValueError(f"`padding` (={padding!r}) must be integers, 'valid' or 'same'")
    if padding == "same" and any(step != 1 for step in stride):
        shown = stride if dims > 1 else stride[0]
        raise ValueError(f"`stride` (={shown}) must be 1 where `padding` is 'same'")
    if padding == "valid" or weight.dim() != 2 + dims:  # the operation says what is wrong
        return input, (0,) * dims
    reaches = [step * (size - 1) for step, size in zip(dilation, weight.shape[2:], strict=True)]
    if any(reach % 2 for reach in reaches):  # an odd reach needs one more position on the far side
        input = pad(input, [margin for reach in reversed(reaches) for margin in (0, reach % 2)])
    return input, tuple(reach // 2 for reach in reaches)


def add_bias(output: Tensor, bias: Tensor | None) -> Tensor:
    """Adds one number per channel; under autocast in the output's type.

    Raises:
        ValueError: naming `bias`, its shape or dtype and what is allowed.
    """
    if bias is None:
        return output
    check_bias(bias, output.shape[1], output.dtype, torch.is_autocast_enabled(output.device.type))
    return output + bias.to(output.dtype).view(1, -1, *(1,) * (output.dim() - 2))
