"""The input gradient's kernel: sum g * clamp(f - x, -1, 1), two instructions a term.

With f' = f / 2 + 1/2, x' = x / 2 and saturation to [0, 1]: clamp(f - x, -1, 1) = 2 sat(f' - x') - 1. Saturating is
part of the subtraction, so a term is one subtraction and one multiply-add, and the gradient
2 (sum g sat(f' - x') - sum g / 2). Tiles are as in `forward`, with input channels as lanes: x' and the sums are in
registers, g and f' are read.
"""

from __future__ import annotations

import triton
import triton.language as tl

_NUMBERS = [
    *("channels", "filters", "kernel_height", "kernel_width", "height", "width", "out_height", "out_width", "images"),
    *("stride_h", "stride_w", "padding_h", "padding_w", "dilation_h", "dilation_w", "block_filters", "flag_count"),
    *("g_image", "g_channel", "g_row", "g_column", "x_image", "x_channel", "x_row", "x_column"),
    *("y_image", "y_channel", "y_row", "y_column", "step_h", "step_w", "pixel_blocks"),
]


@triton.jit
def _term(g, f, x, is_inside, FAST: tl.constexpr):
    """g * (f - x, at least 0 and at most 1). The instruction turns NaN into 0; the other way keeps it."""
    if FAST:
        return g[None, :] * tl.inline_asm_elementwise(
            "sub.sat.f32 $0, $1, $2;", "=f,f,f", [f[:, None], x], tl.float32, True, 1
        )
    low = tl.maximum(f[:, None] - x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    saturated = tl.minimum(low, 1.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.where(is_inside[None, :], g[None, :] * saturated, 0.0)


@triton.jit
def _first_tap(shift, kernel, stride, dilation, step):
    """The first tap k whose shift - k * dilation is a multiple of the stride; `kernel` where there is none."""
    first = kernel
    for back in range(step):
        tap = step - 1 - back
        if (shift - tap * dilation) % stride == 0:
            first = tap
    return first


@triton.jit
def _sum(
    g,
    packed,
    x,
    g_pixel,
    row,
    column,
    shift_h,
    shift_w,
    first_h,
    first_w,
    step_h,
    step_w,
    filters,
    kernel_height,
    kernel_width,
    out_height,
    out_width,
    stride_h,
    stride_w,
    dilation_h,
    dilation_w,
    block_filters,
    g_channel,
    g_row,
    g_column,
    PIXELS: tl.constexpr,
    LANES: tl.constexpr,
    UNROLL: tl.constexpr,
    VECTOR: tl.constexpr,
    MASKED: tl.constexpr,
    G_CHANNEL: tl.constexpr,
    FAST: tl.constexpr,
):
    g_step = G_CHANNEL if G_CHANNEL else g_channel.to(tl.int64)
    sums = tl.zeros((LANES, PIXELS), tl.float32)
    is_reached = tl.zeros((PIXELS,), tl.int1)
    for first in range(0, filters, block_filters):
        end = tl.minimum(first + block_filters, filters)
        g_sum = tl.zeros((PIXELS,), tl.float32)
        for i in range(first_h, kernel_height, step_h):
            for j in range(first_w, kernel_width, step_w):
                # Exact divisions: the loops visit taps with which they are.
                down, right = (shift_h - i * dilation_h) // stride_h, (shift_w - j * dilation_w) // stride_w
                is_inside = ((row + down).to(tl.uint32) < out_height.to(tl.uint32)) & (
                    (column + right).to(tl.uint32) < out_width.to(tl.uint32)
                )
                is_reached |= is_inside
                from_tap = down.to(tl.int64) * g_row + right.to(tl.int64) * g_column + tl.cast(first, tl.int64) * g_step
                g_at = g + (g_pixel + from_tap)
                f_at = packed + (((i * kernel_width + j) * filters + first) * LANES + tl.arange(0, LANES))
                for _ in range(first, end, UNROLL):
                    if VECTOR == 4:
                        four = tl.multiple_of(g_at, 4 * g_at.dtype.element_ty.primitive_bitwidth // 8)
                        four = four[:, None] + tl.arange(0, 4)[None, :]
                        values = tl.load(four, mask=is_inside[:, None], other=0.0) if MASKED else tl.load(four)
                        even, odd = tl.split(tl.reshape(values.to(tl.float32), (PIXELS, 2, 2)))
                        g0, g2 = tl.split(even)
                        g1, g3 = tl.split(odd)
                        sums += _term(g0, tl.load(f_at), x, is_inside, FAST)
                        sums += _term(g1, tl.load(f_at + LANES), x, is_inside, FAST)
                        sums += _term(g2, tl.load(f_at + 2 * LANES), x, is_inside, FAST)
                        sums += _term(g3, tl.load(f_at + 3 * LANES), x, is_inside, FAST)
                        g_sum = g_sum + g0 + g1 + g2 + g3
                    else:
                        for k in tl.static_range(UNROLL):
                            at = g_at + k * g_step
                            value = tl.load(at, mask=is_inside, other=0.0) if MASKED else tl.load(at)
                            value = value.to(tl.float32)
                            sums += _term(value, tl.load(f_at + k * LANES), x, is_inside, FAST)
                            g_sum += value
                    g_at += UNROLL * g_step
                    f_at += UNROLL * LANES
        # Here, not at the end: sums of saturated terms alone would grow with their number, and their rounding with it.
        sums -= 0.5 * g_sum[None, :]
    return 2.0 * sums, is_reached


@triton.jit(do_not_specialize=_NUMBERS)
def input_grad_kernel(
    g,
    packed,
    flags,
    x,
    y,
    images,
    channels,
    filters,
    kernel_height,
    kernel_width,
    height,
    width,
    out_height,
    out_width,
    stride_h,
    stride_w,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    step_h,
    step_w,
    pixel_blocks,
    block_filters,
    flag_count,
    g_image,
    g_channel,
    g_row,
    g_column,
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
    G_CHANNEL: tl.constexpr,
    Y_CHANNEL: tl.constexpr,
    FLAGS: tl.constexpr,
    FAST: tl.constexpr,
):
    """One program: PIXELS input positions of one parity class (over all images), LANES channels of one group.

    Rows and columns of a class are those that the same taps reach: `stride` apart. So no thread idles at a tap.

    Args:
        images: `channels` and `filters` are those of a group.
        step_h, step_w: from a tap of a class to its next, stride / gcd(stride, dilation).
        pixel_blocks: of the largest class.
        block_filters: a multiple of UNROLL, which divides `filters`.
        flag_count: flags of `pack` for each block of lanes.
        VECTOR, MASKED, G_CHANNEL, Y_CHANNEL: as in `forward_kernel`, for g.
        FAST: saturates by the subtraction itself; False under the interpreter, which can't.
    """
    blocks = tl.cdiv(channels, LANES)
    block = tl.program_id(0) % blocks
    rest = tl.program_id(0) // blocks
    start = rest % pixel_blocks * PIXELS
    rest = rest // pixel_blocks
    group = rest // (stride_h * stride_w)
    class_h, class_w = rest // stride_w % stride_h, rest % stride_w
    rows = (tl.maximum(height - class_h, 0) + stride_h - 1) // stride_h
    columns = (tl.maximum(width - class_w, 0) + stride_w - 1) // stride_w
    pixels = images * rows * columns
    if start >= pixels:
        return
    pixel = start + tl.arange(0, PIXELS)
    position = tl.minimum(pixel, pixels - 1)
    image = (position // (rows * columns)).to(tl.int64)
    row, column = position % (rows * columns) // columns, position % columns
    lane = block * LANES + tl.arange(0, LANES)
    is_output = (pixel < pixels)[None, :] & (lane < channels)[:, None]
    x_row_at, x_column_at = (class_h + row * stride_h).to(tl.int64), (class_w + column * stride_w).to(tl.int64)

    x_pixel = image * x_image + x_row_at * x_row + x_column_at * x_column
    x_pixel += (group * channels + block * LANES).to(tl.int64) * x_channel
    # Names pixels the faster dimension, as the sums have them, whatever the strides say.
    x_at = tl.max_contiguous(x + x_pixel, 32)[None, :] + tl.arange(0, LANES)[:, None] * x_channel.to(tl.int64)
    halved = 0.5 * tl.load(x_at, mask=is_output, other=0.0).to(tl.float32)

    shift_h, shift_w = class_h + padding_h, class_w + padding_w
    first_h = _first_tap(shift_h, kernel_height, stride_h, dilation_h, step_h)
    first_w = _first_tap(shift_w, kernel_width, stride_w, dilation_w, step_w)
    g += group.to(tl.int64) * filters * g_channel
    g_pixel = image * g_image + row.to(tl.int64) * g_row + column.to(tl.int64) * g_column
    packed += (group * blocks + block).to(tl.int64) * kernel_height * kernel_width * filters * LANES

    is_bad = tl.zeros((FLAGS,), tl.int32)
    for flag in range(0, flag_count, FLAGS):
        number = flag + tl.arange(0, FLAGS)
        is_bad |= tl.load(flags + (group * blocks + block) * flag_count + number, mask=number < flag_count, other=0)
    # Filters that are not finite cost time instead of being lost.
    if FAST and tl.max(is_bad) == 0:
        grad, is_reached = _sum(
            g,
            packed,
            halved,
            g_pixel,
            row,
            column,
            shift_h,
            shift_w,
            first_h,
            first_w,
            step_h,
            step_w,
            filters,
            kernel_height,
            kernel_width,
            out_height,
            out_width,
            stride_h,
            stride_w,
            dilation_h,
            dilation_w,
            block_filters,
            g_channel,
            g_row,
            g_column,
            PIXELS,
            LANES,
            UNROLL,
            VECTOR,
            MASKED,
            G_CHANNEL,
            True,
        )
    else:
        grad, is_reached = _sum(
            g,
            packed,
            halved,
            g_pixel,
            row,
            column,
            shift_h,
            shift_w,
            first_h,
            first_w,
            step_h,
            step_w,
            filters,
            kernel_height,
            kernel_width,
            out_height,
            out_width,
            stride_h,
            stride_w,
            dilation_h,
            dilation_w,
            block_filters,
            g_channel,
            g_row,
            g_column,
            PIXELS,
            LANES,
            UNROLL,
            VECTOR,
            MASKED,
            G_CHANNEL,
            False,
        )
    grad = tl.where((halved != halved) & is_reached[None, :], halved, grad)

    y_step = Y_CHANNEL if Y_CHANNEL else y_channel.to(tl.int64)
    y_pixel = image * y_image + x_row_at * y_row + x_column_at * y_column
    y_pixel += (group * channels + block * LANES).to(tl.int64) * y_step
    y_at = tl.max_contiguous(y + y_pixel, 32)[None, :] + tl.arange(0, LANES)[:, None] * y_step
    tl.store(y_at, grad, mask=is_output)
