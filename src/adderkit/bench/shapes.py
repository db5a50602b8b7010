"""The layers that `bench ops` times: the distinct ones of ResNet-20 and of ResNet-50 after its stem."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from adderkit import models
from adderkit.nn import Adder2d


class Layer(NamedTuple):
    """A square layer on square images, padded by half its filter; `size` is the input's height and width."""

    network: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    size: int

    @property
    def name(self) -> str:
        stride = f"/{self.stride}" if self.stride > 1 else ""
        return f"{self.in_channels}>{self.out_channels} {self.kernel}x{self.kernel}{stride} {self.size}x{self.size}"

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def out_size(self) -> int:
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def operations(self) -> int:
        """Adder operations, or multiply-accumulates of the convolution, that one image's forward pass takes."""
        return self.out_channels * self.out_size**2 * self.in_channels * self.kernel**2

    def operations_per_byte(self, batch: int, is_input_gradient: bool) -> float:
        """Operations for each byte that must move: each tensor of a call read or written once, in float32."""
        pixels = self.size**2 if self.kernel >= self.stride else self.out_size**2  # that any filter sees
        floats = batch * (self.in_channels * pixels + self.out_channels * self.out_size**2)
        floats += self.out_channels * self.in_channels * self.kernel**2
        if is_input_gradient:
            floats += batch * self.in_channels * self.size**2  # written, while the image is read
        return batch * self.operations / (4 * floats)


def select(shapes: str, only: str) -> list[Layer]:
    """The layers of `resnet20`, `resnet50` or `all`.

    Raises:
        ValueError: where no layer's name contains `only`.
    """
    layers = [*resnet20(), *resnet50()]
    found = [layer for layer in layers if shapes in ("all", layer.network) and only in layer.name]
    if not found:
        names = ", ".join(layer.name for layer in layers if shapes in ("all", layer.network))
        raise ValueError(f"`only` (={only!r}) must be part of a layer's name: {names}")
    return found


def resnet20() -> list[Layer]:
    """The distinct adder layers of `models.create("resnet20")` on 32x32 images, in the order of their first use."""
    found: dict[Layer, None] = {}

    def see(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        layer = Layer(
            "resnet20",
            module.in_channels,
            module.out_channels,
            module.kernel_size[0],
            module.stride[0],
            inputs[0].shape[-1],
        )
        found[layer] = None

    with torch.device("meta"), torch.no_grad():  # shapes alone: nothing is computed
        net = models.create("resnet20", "adder").eval()
        for module in net.modules():
            if isinstance(module, Adder2d):
                module.register_forward_hook(see)
        net(torch.empty(1, 3, 32, 32))
    return list(found)


def resnet50() -> list[Layer]:
    """The distinct layers of ResNet-50's four stages on 224x224 images, whose stem leaves 56x56 pixels.

    Source: He et al., CVPR 2016, table 1, with the stride in a stage's first 3x3 layer and in its shortcut, as
    torchvision has it.
    """
    layers: list[Layer] = []
    channels, size = 64, 56
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        wide, out_size = 4 * width, size // stride
        layers += [
            Layer("resnet50", channels, width, 1, 1, size),
            Layer("resnet50", width, width, 3, stride, size),
            Layer("resnet50", width, wide, 1, 1, out_size),
            Layer("resnet50", channels, wide, 1, stride, size),
            Layer("resnet50", wide, width, 1, 1, out_size),
            Layer("resnet50", width, width, 3, 1, out_size),
        ]
        channels, size = wide, out_size
    return list(dict.fromkeys(layers))
