"""Residual networks for small images: 6 n + 2 layers in three stages of 16, 32 and 64 channels.

Source: He et al., CVPR 2016, section 4.2; AdderNet (Chen et al., CVPR 2020), official `resnet20.py`, whose module names
these are: projection shortcuts (1x1 operator + BatchNorm) where stride or width changes, and a classifier that is a
1x1 convolution without bias followed by BatchNorm on the logits.
Differs: the average pool is global, so that other sizes than 32x32 pass.
"""

from __future__ import annotations

from torch import Tensor, nn

from adderkit.models.network import Network, Operator
from adderkit.models.registry import register


class BasicBlock(nn.Module):
    """Two 3x3 operators, each with BatchNorm, and a shortcut."""

    def __init__(self, operator: Operator, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = operator(in_width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        # In place: a training step of the conv ResNet-20 takes 8 % less (2 cores, batch 128). A hook on `bn1` that
        # keeps the tensor finds it rectified; those on operators, blocks and stages see what was returned.
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = operator(width, width, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_width != width:
            shortcut = operator(in_width, width, kernel_size=1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + shortcut)


class ResNetCifar(Network):
    """See the module. Shape: input (N, in_channels, H, W), output (N, num_classes)."""

    stem_path = "conv1"
    classifier_path = "fc"
    stage_paths = ("layer1", "layer2", "layer3")

    def __init__(self, operator: Operator, blocks: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, kernel_size=3, padding=1, bias=False)
        fc = nn.Conv2d(64, num_classes, kernel_size=1, bias=False)  # drawn now, so that twins share it
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(operator, blocks, 16, 16, stride=1)
        self.layer2 = _stage(operator, blocks, 16, 32, stride=2)
        self.layer3 = _stage(operator, blocks, 32, 64, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = fc
        self.bn2 = nn.BatchNorm2d(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.bn2(self.fc(self.avgpool(x))).flatten(1)


def _stage(operator: Operator, blocks: int, in_width: int, width: int, stride: int) -> nn.Sequential:
    first = BasicBlock(operator, in_width, width, stride)
    return nn.Sequential(first, *(BasicBlock(operator, width, width, stride=1) for _ in range(blocks - 1)))


@register
def resnet8(operator: Operator, num_classes: int, in_channels: int) -> Network:
    return ResNetCifar(operator, 1, num_classes, in_channels)


@register
def resnet20(operator: Operator, num_classes: int, in_channels: int) -> Network:
    return ResNetCifar(operator, 3, num_classes, in_channels)


@register
def resnet32(operator: Operator, num_classes: int, in_channels: int) -> Network:
    return ResNetCifar(operator, 5, num_classes, in_channels)
