"""`adder1d`: `adder2d` on images of one row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adderkit.ops.shared import add_bias, no_forward_mode, resolve_padding
from adderkit.ops.validate import check_adder, check_dims, count, numbers


def adder1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Adder convolution along one dimension: the signature of `torch.nn.functional.conv1d`, the sums of `adder2d`.

    Input and filters are seen as images of one row, which copies nothing. A transposed (N, L, C_in) sequence stays in
    that order, and so does its output. Under autocast it computes in float32 and returns that.

    Shape: input (N, C_in, L) or (C_in, L), weight (C_out, C_in / groups, K), bias (C_out,); output (N, C_out, L_out)
        or (C_out, L_out).

    Args:
        input: float32, float64, bfloat16 or float16; float32 has the fast kernels.
        weight: the filters, of the dtype and on the device of `input`.
        bias: added to the output; its gradient is the ordinary one.
        stride: an integer >= 1.
        padding: an integer >= 0, or "valid" (none), or "same" (stride 1 only). A padded tap is x = 0 and contributes
            |f|.
        dilation: an integer >= 1.
        groups: number of blocks that input channels and filters are split into.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
        NotImplementedError: double backward or forward-mode differentiation, which surrogates do not have.

    Source: AdderNet (Chen et al., CVPR 2020), Eq. 2, 5 and 6.
    """
    strides, dilations = numbers("stride", stride, 1, 1), numbers("dilation", dilation, 1, 1)
    groups = count("groups", groups)
    is_unbatched = input.dim() == 2
    input, weight = no_forward_mode("adder1d", input, weight)
    batch = input.unsqueeze(0) if is_unbatched else input
    batch, paddings = resolve_padding(batch, weight, padding, strides, dilations, groups)
    check_dims(1, batch, weight, "C_out, C_in / groups")
    check_adder(1, batch, weight, strides, paddings, dilations, groups)
    geometry = (1, *strides), (0, *paddings), (1, *dilations), groups
    output = torch.ops.adderkit.adder2d.default(batch.unsqueeze(2), weight.unsqueeze(2), *geometry).squeeze(2)
    output = add_bias(output, bias)
    return output.squeeze(0) if is_unbatched else output
