"""`adder2d`: its kernels, its filter gradient and the public function."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from adderkit.ops import cpu, gpu, reference
from adderkit.ops.schema import register
from adderkit.ops.shared import add_bias, convolution_weight_grad, no_forward_mode, resolve_padding
from adderkit.ops.validate import check_adder2d, count, pair


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
        input: float32, float64, bfloat16 or float16; float32 has the fast kernels, on a GPU half types too.
        weight: the filters, of the dtype and on the device of `input`.
        bias: added to the output; its gradient is the ordinary one.
        stride: an integer or (vertical, horizontal), >= 1.
        padding: an integer or (vertical, horizontal), >= 0, or "valid" (none), or "same" (stride 1 only).
        dilation: an integer or (vertical, horizontal), >= 1.
        groups: number of blocks that input channels and filters are split into.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
        NotImplementedError: double backward or forward-mode differentiation, which surrogates do not have.

    Source: AdderNet (Chen et al., CVPR 2020), Eq. 2, 5 and 6.
    """
    strides, dilations = pair("stride", stride, 1), pair("dilation", dilation, 1)
    groups = count("groups", groups)
    is_unbatched = input.dim() == 3
    input, weight = no_forward_mode("adder2d", input, weight)
    batch = input.unsqueeze(0) if is_unbatched else input
    batch, paddings = resolve_padding(batch, weight, padding, strides, dilations, groups)
    output = torch.ops.adderkit.adder2d.default(batch, weight, strides, paddings, dilations, groups)
    output = add_bias(output, bias)
    return output.squeeze(0) if is_unbatched else output


def _forward(input: Tensor, weight: Tensor, output: Tensor, *geometry: Any) -> None:
    _kernels(input, output).forward(input, weight, output, *geometry)


def _input_grad(grad_output: Tensor, input: Tensor, weight: Tensor, grad_input: Tensor, *geometry: Any) -> None:
    _kernels(input, grad_output).input_grad(grad_output, input, weight, grad_input, *geometry)


def _weight_grad(grad_output: Tensor, input: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
    """sum g * (x - f) = the convolution's weight gradient - f * sum g: the fast convolution does the work."""
    product = convolution_weight_grad(grad_output, input, weight, *geometry)
    total = grad_output.sum((0, 2, 3)).view(-1, 1, 1, 1)
    return torch.addcmul(product, weight, total, value=-1)


def _kernels(input: Tensor, output: Tensor) -> ModuleType:
    if input.is_cuda:
        return gpu if gpu.serves(input, output) else reference
    return cpu if input.dtype == torch.float32 and input.is_cpu and cpu.is_available() else reference


register(
    "adder2d",
    "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups",
    check_adder2d,
    _forward,
    _input_grad,
    _weight_grad,
    takes_half=gpu.serves,
)
