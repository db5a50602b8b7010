"""Chooses the grid of every tensor, and corrects scales and biases, from what some training images do.

Tensors are taken in order, each from inputs that are already integers, beside the same images in real numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from adderkit.ops import adder2d
from adderkit.quant.graph import FusedLayer, FusedNetwork
from adderkit.quant.simulation import POOL_HIGH, Simulation

_SEARCHED = 64  # images on which ranges are compared
_RANGES = [0.9**k for k in range(24)]  # fractions of the largest value that are tried: down to 9 %
_LEAST = 1e-3  # of the largest magnitude before the ReLU: no range is smaller
_STEEPEST = 2.0  # a corrected scale stays within this factor


@torch.no_grad()
def calibrate(
    network: FusedNetwork,
    images: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    bits: int = 8,
    multiplier_free: bool = False,
    note: Callable[[str], None] = lambda line: None,
) -> tuple[Simulation, float]:
    """A simulation whose steps, zeros, scales and biases are chosen.

    Of every tensor several ranges are tried, and the one with the least error is taken: the squared error that the
    layers which read it make of it, relative to their output's variance.

    Args:
        network: fused.
        images: uint8 (N, C, H, W), training images.
        mean, std: per channel, of images in [0, 1].
        bits: 2 to 8, of the tensors that adder layers read.
        multiplier_free: powers of two only.
        note: told of each layer.

    Returns:
        The simulation in evaluation mode, and the largest magnitude of a logit.
    """
    simulation = Simulation(network, mean, std, bits, multiplier_free).eval()
    real: dict[int, Tensor] = {0: _normalised(images, simulation)}
    integers: dict[int, Tensor] = {0: images.float().contiguous(memory_format=torch.channels_last)}
    largest = 0.0
    for index, layer in enumerate(network.layers):
        exact = _exact(layer, real[layer.input], real.get(layer.residual))
        rough = _corrected(simulation, index, integers, exact, real.get(layer.residual))
        if layer.op == "classifier":
            largest = max(exact.abs().max().item(), rough.abs().max().item())
            break
        real[index + 1] = exact.relu() if layer.relu else exact
        _choose(simulation, index + 1, real[index + 1], rough)
        integers[index + 1] = simulation.quantised(index + 1, rough)
        for tensor in {layer.input, layer.residual} - {-1}:
            if network.last_use(tensor) == index:
                del real[tensor], integers[tensor]
        note(layer.name)
    return simulation, largest


def _normalised(images: Tensor, simulation: Simulation) -> Tensor:
    mean, std = (value.float()[:, None, None] for value in (simulation.mean, simulation.std))
    return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def _exact(layer: FusedLayer, x: Tensor, residual: Tensor | None) -> Tensor:
    """A layer in real numbers, before its ReLU."""
    if layer.op == "max_pool":
        return F.max_pool2d(x, layer.kernel, layer.stride, layer.padding)
    if layer.op == "average_pool":
        return x.mean((2, 3), keepdim=True)
    assert layer.weight is not None and layer.scale is not None and layer.bias is not None
    scale, bias = layer.scale.float()[:, None, None], layer.bias.float()[:, None, None]
    total = _operator(layer, x, layer.weight.float()) * scale + bias
    return total if residual is None else total + residual


def _operator(layer: FusedLayer, x: Tensor, weight: Tensor) -> Tensor:
    operation = adder2d if layer.op == "adder" else F.conv2d
    return operation(x, weight, None, layer.stride, layer.padding)


def _corrected(
    simulation: Simulation, index: int, integers: dict[int, Tensor], exact: Tensor, residual: Tensor | None
) -> Tensor:
    """A layer's output from integers, after its scale and bias were fitted to the exact output, channel by channel."""
    fused = simulation.network.layers[index]
    x, added = integers[fused.input], integers.get(fused.residual)
    if fused.weight is None:
        return simulation.real(index, x)
    layer = simulation.layer(index)
    sums = simulation.sums(index, x)
    own = exact if residual is None else exact - residual
    centred = sums - (mean := sums.mean((0, 2, 3), keepdim=True))
    slope = (centred * own).mean((0, 2, 3)) / centred.square().mean((0, 2, 3)).clamp(min=1e-30)
    ratio = slope / layer.unit
    layer.gain.copy_(torch.where(ratio.isfinite(), ratio, 1.0).clamp(1 / _STEEPEST, _STEEPEST))
    layer.centre = mean.flatten()
    target = exact if added is None else exact - simulation.dequantised(fused.residual, added)
    layer.level.copy_(target.mean((0, 2, 3)))
    return simulation.real(index, x, added)


