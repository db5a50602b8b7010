"""`adder3d`: `adder2d` on windows of frames, whose depth is merged into the channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adderkit.ops.formats import is_channels_last
from adderkit.ops.schema import register
from adderkit.ops.shared import add_bias, convolution_weight_grad, no_forward_mode, resolve_padding
from adderkit.ops.validate import check_adder3d, count, numbers

# Elements of one chunk of windows, which are copies: 8 MiB of float32.
CHUNK = 1 << 21


def adder3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Adder convolution of volumes: the signature of `torch.nn.functional.conv3d`, the sums of `adder2d`.

    Each output frame is an `adder2d` over the K_d input frames below it, as if they were channels; they are copied
    side by side, 8 MiB at a time or one output frame's. The output is channels_last_3d where the input or the filters
    are. Under autocast it computes in float32 and returns that.

    Shape: input (N, C_in, D, H, W) or (C_in, D, H, W), weight (C_out, C_in / groups, K_d, K_h, K_w), bias (C_out,);
        output (N, C_out, D_out, H_out, W_out) or (C_out, D_out, H_out, W_out).

    Args:
        input: float32, float64, bfloat16 or float16; float32 has the fast kernels.
        weight: the filters, of the dtype and on the device of `input`.
        bias: added to the output; its gradient is the ordinary one.
        stride: an integer or (depth, vertical, horizontal), >= 1.
        padding: an integer or (depth, vertical, horizontal), >= 0, or "valid" (none), or "same" (stride 1 only). A
            padded tap is x = 0 and contributes |f|.
        dilation: an integer or (depth, vertical, horizontal), >= 1.
        groups: number of blocks that input channels and filters are split into.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
        NotImplementedError: double backward or forward-mode differentiation, which surrogates do not have.

    Source: AdderNet (Chen et al., CVPR 2020), Eq. 2, 5 and 6.
    """
    strides, dilations = numbers("stride", stride, 3, 1), numbers("dilation", dilation, 3, 1)
    groups = count("groups", groups)
    is_unbatched = input.dim() == 4
    input, weight = no_forward_mode("adder3d", input, weight)
    batch = input.unsqueeze(0) if is_unbatched else input
    batch, paddings = resolve_padding(batch, weight, padding, strides, dilations, groups)
    output = torch.ops.adderkit.adder3d.default(batch, weight, strides, paddings, dilations, groups)
    output = add_bias(output, bias)
    return output.squeeze(0) if is_unbatched else output


class _Tap(NamedTuple):
    """One tap along the depth: output frames `inside` see the input frames `frames`, all others see padding."""

    inside: slice
    frames: slice


class _Chunk(NamedTuple):
    images: slice
    depths: slice


def _forward(input: Tensor, weight: Tensor, output: Tensor, *geometry: Any) -> None:
    filters, flat = _merged(weight), _flat(geometry)
    for chunk in _chunks(input, weight, output):
        windows = _windows(input, weight, chunk, geometry)
        frames = torch.ops.adderkit.adder2d.default(windows, filters, *flat)
        _frames(output, chunk).copy_(_split(frames, chunk))


def _input_grad(grad_output: Tensor, input: Tensor, weight: Tensor, grad_input: Tensor, *geometry: Any) -> None:
    filters, flat, groups = _merged(weight), _flat(geometry), geometry[3]
    grad_input.zero_()
    for chunk in _chunks(input, weight, grad_output):
        windows = _windows(input, weight, chunk, geometry)
        frames = _frames(grad_output, chunk).flatten(0, 1)
        grad = torch.ops.adderkit.adder2d_input_grad.default(frames, windows, filters, *flat)
        grad = _split(grad, chunk).unflatten(2, (groups, weight.shape[2], -1))
        target = grad_input[chunk.images].transpose(1, 2)
        for index, tap in enumerate(_taps(input, weight, chunk, geometry)):
            target[:, tap.frames] += grad[:, tap.inside, :, index].flatten(2, 3)


