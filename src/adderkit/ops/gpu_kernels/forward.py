"""The forward kernel: y = -sum |x - f| in two instructions a term, a tile of sums in each thread's registers.

A thread has PIXELS / threads pixels of LANES filters. The lanes of a warp are neighbouring pixels, so inputs are read
where they lie, and all of them need the same filter values, which `pack` put side by side. Nothing goes through
shared memory, no thread waits for another. Neighbouring taps read nearly the same inputs: from the first-level cache,
as all taps of `block_channels` channels follow each other.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Not specialised: no kernel is compiled twice for other numbers, and the compiler can't conclude from a multiple of 16
# that a thread should hold neighbouring pixels, which would spread a warp's loads over four cache lines.
_NUMBERS = [
    *("pixels", "channels", "filters", "taps", "kernel_width", "height", "width", "out_size", "out_width"),
    *("stride_h", "stride_w", "padding_h", "padding_w", "dilation_h", "dilation_w", "block_channels"),
    *("x_image", "x_channel", "x_row", "x_column", "y_image", "y_channel", "y_row", "y_column"),
]


@triton.jit(do_not_specialize=_NUMBERS)
def forward_kernel(
    x,
    packed,
    y,
    pixels,
    channels,
    filters,
    taps,
    kernel_width,
    height,
    width,
    out_size,
    out_width,
    stride_h,
    stride_w,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    block_channels,
    x_image,
    x_channel,
    x_row,
    x_column,
    y_image,
    y_channel,
    y_row,
    y_column,
    PIXELS: tl.constexpr,
    LANES: tl.constexpr,
    UNROLL: tl.constexpr,
    VECTOR: tl.constexpr,
    MASKED: tl.constexpr,
    RUNS: tl.constexpr,
    X_CHANNEL: tl.constexpr,
    Y_CHANNEL: tl.constexpr,
):
    """One program: PIXELS output positions (over all images) of LANES filters of one group.

    Args:
        pixels: of all images together; `channels` and `filters` are those of a group.
        block_channels: a multiple of UNROLL, which divides `channels`.
        VECTOR: 4 where four neighbouring channels are read at once, 1 otherwise.
        MASKED: whether a tap can lie in the padding.
        RUNS: sums each block of channels by itself, so that long sums round less.
        X_CHANNEL, Y_CHANNEL: `x_channel` and `y_channel` as constants, 0 where they are not: loads and stores need no
            address arithmetic with them.
    """
    blocks = tl.cdiv(filters, LANES)
    pixel_blocks = tl.cdiv(pixels, PIXELS)
    block = tl.program_id(0) % blocks
    group = tl.program_id(0) // blocks // pixel_blocks
    pixel = tl.program_id(0) // blocks % pixel_blocks * PIXELS + tl.arange(0, PIXELS)
    position = tl.minimum(pixel, pixels - 1)
    image = (position // out_size).to(tl.int64)
    row, column = position % out_size // out_width, position % out_width
    top, left = row * stride_h - padding_h, column * stride_w - padding_w
    x_step = X_CHANNEL if X_CHANNEL else x_channel.to(tl.int64)
    y_step = Y_CHANNEL if Y_CHANNEL else y_channel.to(tl.int64)

    x += group.to(tl.int64) * channels * x_channel
    x_pixel = image * x_image + top.to(tl.int64) * x_row + left.to(tl.int64) * x_column
    packed += (group * blocks + block).to(tl.int64) * taps * channels * LANES
    sums = tl.zeros((LANES, PIXELS), tl.float32)
    total = tl.zeros((LANES, PIXELS), tl.float32)
    for first in range(0, channels, block_channels):
        end = tl.minimum(first + block_channels, channels)
        for tap in range(taps):
            down, right = tap // kernel_width * dilation_h, tap % kernel_width * dilation_w
            is_inside = ((top + down).to(tl.uint32) < height.to(tl.uint32)) & (
                (left + right).to(tl.uint32) < width.to(tl.uint32)
            )
            from_tap = down.to(tl.int64) * x_row + right.to(tl.int64) * x_column + tl.cast(first, tl.int64) * x_step
            x_at = x + (x_pixel + from_tap)
            f_at = packed + ((tap * channels + first) * LANES + tl.arange(0, LANES))
            for _ in range(first, end, UNROLL):
                if VECTOR == 4:
                    four = tl.multiple_of(x_at, 4 * x_at.dtype.element_ty.primitive_bitwidth // 8)
                    four = four[:, None] + tl.arange(0, 4)[None, :]
                    values = tl.load(four, mask=is_inside[:, None], other=0.0) if MASKED else tl.load(four)
                    even, odd = tl.split(tl.reshape(values.to(tl.float32), (PIXELS, 2, 2)))
                    x0, x2 = tl.split(even)
                    x1, x3 = tl.split(odd)
                    sums += tl.abs(x0[None, :] - tl.load(f_at)[:, None])
                    sums += tl.abs(x1[None, :] - tl.load(f_at + LANES)[:, None])
                    sums += tl.abs(x2[None, :] - tl.load(f_at + 2 * LANES)[:, None])
                    sums += tl.abs(x3[None, :] - tl.load(f_at + 3 * LANES)[:, None])
                else:
                    for k in tl.static_range(UNROLL):
                        at = x_at + k * x_step
                        value = tl.load(at, mask=is_inside, other=0.0) if MASKED else tl.load(at)
                        sums += tl.abs(value.to(tl.float32)[None, :] - tl.load(f_at + k * LANES)[:, None])
                x_at += UNROLL * x_step
                f_at += UNROLL * LANES
        if RUNS:
            total += sums
            sums = tl.zeros((LANES, PIXELS), tl.float32)
    if RUNS:
        sums = total
    y_pixel = image * y_image + row.to(tl.int64) * y_row + column.to(tl.int64) * y_column
    y_pixel += (group * filters + block * LANES).to(tl.int64) * y_step
    # Names pixels the faster dimension, whatever the strides say, so that threads store the sums that they have.
    y_at = tl.max_contiguous(y + y_pixel, 32)[None, :] + tl.arange(0, LANES)[:, None] * y_step
    is_output = (pixel < pixels)[None, :] & (block * LANES + tl.arange(0, LANES) < filters)[:, None]
    tl.store(y_at, -sums, mask=is_output)
