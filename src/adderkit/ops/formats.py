"""Memory formats of outputs and gradients: those that torch's convolutions give."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def empty_output(input: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
    """An output of `shape`, like `input`: channels_last where the input or the filters are, as `conv2d`."""
    is_last = is_channels_last(input) or is_channels_last(weight)
    memory_format = _CHANNELS_LAST[input.dim()] if is_last else torch.contiguous_format
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=memory_format)


def empty_input_grad(input: Tensor) -> Tensor:
    """A dense gradient in the input's memory format."""
    return empty_output(input, input, input.shape)


def is_channels_last(tensor: Tensor) -> bool:
    """Whether channels lie closer together than positions. Shape: (N, C, H, W) or (N, C, D, H, W)."""
    channel_step = tensor.stride(1)
    if tensor.shape[1] == 1 or channel_step == 0:
        return False
    for dim in range(tensor.dim() - 1, 1, -1):
        if tensor.shape[dim] > 1:
            return channel_step < tensor.stride(dim)
    return False
