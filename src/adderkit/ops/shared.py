"""What the functions of the family have in common: padding by name, bias, the convolution within filter gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import pad

from adderkit.ops.validate import check_adder, check_bias, check_dims, check_padding


def resolve_padding(
    input: Tensor,
    weight: Tensor,
    padding: int | Sequence[int] | str,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> tuple[Tensor, tuple[int, ...]]:
    """Turns any `padding` into one integer per dimension, and pads what is not symmetric about "same".

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    dims = len(stride)
    padding = check_padding(padding, stride)
    if padding == "valid":
        return input, (0,) * dims
    if not isinstance(padding, str):
        return input, padding
    check_dims(dims, input, weight, "C_out, C_in / groups")
    reaches = [step * (size - 1) for step, size in zip(dilation, weight.shape[2:], strict=True)]
    if any(reach % 2 for reach in reaches):  # an odd reach needs one more position on the far side
        # checked before it is padded, so that messages show the shape that was given
        check_adder(dims, input, weight, stride, [reach // 2 + 1 for reach in reaches], dilation, groups)
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


def convolution_weight_grad(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    output_padding: Sequence[int] | None = None,
) -> Tensor:
    """The filter gradient of the convolution with this geometry, sum g * x; transposed where `output_padding` is given.

    Shape: as the operation's; returns the shape of `weight`, in any memory order.
    """
    is_transposed = output_padding is not None
    extra = output_padding if is_transposed else [0] * len(stride)
    geometry = (stride, padding, dilation, is_transposed, extra, groups)
    with _without_tf32() if input.is_cuda else nullcontext():
        return torch.ops.aten.convolution_backward.default(
            grad_output, input, weight, None, *geometry, [False, True, False]
        )[1]


@contextmanager
def _without_tf32() -> Iterator[None]:
    """TF32 would leave 10 bits of a float32 gradient.

    By the setting of convolutions alone: `cudnn.flags` would switch all of cuDNN off unless told not to, and
    `cudnn.allow_tf32` fails where the user has set the precision of convolutions and not that of recurrent layers.
    """
    convolutions = torch.backends.cudnn.conv  # pyright: ignore[reportAttributeAccessIssue]
    before = convolutions.fp32_precision
    if before != "tf32":
        yield
        return
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def no_forward_mode(name: str, input: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Makes a tangent on either tensor an error: torch would drop it and give a derivative of zero.

    Raises:
        NotImplementedError: forward-mode automatic differentiation reaches the operation.
    """
    if forward_ad._current_level < 0:  # outside of `dual_level` and `torch.func.jvp` there are no tangents
        return input, weight
    if torch.compiler.is_compiling():  # which passes over `_NoTangents.jvp` as of torch 2.15
        _refuse_forward_mode(name)
    return _NoTangents.apply(name, input, weight)  # type: ignore[return-value]


class _NoTangents(torch.autograd.Function):
    """Views of its tensors; torch calls `jvp` only where one has a tangent, in whatever nesting of `torch.func`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, *tensors: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> None:
        _refuse_forward_mode(ctx.name)


def _refuse_forward_mode(name: str) -> NoReturn:
    raise NotImplementedError(
        f"the gradients of {name} are surrogates, which have no forward mode: take backward's, not torch.func.jvp or "
        "torch.autograd.forward_ad"
    )
