"""A stand-in for the official AdderNet code: its names and structure, its own slow sums in the width of its input.

Filters are `adder` and `b`; residual networks have `conv1`, `bn1`, `layerN.M.convK`, `bnK`, `downsample.0` and `.1`,
and end in the 1x1 convolution `fc` with the BatchNorm `bn2` on the logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SlowAdder(nn.Module):
    """-sum |patch - filter| by unfolding and broadcasting, an image at a time."""

    def __init__(self, channels: int, filters: int, size: int, stride: int = 1, bias: bool = False) -> None:
        super().__init__()
        self.adder = nn.Parameter(torch.randn(filters, channels, size, size))
        if bias:
            self.b = nn.Parameter(torch.rand(filters))
        self.size, self.stride = size, stride

    def forward(self, images: Tensor) -> Tensor:
        rows = (images.shape[2] + 2 * (self.size // 2) - self.size) // self.stride + 1
        results = []
        for image in images:
            patches = F.unfold(image[None], self.size, padding=self.size // 2, stride=self.stride)[0]
            difference = patches[None] - self.adder.flatten(1)[:, :, None]
            results.append(-difference.abs().sum(1).unflatten(1, (rows, -1)))
        result = torch.stack(results)
        return result + self.b[:, None, None] if hasattr(self, "b") else result


class Block(nn.Module):
    """A basic block of sizes (3, 3) or a bottleneck of sizes (1, 3, 1); the first 3x3 layer has the stride."""

    def __init__(self, channels: int, widths: tuple[int, ...], sizes: tuple[int, ...], stride: int) -> None:
        super().__init__()
        self.depth = len(sizes)
        inputs, strides = (channels, *widths), [1] * self.depth
        strides[sizes.index(3)] = stride
        for index in range(self.depth):
            layer = SlowAdder(inputs[index], widths[index], sizes[index], strides[index])
            setattr(self, f"conv{index + 1}", layer)
            setattr(self, f"bn{index + 1}", nn.BatchNorm2d(widths[index]))
        self.downsample = None
        if stride != 1 or channels != widths[-1]:
            self.downsample = nn.Sequential(SlowAdder(channels, widths[-1], 1, stride), nn.BatchNorm2d(widths[-1]))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for index in range(1, self.depth + 1):
            x = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(x))
            x = F.relu(x) if index < self.depth else x
        return F.relu(x + shortcut)


class OfficialResNet(nn.Module):
    """With `blocks` per stage: of small images where there are three stages, else as for ImageNet with bottlenecks."""

    def __init__(self, blocks: tuple[int, ...], num_classes: int = 10) -> None:
        super().__init__()
        self.is_small = len(blocks) == 3
        width = 16 if self.is_small else 64
        size, stride, padding = (3, 1, 1) if self.is_small else (7, 2, 3)
        self.conv1 = nn.Conv2d(3, width, size, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for stage, count in enumerate(blocks):
            inner = width * 2**stage
            widths, sizes = ((inner, inner), (3, 3)) if self.is_small else ((inner, inner, 4 * inner), (1, 3, 1))
            layers = []
            for index in range(count):
                layers.append(Block(channels, widths, sizes, 2 if stage > 0 and index == 0 else 1))
                channels = widths[-1]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.stages = len(blocks)
        self.fc = nn.Conv2d(channels, num_classes, 1, bias=not self.is_small)
        self.bn2 = nn.BatchNorm2d(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        if not self.is_small:
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.bn2(self.fc(F.adaptive_avg_pool2d(x, 1))).flatten(1)


def trained(model: nn.Module, images: Tensor) -> nn.Module:
    """As after a training: BatchNorms with statistics of these images, and with weights and biases of their own."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    return model.eval()
