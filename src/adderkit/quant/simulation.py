"""An integer network's arithmetic in torch: every tensor holds integers in float32, gradients pass straight through.

In evaluation mode the sums are those of the integer network exactly: they are integers below 2^24, which float32 holds.
In training mode the same numbers are computed in real units, where the surrogate gradients of adder layers belong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adderkit.ops import adder2d
from adderkit.quant.graph import FusedLayer, FusedNetwork

WEIGHT_HIGH = 127  # of a convolution's and the classifier's int8 filters
POOL_HIGH = 32767  # of an average pool: 15 bits, so that it adds no error of its own
Seen = Callable[[int, Tensor], None]


class Layer(nn.Module):
    """What a layer learns: `y = scale * (op - centre) + level`, with `scale = gain * unit`.

    The parts of a BatchNorm, but for the variance, which stays in `unit`. In training mode `centre` is the batch's
    mean: an adder layer's outputs drift by many times their deviation when its filters move a little.

    Args:
        fused: the layer in real numbers, not a pool.
    """

    unit: Tensor
    centre: Tensor

    def __init__(self, fused: FusedLayer) -> None:
        super().__init__()
        assert fused.weight is not None and fused.scale is not None and fused.bias is not None
        self.weight = nn.Parameter(fused.weight.float())
        self.gain = nn.Parameter(torch.ones(len(fused.weight)))
        self.level = nn.Parameter(fused.bias.float())
        self.register_buffer("unit", fused.scale.float())
        self.register_buffer("centre", torch.zeros(len(fused.weight)))


class Simulation(nn.Module):
    """A fused network with a grid of integers per tensor.

    Tensor t stands for `step[t] * (q - zero[t])` with integers q from `zero` (after a ReLU) or 0 to `high[t]`. The
    image is q itself: `mean` and `std` are folded into the first layer.

    Args:
        network: the fused layers.
        mean, std: per channel, of images in [0, 1].
        bits: of the tensors that adder layers read; all others have 8.
        multiplier_free: steps and epilogue scales are powers of two.
    """

    def __init__(
        self, network: FusedNetwork, mean: tuple[float, ...], std: tuple[float, ...], bits: int, multiplier_free: bool
    ) -> None:
        super().__init__()
        self.network, self.bits, self.multiplier_free = network, bits, multiplier_free
        self.mean, self.std = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        self.layers = nn.ModuleDict(
            {str(i): Layer(fused) for i, fused in enumerate(network.layers) if fused.weight is not None}
        )
        count = len(network.layers) + 1
        self.step = nn.Parameter(torch.ones(count, dtype=torch.float64), requires_grad=False)
        self.zero: list[float] = [0] * count
        self.high = [255] * count
        for tensor in range(1, count):
            if any(network.layers[reader].op == "adder" for reader in self._final_readers(tensor)):
                self.high[tensor] = 2**bits - 1
            if network.layers[tensor - 1].op == "average_pool":
                self.high[tensor] = POOL_HIGH

    def _final_readers(self, tensor: int) -> list[int]:
        """The layers that read a tensor, through max pools too: these hand it on in its own integers."""
        found: list[int] = []
        for reader in self.network.readers(tensor):
            found += self._final_readers(reader + 1) if self.network.layers[reader].op == "max_pool" else [reader]
        return found

    def forward(self, images: Tensor, seen: Seen | None = None) -> Tensor:
        """Logits, float32 (N, classes).

        Args:
            images: as decoded, 0 to 255, (N, C, H, W), of any dtype.
            seen: called with the number of every tensor and its integers, from the images on.
        """
        tensors: dict[int, Tensor] = {0: images.float().contiguous(memory_format=torch.channels_last)}
        if seen is not None:
            seen(0, tensors[0])
        for index, layer in enumerate(self.network.layers):
            residual = tensors[layer.residual] if layer.residual >= 0 else None
            real = self.real(index, tensors[layer.input], residual)
            if layer.op == "classifier":
                return real.flatten(1)
            tensors[index + 1] = self.quantised(index + 1, real)
            if seen is not None:
                seen(index + 1, tensors[index + 1])
            for tensor in {layer.input, layer.residual} - {-1}:
                if self.network.last_use(tensor) == index:
                    del tensors[tensor]
        raise RuntimeError("a network without a classifier")

    def real(self, index: int, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The output of layer `index` in real numbers, before ReLU and rounding, from the integers of its inputs."""
        fused = self.network.layers[index]
        if fused.op == "max_pool":  # the border is below everything
            pooled = F.max_pool2d(x, fused.kernel, fused.stride, fused.padding)
            return self.dequantised(fused.input, pooled)
        if fused.op == "average_pool":
            return self.dequantised(fused.input, x).mean((2, 3), keepdim=True)
        layer, sums = self.layer(index), self.sums(index, x)
        if self.training:
            layer.centre = sums.mean((0, 2, 3))
        total = (sums - layer.centre[:, None, None]) * self.scale(index)[:, None, None] + layer.level[:, None, None]
        if self.training:
            layer.centre = layer.centre.detach()
        if residual is not None:
            total = total + self.dequantised(fused.residual, residual)
        return total

    def layer(self, index: int) -> Layer:
        """The parameters of layer `index`, which is no pool."""
        return cast(Layer, self.layers[str(index)])

    def sums(self, index: int, x: Tensor) -> Tensor:
        """The operator alone, in real numbers: `-sum |x - f|` or `sum x f`."""
        fused = self.network.layers[index]
        if fused.op == "adder":
            return self._distances(index, fused, x)
        weight = self.layer(index).weight
        if fused.input == 0:  # per channel, and a padded zero is the mean's integer
            unit = (1 / (255 * self.std)).float()[:, None, None]
            weight = weight * unit
            shift = (255 * self.mean).float()[:, None, None]
            x = _padded(x, fused.padding, (255 * self.mean).round().float()) - shift
        else:
            x = self.dequantised(fused.input, F.pad(x, _margins(fused.padding), value=self.zero[fused.input]))
        steps = self.weight_steps(index).float()[:, None, None, None]
        weight = rounded(weight / steps) * steps
        return F.conv2d(x, weight, None, fused.stride)

    def _distances(self, index: int, fused: FusedLayer, x: Tensor) -> Tensor:
        step, zero, high = self.step[fused.input].float(), self.zero[fused.input], self.high[fused.input]
        weight = self.layer(index).weight
        if not self.training:
            far = (weight / step + zero).double()
            near = _half_up(far).clamp(0, high)
            constant = (far - far.clamp(0, high)).abs().sum((1, 2, 3))
            x = F.pad(x, _margins(fused.padding), value=zero) if zero else x
            sums = adder2d(x, near.float(), None, fused.stride, 0 if zero else fused.padding)
            return (sums - constant.float()[:, None, None]) * step
        # |x - f| = |x - clamp(f)| + |f - clamp(f)| for every x in the range: filters outside stay as they are.
        inside = (weight.detach() / step + zero).clamp(0, high)
        filters = weight + (_half_up(inside) - inside) * step
        return adder2d((x - zero) * step, filters, None, fused.stride, fused.padding)

    def scale(self, index: int) -> Tensor:
        """The epilogue's factor per channel; powers of two where multipliers are not allowed.

        A convolution's filters take up what is left of its factor (`weight_steps`), an adder layer's can't.
        """
        layer = self.layer(index)
        scale = layer.gain * layer.unit
        if self.multiplier_free and self.network.layers[index].op == "adder":
            return scale + (power_of_two(scale) - scale).detach()
        return scale

    def weight_steps(self, index: int) -> Tensor:
        """Of a convolution's or classifier's filters, per output channel."""
        fused, layer = self.network.layers[index], self.layer(index)
        weight = layer.weight.detach().double()
        if fused.input == 0:  # filters of bytes
            weight = weight / (255 * self.std[:, None, None])
        steps = weight.abs().amax((1, 2, 3)).clamp(min=1e-30) / WEIGHT_HIGH
        if self.multiplier_free:  # what the sums are multiplied by becomes a power of two
            factor = (layer.gain * layer.unit).detach().double().abs().clamp(min=1e-30)
            if fused.input > 0:
                factor = factor * self.step[fused.input]  # of an average pool, no power of two
            steps = torch.exp2((steps * factor).log2().ceil()) / factor
        return steps

    def dequantised(self, tensor: int, q: Tensor) -> Tensor:
        """Real numbers from integers."""
        return (q - self.zero[tensor]) * self.step[tensor].float()

    def quantised(self, tensor: int, real: Tensor) -> Tensor:
        """Integers from real numbers: rounded half up, ReLU and saturation in one clamp."""
        layer = self.network.layers[tensor - 1]
        low = self.zero[tensor] if layer.relu else 0
        return rounded((real / self.step[tensor].float() + self.zero[tensor]).clamp(low, self.high[tensor]))


def rounded(x: Tensor) -> Tensor:
    """Rounds half up; the gradient is that of the identity."""
    return x + (_half_up(x) - x).detach()


def power_of_two(x: Tensor) -> Tensor:
    """The nearest power of two, or its negative: 1.5 is the border between 1 and 2."""
    exponent = (x.detach().double().abs().clamp(min=1e-30) / 1.5).log2().ceil()
    return torch.copysign(torch.exp2(exponent), x.double()).to(x.dtype)


def _half_up(x: Tensor) -> Tensor:
    return torch.floor(x + 0.5)


def _margins(padding: tuple[int, int]) -> tuple[int, int, int, int]:
    return padding[1], padding[1], padding[0], padding[0]


def _padded(x: Tensor, padding: tuple[int, int], values: Tensor) -> Tensor:
    """Pads each channel with its own value."""
    return F.pad(x - values[:, None, None], _margins(padding)) + values[:, None, None]
