"""VGG-small: six 3x3 layers of 128, 128, 256, 256, 512 and 512 channels, a max pool after every second.

Source: the adder papers name it without a definition (CIFAR-10: CNN 94.25, adder network 93.72); this is a
reconstruction from the quantisation literature (Cai et al., CVPR 2017; Zhang et al., ECCV 2018), where one linear layer
reads the 4x4 map.
Differs: the classifier is that layer written as a 4x4 convolution without bias, with BatchNorm on the logits as in the
ResNets of the adder papers. Maps of other sizes than 4x4 (images of other sizes than 32x32) are averaged to 4x4.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from adderkit.models.network import Network, Operator
from adderkit.models.registry import register

_GRID = (4, 4)


class Stage(nn.Module):
    """Two 3x3 operators, each with BatchNorm and ReLU, and a max pool that halves the map."""

    def __init__(self, first: nn.Module, second: nn.Module, width: int) -> None:
        super().__init__()
        self.conv1 = first
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = second
        self.bn2 = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.pool(self.relu(self.bn2(self.conv2(x))))


class VggSmall(Network):
    """See the module. Shape: input (N, in_channels, H, W) with H, W >= 8, output (N, num_classes)."""

    stem_path = "layer1.conv1"
    classifier_path = "fc"
    stage_paths = ("layer1", "layer2", "layer3")

    def __init__(self, operator: Operator, num_classes: int, in_channels: int) -> None:
        super().__init__()
        stem = nn.Conv2d(in_channels, 128, kernel_size=3, padding=1, bias=False)
        fc = nn.Conv2d(512, num_classes, kernel_size=_GRID, bias=False)  # drawn now, so that twins share it
        self.layer1 = Stage(stem, _operator3x3(operator, 128, 128), 128)
        self.layer2 = Stage(_operator3x3(operator, 128, 256), _operator3x3(operator, 256, 256), 256)
        self.layer3 = Stage(_operator3x3(operator, 256, 512), _operator3x3(operator, 512, 512), 512)
        self.fc = fc
        self.bn2 = nn.BatchNorm2d(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(x)))
        if x.shape[2:] != _GRID:  # not merely a shortcut: the adaptive pool's CUDA gradient is not deterministic
            x = adaptive_avg_pool2d(x, _GRID)
        return self.bn2(self.fc(x)).flatten(1)


def _operator3x3(operator: Operator, in_width: int, width: int) -> nn.Module:
    return operator(in_width, width, kernel_size=3, padding=1, bias=False)


@register
def vgg_small(operator: Operator, num_classes: int, in_channels: int) -> Network:
    return VggSmall(operator, num_classes, in_channels)
