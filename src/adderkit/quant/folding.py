"""From a calibrated simulation to integers: scales, zeros and normalisation go into multipliers and offsets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adderkit.quant.network import IntegerLayer, IntegerNetwork
from adderkit.quant.simulation import POOL_HIGH, WEIGHT_HIGH, Simulation
from adderkit.train import NetworkInfo

_LONGEST_SHIFT = 62
_BOUND = 2**61  # of |multiplier * sum + offset + residual_multiplier * residual|: half of what the format allows
_LOGIT_BITS = (12, 20)  # fractional bits of the logits, at least and at most


def to_integers(
    simulation: Simulation, info: NetworkInfo, largest_logit: float, notes: dict[str, Any]
) -> IntegerNetwork:
    """The integer network that a simulation in evaluation mode simulates.

    Args:
        simulation: calibrated.
        info: of the trained network.
        largest_logit: the largest magnitude seen; fixed-point logits have room for 8 times as much.
        notes: for the header of its file.
    """
    logit_shift = 23 - 3 - math.ceil(math.log2(max(largest_logit, 1e-6)))
    logit_shift = min(max(logit_shift, _LOGIT_BITS[0]), _LOGIT_BITS[1])
    with torch.no_grad():
        layers = tuple(_layer(simulation, index, logit_shift) for index in range(len(simulation.network.layers)))
    return IntegerNetwork(
        name=info.network,
        dataset=info.dataset,
        classes=tuple(info.classes),
        channels=info.in_channels,
        height=info.height,
        width=info.width,
        bits=simulation.bits,
        multiplier_free=simulation.multiplier_free,
        logit_shift=logit_shift,
        layers=layers,
        notes=notes,
    )


def _layer(simulation: Simulation, index: int, logit_shift: int) -> IntegerLayer:
    fused = simulation.network.layers[index]
    channels = fused.shape[0]
    facts = {"op": fused.op, "name": fused.name, "input": fused.input, "out_channels": channels}
    if fused.op == "max_pool":
        return IntegerLayer(**facts, kernel=fused.kernel, stride=fused.stride, padding=fused.padding)
    if fused.op == "average_pool":
        return _average_pool(simulation, index, facts)
    weight, factor, constant = (_adder if fused.op == "adder" else _convolution)(simulation, index)
    step = 2.0**-logit_shift if fused.op == "classifier" else float(simulation.step[index + 1])
    zero = 0.0 if fused.op == "classifier" else simulation.zero[index + 1]
    residual = 0.0
    if fused.residual >= 0:
        residual = float(simulation.step[fused.residual]) / step
        constant = constant - float(simulation.step[fused.residual]) * simulation.zero[fused.residual]
    factor, constant = factor / step, constant / step + zero
    if simulation.multiplier_free:
        factor = _snapped(factor)
    largest = _largest_sums(weight, simulation, fused.input)
    shift = _shift(factor, constant, residual, largest, simulation.multiplier_free)
    facts |= {
        "weight": weight.transpose(0, 2, 3, 1),
        "multiplier": _rounded(factor, shift).astype(np.int32),
        "offset": _rounded(constant, shift) + (1 << shift >> 1),
        "shift": shift,
    }
    if fused.op == "classifier":
        return IntegerLayer(**facts)
    pad = np.full(simulation.network.shape(fused.input)[0], simulation.zero[fused.input], np.uint8)
    if fused.input == 0:
        pad = np.rint(255 * simulation.mean.numpy()).astype(np.uint8)
    return IntegerLayer(
        **facts,
        residual=fused.residual,
        kernel=fused.kernel,
        stride=fused.stride,
        padding=fused.padding,
        pad=pad,
        residual_multiplier=int(_rounded(np.array(residual), shift)),
        low=int(zero) if fused.relu else 0,
        high=int(simulation.high[index + 1]),
    )


def _adder(simulation: Simulation, index: int) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
    """Filters, factor of the sums and constant, in real numbers: `y = -scale * (step * sum + rest) + bias`."""
    fused, layer = simulation.network.layers[index], simulation.layer(index)
    step, zero, high = float(simulation.step[fused.input]), simulation.zero[fused.input], simulation.high[fused.input]
    far = layer.weight.double().numpy() / step + zero
    near = np.floor(np.clip(far, 0, high) + 0.5)
    rest = step * np.abs(far - np.clip(far, 0, high)).sum((1, 2, 3))
    scale = simulation.scale(index).double().numpy()
    return (
        near.astype(np.uint8),
        -scale * step,
        layer.level.double().numpy() - scale * (rest + layer.centre.double().numpy()),
    )


def _convolution(simulation: Simulation, index: int) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
    """Alike: `y = scale * weight_step * (sum - sum of filter * zero) + bias`."""
    fused, layer = simulation.network.layers[index], simulation.layer(index)
    weight = layer.weight.double()
    if fused.input == 0:
        weight = weight / (255 * simulation.std[:, None, None])
        zeros, step = 255 * simulation.mean, 1.0
    else:
        zeros = torch.full((weight.shape[1],), simulation.zero[fused.input], dtype=torch.float64)
        step = float(simulation.step[fused.input])
    steps = simulation.weight_steps(index).double()
    near = torch.floor(weight / steps[:, None, None, None] + 0.5).clamp(-WEIGHT_HIGH, WEIGHT_HIGH)
    scale = simulation.scale(index).double()
    factor = scale * steps * step
    constant = layer.level.double() - factor * (near.sum((2, 3)) * zeros).sum(1) - scale * layer.centre.double()
    return near.to(torch.int8).numpy(), factor.numpy(), constant.numpy()


def _average_pool(simulation: Simulation, index: int, facts: dict[str, Any]) -> IntegerLayer:
    fused = simulation.network.layers[index]
    _, height, width = simulation.network.shape(fused.input)
    factor = np.array([float(simulation.step[fused.input] / simulation.step[index + 1]) / (height * width)])
    if simulation.multiplier_free:
        factor = _snapped(factor)
    zeros = np.zeros(1)
    largest = np.array([height * width * simulation.high[fused.input]])
    shift = _shift(factor, zeros, 0.0, largest, simulation.multiplier_free)
    return IntegerLayer(
        **facts,
        multiplier=_rounded(factor, shift).astype(np.int32),
        offset=_rounded(zeros, shift) + (1 << shift >> 1),
        shift=shift,
        high=POOL_HIGH,
    )


def _largest_sums(weight: NDArray[Any], simulation: Simulation, tensor: int) -> NDArray[np.float64]:
    """The largest magnitude that the sum of each output channel can have."""
    high, filters = simulation.high[tensor], weight.astype(np.float64)
    if weight.dtype == np.uint8:
        return np.maximum(filters, high - filters).sum((1, 2, 3))
    return high * np.abs(filters).sum((1, 2, 3))


def _shift(
    factor: NDArray[np.float64], constant: NDArray[np.float64], residual: float, largest: NDArray[Any], powers: bool
) -> int:
    """The longest shift with which everything fits; with powers of two, one that the smallest multiplier needs."""
    if powers:
        smallest = min(np.abs(factor[factor != 0]).min(initial=1.0), residual or 1.0)
        wanted = min(max(16, -math.floor(math.log2(smallest))), _LONGEST_SHIFT)
    else:
        wanted = _LONGEST_SHIFT
    for shift in range(wanted, -1, -1):
        multipliers = max(np.abs(factor).max(), residual) * 2.0**shift
        total = (np.abs(factor) * largest + np.abs(constant) + residual * 255 + 1).max() * 2.0**shift
        if multipliers < 2**31 - 1 and total < _BOUND:
            return shift
    raise ValueError("the network's scales differ too much for 32-bit multipliers: was it trained to the end?")


def _snapped(factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """To the powers of two that they are but for the last bits."""
    return np.copysign(np.exp2(np.rint(np.log2(np.maximum(np.abs(factor), 1e-30)))), factor)


def _rounded(value: NDArray[np.float64], shift: int) -> NDArray[np.int64]:
    return np.rint(value * 2.0**shift).astype(np.int64)