def _choose(simulation: Simulation, tensor: int, exact: Tensor, rough: Tensor) -> None:
    """Step and zero of a tensor."""
    layer, network = simulation.network.layers[tensor - 1], simulation.network
    if layer.op == "max_pool":
        simulation.step[tensor], simulation.zero[tensor] = simulation.step[layer.input], simulation.zero[layer.input]
        return
    if layer.op == "average_pool":
        step = simulation.step[layer.input] * simulation.high[layer.input] / POOL_HIGH
        if simulation.multiplier_free:  # what is left of the division by the number of positions
            count = math.prod(network.shape(layer.input)[1:])
            step = torch.exp2((step * count).log2().ceil()) / count
        simulation.step[tensor] = step
        simulation.zero[tensor] = float(simulation.zero[layer.input] * simulation.step[layer.input] / step)
        return
    exact, rough = exact[:_SEARCHED], rough[:_SEARCHED]
    judges = _judges(simulation, tensor, exact)
    high, powers = int(simulation.high[tensor]), simulation.multiplier_free
    grids = [_grid(rough, layer.relu, fraction, high, powers) for fraction in _RANGES]
    best, kept = math.inf, grids[0]
    for grid in dict.fromkeys(grids):
        simulation.step[tensor], simulation.zero[tensor] = grid
        q = simulation.quantised(tensor, rough)
        error = sum(judge(q) for judge in judges)
        if error < best:
            best, kept = error, grid
    simulation.step[tensor], simulation.zero[tensor] = kept


def _grid(values: Tensor, relu: bool, fraction: float, high: int, powers: bool) -> tuple[float, int]:
    """Step and zero of a grid over a fraction of the values' range."""
    low = 0.0 if relu else min(values.min().item(), 0.0) * fraction
    # Where a ReLU leaves next to nothing, what it cuts off tells how large a step is.
    smallest = _LEAST * values.abs().max().item() or 1.0
    step = max(max(values.max().item(), 0.0) * fraction - low, smallest) / high
    if powers:
        step = 2.0 ** round(math.log2(step))
    return step, min(round(-low / step), high)


def _judges(simulation: Simulation, tensor: int, exact: Tensor) -> list[Callable[[Tensor], float]]:
    """What each use of a tensor makes of its error, as a fraction of the variance there."""
    network = simulation.network
    readers = [reader for reader in network.readers(tensor) if network.layers[reader].op == "adder"]
    judges = [_adder_judge(simulation, reader, exact) for reader in readers]
    is_added = any(layer.residual == tensor for layer in network.layers)
    if is_added or len(readers) < len(network.readers(tensor)):
        variance = exact.var().item() or 1.0
        judges.append(lambda q: (simulation.dequantised(tensor, q) - exact).square().mean().item() / variance)
    return judges


def _adder_judge(simulation: Simulation, reader: int, exact: Tensor) -> Callable[[Tensor], float]:
    layer = simulation.network.layers[reader]
    assert layer.weight is not None and layer.scale is not None
    wanted = _operator(layer, exact, layer.weight.float())
    weights = layer.scale.float().square()
    variance = (weights * wanted.var((0, 2, 3))).sum().item() or 1.0

    def judge(q: Tensor) -> float:
        error = simulation.sums(reader, q) - wanted  # its mean goes into the bias
        return (weights * error.var((0, 2, 3))).sum().item() / variance

    return judge