def _weight_grad(grad_output: Tensor, input: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
    """sum g * (x - f) = the convolution's weight gradient - f * sum g: the fast convolution does the work."""
    product = convolution_weight_grad(grad_output, input, weight, *geometry)
    total = grad_output.sum((0, 2, 3, 4)).view(-1, 1, 1, 1, 1)
    return torch.addcmul(product, weight, total, value=-1)


def _merged(weight: Tensor) -> Tensor:
    """(C_out, C_in / groups, K_d, K_h, K_w) as filters of K_d * C_in / groups channels, frame by frame."""
    return weight.transpose(1, 2).flatten(1, 2)


def _flat(geometry: tuple[Any, ...]) -> tuple[Any, ...]:
    """The geometry within a frame."""
    stride, padding, dilation, groups = geometry
    return stride[1:], padding[1:], dilation[1:], groups


def _chunks(input: Tensor, weight: Tensor, output: Tensor) -> Iterator[_Chunk]:
    """Images and output frames whose windows fit into `CHUNK`: several images, or some frames of one."""
    depth = output.shape[2]
    window = max(1, weight.shape[2] * input[:1, :, :1].numel())
    images = max(1, CHUNK // (window * depth))
    depths = min(depth, max(1, CHUNK // window))
    for first in range(0, input.shape[0], images):
        for start in range(0, depth, depths):
            yield _Chunk(slice(first, min(first + images, input.shape[0])), slice(start, min(start + depths, depth)))


def _taps(input: Tensor, weight: Tensor, chunk: _Chunk, geometry: tuple[Any, ...]) -> Iterator[_Tap]:
    stride, padding, dilation = (sizes[0] for sizes in geometry[:3])
    for tap in range(weight.shape[2]):
        offset = tap * dilation - padding + chunk.depths.start * stride  # the frame that the first depth sees
        first = max(0, -(offset // stride))  # the first depth that sees a real one
        last = (input.shape[2] - 1 - offset) // stride  # the last
        count = min(last + 1, chunk.depths.stop - chunk.depths.start) - first
        start = offset + first * stride
        stop = start + max(0, count - 1) * stride + 1
        yield _Tap(
            slice(first, first + max(0, count)),
            slice(start, stop, stride) if count > 0 else slice(0, 0),
        )


def _windows(input: Tensor, weight: Tensor, chunk: _Chunk, geometry: tuple[Any, ...]) -> Tensor:
    """What each output frame of a chunk sees: (images * depths, groups * K_d * C_in / groups, H, W)."""
    groups = geometry[3]
    images = input[chunk.images].transpose(1, 2)  # (N, D, C_in, H, W)
    count, _, channels, height, width = images.shape
    depths = chunk.depths.stop - chunk.depths.start
    shape = (count, depths, groups, weight.shape[2], channels // groups)
    if is_channels_last(input):
        windows = input.new_empty(*shape[:2], height, width, *shape[2:]).permute(0, 1, 4, 5, 6, 2, 3)
    else:
        windows = input.new_empty(*shape, height, width)
    for index, tap in enumerate(_taps(input, weight, chunk, geometry)):
        part = windows[:, :, :, index]
        part[:, : tap.inside.start].zero_()
        part[:, tap.inside.stop :].zero_()
        part[:, tap.inside] = images[:, tap.frames].unflatten(2, (groups, -1))
    return windows.flatten(2, 4).flatten(0, 1)


def _frames(tensor: Tensor, chunk: _Chunk) -> Tensor:
    """A chunk of (N, C, D, H, W) as (images, depths, C, H, W)."""
    return tensor[chunk.images, :, chunk.depths].transpose(1, 2)


def _split(frames: Tensor, chunk: _Chunk) -> Tensor:
    return frames.unflatten(0, (-1, chunk.depths.stop - chunk.depths.start))


register(
    "adder3d",
    "SymInt[3] stride, SymInt[3] padding, SymInt[3] dilation, SymInt groups",
    check_adder3d,
    _forward,
    _input_grad,
    _weight_grad,
)
