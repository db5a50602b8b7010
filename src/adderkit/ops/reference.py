"""The definition of `adder2d` and its surrogate input gradient in plain torch, for any device and float type.

It serves wherever no kernel does: float64, half types on the processor, other devices, `ADDERKIT_NATIVE=off`. Half
types are summed in float32, as convolutions sum them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

# Elements of the largest temporary, (N, C_out chunk, C_in, H_out, W_out). 2^18 float32 are 1 MiB, a core's
# second-level cache; an accelerator wants larger launches.
CHUNK_CPU = 1 << 18
CHUNK_OTHER = 1 << 24


def forward(
    input: Tensor,
    weight: Tensor,
    output: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> None:
    """Writes y = -sum |x - f| over each patch into `output`; a padded tap is x = 0 and contributes |f|.

    Shape: input (N, C_in, H, W), weight (C_out, C_in / groups, K_h, K_w), output (N, C_out, H_out, W_out).

    Source: AdderNet (Chen et al., CVPR 2020), Eq. 2.
    """
    wide = _wide(input.dtype)
    padded = pad(input.to(wide), (padding[1], padding[1], padding[0], padding[0]))
    total = torch.zeros(output.shape, dtype=wide, device=input.device)
    for group in range(groups):
        x_group, f_group = _group(padded, group, groups, 1), _group(weight.to(wide), group, groups, 0)
        y_group = _group(total, group, groups, 1)
        for vertical, horizontal in _taps(weight):
            x = _tap(x_group, vertical, horizontal, output, stride, dilation).unsqueeze(1)
            f = f_group[:, :, vertical, horizontal].unsqueeze(-1).unsqueeze(-1)
            for filters in _chunks(f.shape[0], x):
                y_group[:, filters] -= (x - f[filters]).abs_().sum(2)
    output.copy_(total)


def input_grad(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    grad_input: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> None:
    """Writes the surrogate dL/dx = sum g * clamp(f - x, -1, 1) into `grad_input`.

    Shape: as `forward`; grad_output like its output, grad_input like its input.

    Source: AdderNet (Chen et al., CVPR 2020), Eq. 6; its author code calls it HardTanh.
    """
    wide = _wide(input.dtype)
    vertical_padding, horizontal_padding = padding
    padded = pad(input.to(wide), (horizontal_padding, horizontal_padding, vertical_padding, vertical_padding))
    total = torch.zeros_like(padded)
    for group in range(groups):
        x_group, f_group = _group(padded, group, groups, 1), _group(weight.to(wide), group, groups, 0)
        g_group = _group(grad_output.to(wide), group, groups, 1).unsqueeze(2)
        total_group = _group(total, group, groups, 1)
        for vertical, horizontal in _taps(weight):
            x = _tap(x_group, vertical, horizontal, grad_output, stride, dilation).unsqueeze(1)
            f = f_group[:, :, vertical, horizontal].unsqueeze(-1).unsqueeze(-1)
            target = _tap(total_group, vertical, horizontal, grad_output, stride, dilation)
            for filters in _chunks(f.shape[0], x):
                target += (g_group[:, filters] * (f[filters] - x).clamp_(-1, 1)).sum(1)
    height, width = input.shape[2:]
    grad_input.copy_(
        total[
            :,
            :,
            vertical_padding : vertical_padding + height,
            horizontal_padding : horizontal_padding + width,
        ]
    )


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _group(tensor: Tensor, group: int, groups: int, dim: int) -> Tensor:
    size = tensor.shape[dim] // groups
    return tensor.narrow(dim, group * size, size)


def _taps(weight: Tensor) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(weight.shape[2]) for j in range(weight.shape[3]))


def _tap(
    padded: Tensor,
    vertical: int,
    horizontal: int,
    output: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """The view of `padded` that one tap of the filter sees, one value for each output position."""
    top, left = vertical * dilation[0], horizontal * dilation[1]
    bottom = top + (output.shape[2] - 1) * stride[0] + 1
    right = left + (output.shape[3] - 1) * stride[1] + 1
    return padded[:, :, top : bottom : stride[0], left : right : stride[1]]


def _chunks(filters: int, x: Tensor) -> Iterator[slice]:
    budget = CHUNK_CPU if x.device.type == "cpu" else CHUNK_OTHER
    step = max(1, budget // max(1, x.numel()))
    return (slice(start, start + step) for start in range(0, filters, step))
