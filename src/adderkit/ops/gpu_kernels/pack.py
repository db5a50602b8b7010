"""Packs filters for the kernels: the values that one step of a tile's inner loop needs lie side by side."""

from __future__ import annotations

import triton
import triton.language as tl

# Sizes differ from layer to layer: a kernel compiled anew for each multiple of 16 among them would gain nothing.
_NUMBERS = [
    *("lanes", "depth", "taps", "kernel_width"),
    *("group_step", "lane_step", "depth_step", "row_step", "column_step"),
]


@triton.jit(do_not_specialize=_NUMBERS)
def pack_kernel(
    weight,
    packed,
    flags,
    lanes,
    depth,
    taps,
    kernel_width,
    group_step,
    lane_step,
    depth_step,
    row_step,
    column_step,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
    HALVED: tl.constexpr,
):
    """Writes packed[group][block of lanes][tap][depth][lane] in float32, zeros beyond the last lane.

    `HALVED` packs f / 2 + 1/2 instead of f. A program's flag is 1 where one of its values is not finite.
    """
    blocks = tl.cdiv(lanes, LANES)
    group, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    lane = block * LANES + tl.arange(0, LANES)
    tap, k = row // depth, row % depth
    from_row = k.to(tl.int64) * depth_step + (tap // kernel_width).to(tl.int64) * row_step
    from_row += (tap % kernel_width).to(tl.int64) * column_step
    from_lane = group.to(tl.int64) * group_step + lane.to(tl.int64) * lane_step
    is_row = (row < taps * depth)[:, None]
    is_inside = is_row & (lane < lanes)[None, :]
    f = tl.load(weight + (from_row[:, None] + from_lane[None, :]), mask=is_inside, other=0.0).to(tl.float32)
    is_bad = (f - f != 0) & is_inside  # inf - inf is NaN
    tl.store(flags + tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1), tl.max(is_bad.to(tl.int32)))
    if HALVED:
        f = f * 0.5 + 0.5
    first = tl.program_id(0).to(tl.int64) * taps * depth
    tl.store(packed + ((first + row)[:, None] * LANES + tl.arange(0, LANES)[None, :]), f, mask=is_row)
