"""Residual networks for images of 224 pixels: ResNet-18 of basic blocks, ResNet-50 and ResNet-152 of bottlenecks.

Source: He et al., CVPR 2016, Table 1; AdderNet (Chen et al., CVPR 2020), official `resnet50.py`. Module names, shapes
and initial values of the multiplicative layers are torchvision's, whose weights the conv twins take
(`models.load_torchvision`). The stride of a bottleneck is in its 3x3 operator, as in both; 1x1 shortcuts are operators
too, so adder layers in the adder twin. Each twin ends as its source does: the convolutional one in torchvision's linear
layer, the adder network in that and BatchNorm on the logits, as the official code.
Differs: the official classifier is the linear layer written as a 1x1 convolution.
"""

from __future__ import annotations

from torch import Tensor, nn

from adderkit.models.network import LAYERS, Network, Operator
from adderkit.models.registry import register
from adderkit.models.resnet_cifar import BasicBlock

_WIDTHS = (64, 128, 256, 512)
_EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 operators, each with BatchNorm, and a shortcut; the last is four times as wide.

    Args:
        operator: of all its layers.
        in_width: channels of the input.
        width: of the first two layers.
        stride: of the 3x3 operator and of the shortcut.
    """

    def __init__(self, operator: Operator, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        out_width = _EXPANSION * width
        self.conv1 = operator(in_width, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = operator(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = operator(width, out_width, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_width != out_width:
            shortcut = operator(in_width, out_width, kernel_size=1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_width))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + shortcut)


class ResNetImageNet(Network):
    """See the module. Shape: input (N, in_channels, H, W), output (N, num_classes); the last map is 1/32 of H x W.

    Args:
        operator: of the blocks.
        block: their kind.
        blocks: how many there are in each of the four stages.
        num_classes: number of logits.
        in_channels: channels of the images.
    """

    stem_path = "conv1"
    classifier_path = "fc"
    stage_paths = ("layer1", "layer2", "layer3", "layer4")

    def __init__(
        self,
        operator: Operator,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, int, int, int],
        num_classes: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        expansion = _EXPANSION if block is Bottleneck else 1
        self.conv1 = _normal(nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False))
        fc = nn.Linear(expansion * _WIDTHS[-1], num_classes)  # drawn now, so that twins share it
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        in_width, stages = 64, []
        for index, (width, count) in enumerate(zip(_WIDTHS, blocks, strict=True)):
            stage = nn.Sequential()
            for number in range(count):
                stage.append(block(operator, in_width, width, stride=2 if index and not number else 1))
                in_width = expansion * width
            stages.append(stage)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = fc
        # Of the adder network alone: it learns faster with it (decision 0011), and torchvision's weights know none.
        self.bn2 = nn.BatchNorm1d(num_classes) if operator is LAYERS["adder"] else nn.Identity()
        for stage in stages:
            for module in stage.modules():
                if isinstance(module, nn.Conv2d):  # of the conv twin; adder filters start as N(0, 1)
                    _normal(module)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.bn2(self.fc(self.avgpool(x).flatten(1)))


def _normal(convolution: nn.Conv2d) -> nn.Conv2d:
    """Initial values as in torchvision: He's normal distribution by the number of outputs."""
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


@register
def resnet18(operator: Operator, num_classes: int, in_channels: int) -> Network:
    return ResNetImageNet(operator, BasicBlock, (2, 2, 2, 2), num_classes, in_channels)


@register
def resnet50(operator: Operator, num_classes: int, in_channels: int) -> Network:
    return ResNetImageNet(operator, Bottleneck, (3, 4, 6, 3), num_classes, in_channels)


@register
def resnet152(operator: Operator, num_classes: int, in_channels: int) -> Network:
    return ResNetImageNet(operator, Bottleneck, (3, 8, 36, 3), num_classes, in_channels)
