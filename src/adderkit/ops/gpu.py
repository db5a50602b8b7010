"""`adder2d` on NVIDIA GPUs: which calls the Triton kernels take, how they are cut into programs, and their launch.

Triton is imported at the first call, and only here: torch for the CPU comes without it.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from math import gcd
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_CAPABILITY = (8, 0)  # the least that Triton's releases promise
_POSITIONS = 2**31 - 1024  # the kernels count positions in 32 bits
_WARPS = 4
_ROWS = 64  # of packed filters, a program
_FLAGS = 128  # read at once
_LARGE = 1 << 27  # operations of a call, 8 us at the limit of an H200; ResNet-20 has 604 million a layer at batch 256
_MOST_CONSTANTS = 64
_LARGEST_CONSTANT = 1 << 26  # the kernels multiply it by their lanes, 16 at the most, in 32 bits
# Sums in float32 longer than this are made of shorter ones.
_RUN = 640
# Terms of such a part; its inputs, which neighbouring taps find again in the first-level cache, are 32 KiB a program.
_BLOCK_TERMS = 144


class Tile(NamedTuple):
    """What one program computes, and the registers that ptxas may use: without a limit it spills where it need not.

    `cost` is the time of one term of the whole tile in issue slots of a warp (docs/results/kernels); where loads fill
    their path too, a fourth more, a guess.
    """

    pixels: int
    lanes: int
    cost: int
    registers: int | None
    registers_of_runs: int | None = None


FORWARD_TILES = (
    Tile(512, 16, 142, None, 240),
    Tile(512, 8, 81, 128, 168),
    Tile(256, 8, 52, 80, 96),
    Tile(128, 8, 45, 80, 80),
)
INPUT_GRAD_TILES = (
    Tile(512, 16, 148, 255),
    Tile(512, 8, 82, 168),
    Tile(256, 8, 55, 112),
    Tile(128, 8, 45, 80),
)


def serves(input: Tensor, *others: Tensor) -> bool:
    """Whether the kernels take a call on these tensors, input and output; where they should but can't, warns once."""
    if refusal(input, *others):
        return False
    reason = problem(input.device.index or 0)
    if reason:
        _warn_once(reason)
    return not reason


def refusal(*tensors: Tensor) -> str:
    """Why the reference serves a call on these tensors (N, C, H, W), whatever the machine; "" where kernels could."""
    first = tensors[0]
    if not first.is_cuda:
        return "not on a GPU"
    if first.dtype not in DTYPES:
        return f"{str(first.dtype).removeprefix('torch.')} has no kernel"
    if any(tensor.shape[0] * tensor.shape[2] * tensor.shape[3] > _POSITIONS for tensor in tensors):
        return "more than 2^31 positions"
    return ""


@cache
def problem(device: int = 0) -> str:
    """Why kernels don't run on this GPU, or "" where they do. Makes Triton load its driver, which it may compile."""
    if torch.version.hip is not None:
        return "the kernels are for NVIDIA GPUs"
    if not torch.cuda.is_available():
        return "no CUDA device"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: pip install triton"
    capability = torch.cuda.get_device_capability(device)
    if capability < _CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} has compute capability {capability[0]}.{capability[1]}, not 8.0"
    try:
        from triton.runtime import driver  # pyright: ignore[reportMissingImports]

        with torch.cuda.device(device):
            driver.active.get_current_target()
    except Exception as error:  # it builds a small library with whatever compiler there is: anything may fail
        return f"Triton can't start: {type(error).__name__}: {error}"
    return ""


@cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"adder2d runs in plain torch on the GPU, far slower: {reason}", RuntimeWarning, stacklevel=2)


