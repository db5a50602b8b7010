"""The definition of an integer network's arithmetic, in plain NumPy integers: neither torch nor native code.

The native runtime gives the same bits. This takes some 30 ms an image for ResNet-20.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adderkit.quant.network import LOGIT_LIMIT, IntegerLayer, IntegerNetwork

_CHUNK = 16  # images at a time, for memory
_POSITIONS = 512  # output positions at a time: 576 taps of them in 16 bits fit a second-level cache
_TAPS = 128  # 128 * 255 fits in 16 bits


def run(network: IntegerNetwork, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The logits of images.

    Args:
        network: the network.
        images: uint8 (N, height, width, channels), as decoded.

    Returns:
        float32 (N, classes).

    Raises:
        ValueError: images of another type or shape.
    """
    logits = [np.empty((0, len(network.classes)), np.float32)]
    for start in range(0, len(images), _CHUNK):
        fixed = tensors(network, images[start : start + _CHUNK])[-1].reshape(-1, len(network.classes))
        logits.append(np.ldexp(fixed.astype(np.float32), -network.logit_shift))
    return np.concatenate(logits)


def tensors(network: IntegerNetwork, images: NDArray[np.uint8]) -> list[NDArray[Any]]:
    """Every tensor of a run, the images first: uint8 (N, H, W, C), uint16 after an average pool, int32 at the end.

    Raises:
        ValueError: images of another type or shape.
    """
    expected = (network.height, network.width, network.channels)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
        raise ValueError(f"`images` ({images.dtype} {images.shape}) must be uint8 (N, {', '.join(map(str, expected))})")
    made: list[NDArray[Any]] = [images]
    for layer in network.layers:
        residual = None if layer.residual < 0 else made[layer.residual]
        made.append(apply(layer, made[layer.input], residual))
    return made


def apply(layer: IntegerLayer, x: NDArray[Any], residual: NDArray[Any] | None = None) -> NDArray[Any]:
    """One layer on (N, H, W, C)."""
    if layer.op == "max_pool":
        return np.max(np.stack(list(_taps(layer, x, pad=0))), axis=0)  # 0 is below all that is inside
    if layer.op == "average_pool":
        return epilogue(layer, x.astype(np.int64).sum((1, 2), keepdims=True)).astype(np.uint16)
    if layer.op == "classifier":
        fixed = epilogue(layer, _products(layer, x), low=-LOGIT_LIMIT, high=LOGIT_LIMIT)
        return fixed.astype(np.int32)
    sums = _distances(layer, x) if layer.op == "adder" else _products(layer, x)
    return epilogue(layer, sums, residual).astype(np.uint8)


def epilogue(
    layer: IntegerLayer,
    sums: NDArray[np.int64],
    residual: NDArray[Any] | None = None,
    low: int | None = None,
    high: int | None = None,
) -> NDArray[np.int64]:
    """`clamp((multiplier * sum + offset + residual_multiplier * residual) >> shift, low, high)`."""
    assert layer.multiplier is not None and layer.offset is not None
    total = layer.multiplier.astype(np.int64) * sums + layer.offset
    if residual is not None:
        total += layer.residual_multiplier * residual.astype(np.int64)
    return np.clip(total >> layer.shift, layer.low if low is None else low, layer.high if high is None else high)


def _distances(layer: IntegerLayer, x: NDArray[Any]) -> NDArray[np.int64]:
    """`sum |x - weight|` at every position."""
    assert layer.weight is not None
    patches = np.concatenate(list(_taps(layer, x, layer.pad)), axis=3, dtype=np.int16)  # (N, H, W, taps)
    columns = np.ascontiguousarray(patches.reshape(-1, patches.shape[3]).T)  # (taps, positions)
    filters = layer.weight.reshape(layer.out_channels, -1).astype(np.int16)
    sums = np.zeros((layer.out_channels, columns.shape[1]), np.int64)
    for start in range(0, columns.shape[1], _POSITIONS):
        block = np.ascontiguousarray(columns[:, start : start + _POSITIONS])
        differences = np.empty_like(block)
        for channel, one in enumerate(filters):
            np.subtract(block, one[:, None], out=differences)
            np.abs(differences, out=differences)
            for tap in range(0, len(block), _TAPS):
                part = np.add.reduce(differences[tap : tap + _TAPS], axis=0, dtype=np.int16)  # at most 32640
                sums[channel, start : start + _POSITIONS] += part
    return sums.T.reshape(*patches.shape[:3], layer.out_channels)


def _products(layer: IntegerLayer, x: NDArray[Any]) -> NDArray[np.int64]:
    """`sum x * weight` at every position."""
    assert layer.weight is not None
    patches = np.concatenate(list(_taps(layer, x, layer.pad)), axis=3, dtype=np.int64)
    return patches @ layer.weight.reshape(layer.out_channels, -1).astype(np.int64).T


def _taps(layer: IntegerLayer, x: NDArray[Any], pad: Any) -> Iterator[NDArray[Any]]:
    """For each tap of the kernel, row by row, what it sees at every position: (N, H_out, W_out, C)."""
    kernel = x.shape[1:3] if layer.op == "classifier" else layer.kernel
    (top, left), (rows, columns) = layer.padding, x.shape[1:3]
    padded = np.empty((len(x), rows + 2 * top, columns + 2 * left, x.shape[3]), x.dtype)
    padded[:] = 0 if pad is None else pad
    padded[:, top : top + rows, left : left + columns] = x
    height = (rows + 2 * top - kernel[0]) // layer.stride[0] + 1
    width = (columns + 2 * left - kernel[1]) // layer.stride[1] + 1
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            down = slice(row, row + height * layer.stride[0], layer.stride[0])
            across = slice(column, column + width * layer.stride[1], layer.stride[1])
            yield padded[:, down, across]
