"""A trained network as a list of fused layers: operator + BatchNorm + residual + ReLU, pools, classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Kind = Literal["adder", "convolution", "max_pool", "average_pool", "classifier"]


@dataclass(frozen=True)
class FusedLayer:
    """One layer in real numbers: `y = scale * op(x, weight) + bias (+ residual)`, then perhaps ReLU.

    `op` is `-sum |x - f|` of an adder layer and `sum x f` of a convolution or classifier.

    Attributes:
        op: what it computes.
        name: module path of the operator or pool.
        input: the tensor that it reads: 0 is the image, i + 1 the output of layer i.
        shape: of the output, (C, H, W); a classifier's is (classes, 1, 1).
        residual: the tensor that is added before the ReLU, or -1.
        kernel, stride, padding: (vertical, horizontal).
        weight: (C_out, C_in, K_h, K_w), float64; None for pools.
        scale, bias: (C_out,), float64: BatchNorm and the operator's own bias; None for pools.
        relu: whether a ReLU follows.
    """

    op: Kind
    name: str
    input: int
    shape: tuple[int, int, int]
    residual: int = -1
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    weight: Tensor | None = None
    scale: Tensor | None = None
    bias: Tensor | None = None
    relu: bool = False


@dataclass(frozen=True)
class FusedNetwork:
    """The layers in an order in which each reads earlier tensors only; the last one is the only classifier.

    Attributes:
        image: (C, H, W) of the images.
        layers: one per tensor beyond the image.
    """

    image: tuple[int, int, int]
    layers: tuple[FusedLayer, ...]

    def shape(self, tensor: int) -> tuple[int, int, int]:
        """(C, H, W) of a tensor."""
        return self.image if tensor == 0 else self.layers[tensor - 1].shape

    def readers(self, tensor: int) -> list[int]:
        """The layers that take `tensor` as their input (not as residual)."""
        return [index for index, layer in enumerate(self.layers) if layer.input == tensor]

    def last_use(self, tensor: int) -> int:
        """The last layer that needs `tensor`, as input or residual."""
        return max(i for i, layer in enumerate(self.layers) if tensor in (layer.input, layer.residual))
