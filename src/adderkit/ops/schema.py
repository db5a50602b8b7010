"""The operation `adderkit::adder2d`: schema, fake kernels, surrogate gradients and the public function."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from adderkit.ops import cpu, reference
from adderkit.ops.formats import empty_input_grad, empty_output
from adderkit.ops.shared import add_bias, resolve_padding
from adderkit.ops.validate import check_adder2d, check_grad_output, pair

_GEOMETRY = "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups"
# Output strides follow input strides, so a compiler must hand over the strides that the fake kernel saw.
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)
_library = torch.library.Library("adderkit", "DEF")
_library.define(f"adder2d(Tensor input, Tensor weight, {_GEOMETRY}) -> Tensor", tags=_TAGS)
_library.define(
    f"adder2d_input_grad(Tensor grad_output, Tensor input, Tensor weight, {_GEOMETRY}) -> Tensor", tags=_TAGS
)
_library.define(
    f"adder2d_weight_grad(Tensor grad_output, Tensor input, Tensor weight, {_GEOMETRY}) -> Tensor", tags=_TAGS
)


def adder2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Adder convolution, y = -sum |x - f| (+ bias): the signature of `torch.nn.functional.conv2d`.

    Its gradients are surrogates, not derivatives: dL/df = sum g (x - f), dL/dx = sum g clamp(f - x, -1, 1).
    A padded tap is x = 0 and contributes |f|. The output is channels_last where the input or the filters are.
    Under autocast it computes in float32 and returns that: near -556 bfloat16 has steps of 4.

    Shape: input (N, C_in, H, W) or (C_in, H, W), weight (C_out, C_in / groups, K_h, K_w), bias (C_out,);
        output (N, C_out, H_out, W_out) or (C_out, H_out, W_out).

    Args:
        input: float32, float64, bfloat16 or float16; float32 has the fast kernels.
        weight: the filters, of the dtype and on the device of `input`.
        bias: added to the output; its gradient is the ordinary one.
        stride: an integer or (vertical, horizontal), >= 1.
        padding: an integer or (vertical, horizontal), >= 0, or "valid" (none), or "same" (stride 1 only).
        dilation: an integer or (vertical, horizontal), >= 1.
        groups: number of blocks that input channels and filters are split into.

    Raises:
        ValueError: naming the argument, its value and what is allowed.

    Source: AdderNet (Chen et al., CVPR 2020), Eq. 2, 5 and 6.
    """
    strides, dilations = pair("stride", stride, 1), pair("dilation", dilation, 1)
    is_unbatched = input.dim() == 3
    batch, paddings = resolve_padding(
        input.unsqueeze(0) if is_unbatched else input, weight, padding, strides, dilations
    )
    output = torch.ops.adderkit.adder2d.default(batch, weight, strides, paddings, dilations, groups)
    output = add_bias(output, bias)
    return output.squeeze(0) if is_unbatched else output


def _output(input: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
    return empty_output(input, weight, (input.shape[0], weight.shape[0], *check_adder2d(input, weight, *geometry)))


def _forward(input: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
    output = _output(input, weight, *geometry)
    reference.forward(input, weight, output, *geometry)
    return output


def _forward_cpu(input: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
    output = _output(input, weight, *geometry)
    if input.dtype == torch.float64 or not cpu.is_available():
        reference.forward(input, weight, output, *geometry)
    elif input.dtype == torch.float32:
        cpu.forward(input, weight, output, *geometry)
    else:
        wide = output.float()
        cpu.forward(input.float(), weight.float(), wide, *geometry)
        output.copy_(wide)
    return output


def _forward_fake(input: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
    return _output(input, weight, *geometry)


def _input_grad(grad_output: Tensor, input: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
    check_grad_output(grad_output, input, weight, check_adder2d(input, weight, *geometry))
    grad_input = empty_input_grad(input)
    reference.input_grad(grad_output, input, weight, grad_input, *geometry)
    return grad_input


def _input_grad_cpu(grad_output: Tensor, input: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
    check_grad_output(grad_output, input, weight, check_adder2d(input, weight, *geometry))
    grad_input = empty_input_grad(input)
    if input.dtype == torch.float64 or not cpu.is_available():
        reference.input_grad(grad_output, input, weight, grad_input, *geometry)
    elif input.dtype == torch.float32:
        cpu.input_grad(grad_output, input, weight, grad_input, *geometry)
    else:
        wide = grad_input.float()
        cpu.input_grad(grad_output.float(), input.float(), weight.float(), wide, *geometry)
        grad_input.copy_(wide)
    return grad_input


def _input_grad_fake(grad_output: Tensor, input: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
    check_grad_output(grad_output, input, weight, check_adder2d(input, weight, *geometry))
    return empty_input_grad(input)


def _weight_grad(grad_output: Tensor, input: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
    """sum g * (x - f) = the convolution's weight gradient - f * sum g: the fast convolution does the work."""
    check_grad_output(grad_output, input, weight, check_adder2d(input, weight, *geometry))
    stride, padding, dilation, groups = geometry
    wide = torch.float64 if input.dtype == torch.float64 else torch.float32
    g, x, f = grad_output.to(wide), input.to(wide), weight.to(wide)
    # TF32 would leave 10 bits of a float32 gradient; setting the flag costs 20 us, which the processor need not pay.
    with torch.backends.cudnn.flags(allow_tf32=False) if input.is_cuda else nullcontext():
        product = torch.ops.aten.convolution_backward(
            g, x, f, None, stride, padding, dilation, False, [0, 0], groups, [False, True, False]
        )[1]
    total = g.sum((0, 2, 3)).view(-1, 1, 1, 1)
    return torch.addcmul(product, f, total, value=-1).to(weight.dtype).contiguous()


def _weight_grad_fake(grad_output: Tensor, input: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
    check_grad_output(grad_output, input, weight, check_adder2d(input, weight, *geometry))
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, *ctx.geometry = inputs
    ctx.save_for_backward(input, weight)


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    input, weight = ctx.saved_tensors
    ops, arguments = torch.ops.adderkit, (grad_output, input, weight, *ctx.geometry)
    needs_input, needs_weight = ctx.needs_input_grad[:2]
    grad_input = ops.adder2d_input_grad.default(*arguments) if needs_input else None
    grad_weight = ops.adder2d_weight_grad.default(*arguments) if needs_weight else None
    return grad_input, grad_weight, None, None, None, None


def _no_second_order(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "the gradients of adder2d are surrogates and have no derivative of their own: no double backward"
    )


_library.impl("adder2d", _forward_cpu, "CPU")
_library.impl("adder2d_input_grad", _input_grad_cpu, "CPU")
_library.impl("adder2d", _forward, "CompositeExplicitAutograd")
_library.impl("adder2d_input_grad", _input_grad, "CompositeExplicitAutograd")
_library.impl("adder2d_weight_grad", _weight_grad, "CompositeExplicitAutograd")
torch.library.register_fake("adderkit::adder2d", _forward_fake, lib=_library)
torch.library.register_fake("adderkit::adder2d_input_grad", _input_grad_fake, lib=_library)
torch.library.register_fake("adderkit::adder2d_weight_grad", _weight_grad_fake, lib=_library)
torch.library.register_autograd("adderkit::adder2d", _backward, setup_context=_setup_context, lib=_library)
for _name in ("adder2d_input_grad", "adder2d_weight_grad"):
    torch.library.register_autograd(f"adderkit::{_name}", _no_second_order, lib=_library)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("adderkit::adder2d", _device, torch.float32, lib=_library)
