"""Small networks for these tests: random ones with settled BatchNorm, and integer networks of odd shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from adderkit import models
from adderkit.data import DataConfig, ImageData, load
from adderkit.models import Network
from adderkit.quant import IntegerLayer, IntegerNetwork
from adderkit.train import NetworkInfo


def digits(rows: str = "0:256") -> ImageData:
    return load(DataConfig(train_rows=rows, test_rows="0:64"))


def settled(name: str, size: int, channels: int = 3, classes: int = 5, seed: int = 0) -> Network:
    """An untrained adder network whose BatchNorm knows its data, with filters as wide as trained ones'."""
    torch.manual_seed(seed)
    network = models.create(name, num_classes=classes, in_channels=channels)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain mean over the batches
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    with torch.no_grad():
        network.train()
        network(normalised(images(16, size, channels)))
    return network.eval()


def images(count: int, size: int, channels: int, seed: int = 0) -> torch.Tensor:
    """Smooth random pictures, uint8 (N, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, channels, 4, 4, generator=generator)
    large = nn.functional.interpolate(small, (size, size), mode="bilinear")
    noise = 0.2 * torch.rand(large.shape, generator=generator)
    return ((large + noise) / 1.2 * 255).round().to(torch.uint8)


MEAN, STD = (0.5, 0.47, 0.52), (0.2, 0.25, 0.22)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    channels = pixels.shape[1]
    mean, std = (torch.tensor(values[:channels])[:, None, None] for values in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


def info(network: Network, size: int) -> NetworkInfo:
    channels = network.in_channels
    classes = tuple(f"class {k}" for k in range(network.num_classes))
    return NetworkInfo(network.name, "adder", "made up", classes, channels, size, size, MEAN[:channels], STD[:channels])


def integer_network(seed: int = 0) -> IntegerNetwork:
    """Every kind of layer, odd sizes, a residual, a zero point and a wide classifier input."""
    rng = np.random.default_rng(seed)

    def epilogue(count: int, mean: int, deviation: int) -> dict[str, Any]:
        """Puts sums of this kind around 128 +- 60."""
        factor = rng.choice([-1, 1], count) * rng.uniform(0.5, 1.0, count) * 60 / deviation
        multiplier = np.rint(factor * 2**30).astype(np.int32)
        return {"multiplier": multiplier, "offset": (128 << 30) - multiplier.astype(np.int64) * mean, "shift": 30}

    def filters(kind: type, *shape: int) -> np.ndarray:
        limits = np.iinfo(kind)
        return rng.integers(limits.min, limits.max + 1, shape).astype(kind)

    def pad(count: int) -> np.ndarray:
        return rng.integers(0, 256, count).astype(np.uint8)

    main = epilogue(4, 4000, 400)
    layers = (
        IntegerLayer("convolution", "stem", 0, 5, kernel=(3, 2), stride=(1, 2), padding=(2, 1), pad=pad(3),
                     weight=filters(np.int8, 5, 3, 2, 3), **epilogue(5, 0, 40000)),
        IntegerLayer("max_pool", "pool", 1, 5, kernel=(3, 3), stride=(2, 1), padding=(1, 1)),
        IntegerLayer("adder", "shortcut", 2, 4, kernel=(1, 1), pad=np.full(5, 7, np.uint8),
                     weight=filters(np.uint8, 4, 1, 1, 5), **epilogue(4, 500, 150)),
        IntegerLayer("adder", "main", 2, 4, residual=3, residual_multiplier=-(2**29), kernel=(3, 3), padding=(1, 1),
                     pad=np.full(5, 7, np.uint8), low=3, high=200, weight=filters(np.uint8, 4, 3, 3, 5), **main),
        IntegerLayer("average_pool", "mean", 4, 4, high=32767, multiplier=np.array([2**20], np.int32),
                     offset=np.array([2**13]), shift=14),
        IntegerLayer("classifier", "fc", 5, 3, weight=filters(np.int8, 3, 1, 1, 4), **epilogue(3, 0, 40)),
    )  # fmt: skip
    return IntegerNetwork("odd", "noise", ("a", "b", "c"), 3, 7, 6, 8, False, 12, layers)