def forward(
    input: Tensor,
    weight: Tensor,
    output: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> None:
    """As `reference.forward`, for float32, bfloat16 and float16 tensors of any strides, on a GPU.

    Under Triton's interpreter, on the processor.
    """
    if output.numel() == 0:
        return
    kernels = _kernels()
    pixels = output.shape[0] * output.shape[2] * output.shape[3]
    filters, channels, *kernel = weight.shape
    filters //= groups
    taps = kernel[0] * kernel[1]
    tile = _tile(FORWARD_TILES, [pixels], filters, groups, input.device)
    vector, unroll, block = _depth(input, channels, taps)
    with _current(input.device):
        packed, _ = _pack(weight, groups, tile.lanes, filters, channels, is_gradient=False)
        programs = _ceil(pixels, tile.pixels) * _ceil(filters, tile.lanes) * groups
        has_runs = channels * taps > _RUN
        operations = output.numel() * channels * taps
        kernels.forward[(programs,)](
            input,
            packed,
            output,
            pixels,
            channels,
            filters,
            taps,
            kernel[1],
            *input.shape[2:],
            output.shape[2] * output.shape[3],
            output.shape[3],
            *stride,
            *padding,
            *dilation,
            block,
            *input.stride(),
            *output.stride(),
            PIXELS=tile.pixels,
            LANES=tile.lanes,
            UNROLL=unroll,
            VECTOR=vector,
            MASKED=any(padding),
            RUNS=has_runs,
            X_CHANNEL=_constant(input.stride(1), operations),
            Y_CHANNEL=_constant(output.stride(1), operations),
            num_warps=_WARPS,
            num_stages=1,
            enable_fp_fusion=True,
            maxnreg=tile.registers_of_runs if has_runs else tile.registers,
        )


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
    """As `reference.input_grad`, for float32, bfloat16 and float16 tensors of any strides, on a GPU.

    Under Triton's interpreter, on the processor.
    """
    if grad_input.numel() == 0:
        return
    kernels = _kernels()
    images, channels, height, width = input.shape
    filters, channels, *kernel = weight.shape
    filters //= groups
    taps = kernel[0] * kernel[1]
    # Rows h with the same (h + padding) modulo the stride see the same taps.
    pixels = images * _ceil(height, stride[0]) * _ceil(width, stride[1])
    classes = stride[0] * stride[1]
    tile = _tile(INPUT_GRAD_TILES, [pixels] * classes, channels, groups, input.device)
    vector, unroll, block = _depth(grad_output, filters, taps)
    is_dense = taps == 1 and classes == 1 and not any(padding)
    with _current(input.device):
        packed, flags = _pack(weight, groups, tile.lanes, channels, filters, is_gradient=True)
        pixel_blocks = _ceil(pixels, tile.pixels)
        operations = grad_output.numel() * channels * taps
        programs = pixel_blocks * classes * _ceil(channels, tile.lanes) * groups
        kernels.input_grad[(programs,)](
            grad_output,
            packed,
            flags,
            input,
            grad_input,
            images,
            channels,
            filters,
            *kernel,
            height,
            width,
            *grad_output.shape[2:],
            *stride,
            *padding,
            *dilation,
            *(step // gcd(step, apart) for step, apart in zip(stride, dilation, strict=True)),
            pixel_blocks,
            block,
            flags.shape[1],
            *grad_output.stride(),
            *input.stride(),
            *grad_input.stride(),
            PIXELS=tile.pixels,
            LANES=tile.lanes,
            UNROLL=unroll,
            VECTOR=vector,
            MASKED=not is_dense,
            G_CHANNEL=_constant(grad_output.stride(1), operations),
            Y_CHANNEL=_constant(grad_input.stride(1), operations),
            FLAGS=_FLAGS,
            FAST=not kernels.is_interpreted,
            num_warps=_WARPS,
            num_stages=1,
            enable_fp_fusion=True,
            maxnreg=tile.registers,
        )


def _pack(weight: Tensor, groups: int, lanes: int, wide: int, deep: int, *, is_gradient: bool) -> tuple[Tensor, Tensor]:
    """The filters as kernels read them, `wide` values side by side, `deep` in turn, and which parts are not finite."""
    taps = weight.shape[2] * weight.shape[3]
    blocks = groups * _ceil(wide, lanes)
    packed = torch.empty((blocks, taps, deep, lanes), dtype=torch.float32, device=weight.device)
    flags = torch.empty((blocks, _ceil(taps * deep, _ROWS)), dtype=torch.int32, device=weight.device)
    filter_step, channel_step, *tap_steps = weight.stride()
    steps = (channel_step, filter_step) if is_gradient else (filter_step, channel_step)
    group_step = filter_step * (weight.shape[0] // groups)
    _kernels().pack[flags.shape](
        weight,
        packed,
        flags,
        wide,
        deep,
        taps,
        weight.shape[3],
        group_step,
        *steps,
        *tap_steps,
        LANES=lanes,
        ROWS=_ROWS,
        HALVED=is_gradient,
        num_warps=_WARPS,
        num_stages=1,
        enable_fp_fusion=True,
    )
    return packed, flags


def _tile(tiles: Sequence[Tile], pixels: Sequence[int], wide: int, groups: int, device: torch.device) -> Tile:
    """The tile that should take least time, were all multiprocessors to work through equal shares."""

    def time(tile: Tile) -> float:
        lanes = _lanes(tile, wide)
        programs = sum(_ceil(count, tile.pixels) for count in pixels) * _ceil(wide, lanes) * groups
        # Half a round more: a multiprocessor with one program waits for its loads.
        return (_ceil(programs, _processors(device)) + 0.5) * tile.cost

    best = min(tiles, key=time)
    return best._replace(lanes=_lanes(best, wide))


def _lanes(tile: Tile, wide: int) -> int:
    return min(tile.lanes, 1 << (wide - 1).bit_length())


def _depth(tensor: Tensor, deep: int, taps: int) -> tuple[int, int, int]:
    """How many neighbouring channels of `tensor` one load takes, how many the loop's body, how many go together."""
    unroll = next(count for count in (4, 2, 1) if deep % count == 0)
    is_vector = unroll == 4 and tensor.stride(1) == 1 and not any(step % 4 for step in _without(tensor.stride(), 1))
    is_vector = is_vector and tensor.data_ptr() % (4 * tensor.element_size()) == 0
    return 4 if is_vector else 1, unroll, max(_BLOCK_TERMS // taps // unroll, 1) * unroll


def _without(values: Sequence[int], index: int) -> list[int]:
    return [*values[:index], *values[index + 1 :]]


_constants: set[int] = set()


def _constant(step: int, operations: int) -> int:
    """`step` to be compiled into a kernel, which saves a twentieth of its instructions, or 0.

    Compiling takes seconds, so only layers with work to do get kernels of their own, and of few sizes: images of ever
    new sizes are served by the general ones.
    """
    if step > _LARGEST_CONSTANT or (step != 1 and operations < _LARGE):
        return 0
    if len(_constants) < _MOST_CONSTANTS:
        _constants.add(step)
    return step if step in _constants else 0


@cache
def _kernels() -> Any:
    from triton import knobs  # pyright: ignore[reportMissingImports]

    from adderkit.ops.gpu_kernels.forward import forward_kernel
    from adderkit.ops.gpu_kernels.input_grad import input_grad_kernel
    from adderkit.ops.gpu_kernels.pack import pack_kernel

    return SimpleNamespace(
        forward=forward_kernel,
        input_grad=input_grad_kernel,
        pack=pack_kernel,
        is_interpreted=knobs.runtime.interpret,
    )


@cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _ceil(number: int, step: int) -> int:
    return -(-number // step)
