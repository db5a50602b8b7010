"""An integer network in memory: the same facts as `native/integer/network.h`, as NumPy arrays.

Activations are uint8 (an average pool's are uint16), (height, width, channels) in memory. Tensor 0 is the image, layer
i makes tensor i + 1. Every layer ends alike, in int64 with an arithmetic shift, which rounds down:

    out = clamp((multiplier[o] * sum[o] + offset[o] + residual_multiplier * residual) >> shift, low, high)

`offset` holds the rounding half. A classifier's output is clamped to +-(2^24 - 1), so that float32 holds it exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Op = Literal["adder", "convolution", "max_pool", "average_pool", "classifier"]
LOGIT_LIMIT = 2**24 - 1


@dataclass(frozen=True)
class IntegerLayer:
    """One layer.

    Attributes:
        op: adder: `sum[o] = sum |x - weight|`; convolution and classifier: `sum x * weight`; average_pool: `sum x` over
            the map; max_pool: the largest.
        name: of the module that it was made of.
        input: the tensor that it reads.
        out_channels: of its output.
        residual: the tensor that its epilogue adds, or -1.
        kernel, stride, padding: (vertical, horizontal).
        weight: uint8 (adder) or int8, (out_channels, kernel_h, kernel_w, channels); None for pools.
        pad: uint8 (channels,): what a padded tap of an adder layer or convolution is.
        multiplier: int32 (out_channels,); average_pool: one number.
        offset: int64, alike.
        residual_multiplier: of the residual.
        shift: 0 to 62.
        low, high: bounds of the output.
    """

    op: Op
    name: str
    input: int
    out_channels: int
    residual: int = -1
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    weight: NDArray[Any] | None = None
    pad: NDArray[np.uint8] | None = None
    multiplier: NDArray[np.int32] | None = None
    offset: NDArray[np.int64] | None = None
    residual_multiplier: int = 0
    shift: int = 0
    low: int = 0
    high: int = 255


@dataclass(frozen=True)
class IntegerNetwork:
    """A network in integers.

    Attributes:
        name, dataset, classes: as the trained network has them.
        channels, height, width: of the images.
        bits: of the activations and filters of its adder layers.
        multiplier_free: whether every multiplier is a power of two or its negative.
        logit_shift: logit = classifier's output * 2^-logit_shift.
        layers: the last one is the only classifier.
        notes: where it came from, for the file's header.
    """

    name: str
    dataset: str
    classes: tuple[str, ...]
    channels: int
    height: int
    width: int
    bits: int
    multiplier_free: bool
    logit_shift: int
    layers: tuple[IntegerLayer, ...]
    notes: dict[str, Any] = field(default_factory=dict)

    def shape(self, tensor: int) -> tuple[int, int, int]:
        """(height, width, channels) of a tensor; the classifier's is (1, 1, classes)."""
        if tensor == 0:
            return self.height, self.width, self.channels
        layer = self.layers[tensor - 1]
        if layer.op in ("average_pool", "classifier"):
            return 1, 1, layer.out_channels
        sizes = zip(self.shape(layer.input)[:2], layer.kernel, layer.stride, layer.padding, strict=True)
        rows, columns = ((size + 2 * pad - kernel) // stride + 1 for size, kernel, stride, pad in sizes)
        return rows, columns, layer.out_channels
