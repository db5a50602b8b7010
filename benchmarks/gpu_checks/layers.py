"""Speed of single layers beside the convolution and the formulations that a user would otherwise take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from adderkit.bench import formulations, verify
from adderkit.bench.shapes import Layer, resnet20, resnet50
from adderkit.ops import adder2d
from gpu_checks.clock import milliseconds


def wanted(quick: bool) -> list[tuple[Layer, int]]:
    """Layers and batch sizes: all of ResNet-20 at 256, the 3x3 ones of ResNet-50 at 64."""
    if quick:
        return [(resnet20()[0], 2)]
    return [(layer, 256) for layer in resnet20()] + [(layer, 64) for layer in resnet50() if layer.kernel == 3]


def measure(
    layer: Layer, batch: int, device: torch.device, limit: float | None, seconds: float, others: bool
) -> dict[str, Any]:
    """Times of a layer, after its results were compared with float64.

    Args:
        layer: which.
        batch: images.
        device: where.
        limit: operations a second that the device could do at most, or None.
        seconds: for about how long.
        others: whether `torch.cdist` and the official formulation are timed too, on fewer images where those do not
            fit; their times are stated for the whole batch.

    Raises:
        WrongResult: the layer computes something else; nothing is timed.
    """
    torch.manual_seed(0)
    x = torch.randn(batch, layer.in_channels, layer.size, layer.size, device=device)
    f = torch.randn(layer.out_channels, layer.in_channels, layer.kernel, layer.kernel, device=device)
    stride, padding = layer.stride, layer.padding
    g = torch.randn(batch, layer.out_channels, layer.out_size, layer.out_size, device=device)
    found = verify.layer_errors(_adder, x, f, g, stride, padding)
    for name, error in found._asdict().items():
        verify.require(error, f"{layer.name}: {name}")
    geometry = ((stride, stride), (padding, padding), (1, 1), 1)
    last = {name: tensor.contiguous(memory_format=torch.channels_last) for name, tensor in (("x", x), ("f", f))}
    half = {name: tensor.bfloat16() for name, tensor in last.items()}
    ops = torch.ops.adderkit
    calls: dict[str, Callable[[], object]] = {
        "adder": lambda: ops.adder2d(x, f, *geometry),
        "adder, channels_last": lambda: ops.adder2d(last["x"], last["f"], *geometry),
        "adder, bfloat16": lambda: ops.adder2d(half["x"], half["f"], *geometry),
        "adder input_grad": lambda: ops.adder2d_input_grad(g, x, f, *geometry),
        "adder weight_grad": lambda: ops.adder2d_weight_grad(g, x, f, *geometry),
        "adder both": _both(_adder, x, f, g, layer),
        "conv": lambda: conv2d(x, f, stride=stride, padding=padding),
        "conv, bfloat16": lambda: conv2d(half["x"], half["f"], stride=stride, padding=padding),
        "conv both": _both(_conv, x, f, g, layer),
    }
    row: dict[str, Any] = {"layer": layer.name, "network": layer.network, "batch": batch} | found._asdict()
    with torch.no_grad():
        times = milliseconds(calls, device, seconds)
    row |= {f"{name} ms": value for name, value in times.items()}
    if others:
        row |= _others(layer, batch, device)
    row["forward Top/s"] = batch * layer.operations / times["adder"] / 1e9
    if limit is not None:
        for name in ("adder", "adder input_grad"):
            row[f"{name} share"] = batch * layer.operations / (1e-3 * times[name]) / limit
    return row


def _adder(x: Tensor, f: Tensor, stride: int, padding: int) -> Tensor:
    return adder2d(x, f, stride=stride, padding=padding)


def _conv(x: Tensor, f: Tensor, stride: int, padding: int) -> Tensor:
    return conv2d(x, f, stride=stride, padding=padding)


def _both(operation: verify.Operation, x: Tensor, f: Tensor, g: Tensor, layer: Layer) -> Callable[[], object]:
    x, f = x.detach().requires_grad_(), f.detach().requires_grad_()

    def call() -> object:
        with torch.enable_grad():
            return torch.autograd.grad(operation(x, f, layer.stride, layer.padding), (x, f), g)

    return call


def _others(layer: Layer, batch: int, device: torch.device) -> dict[str, float]:
    images = formulations.images(layer, batch)
    x = torch.randn(images, layer.in_channels, layer.size, layer.size, device=device)
    f = torch.randn(layer.out_channels, layer.in_channels, layer.kernel, layer.kernel, device=device)
    calls = {
        "cdist": lambda: formulations.unfold_cdist(x, f, layer.stride, layer.padding),
        "official": lambda: formulations.official(x, f, layer.stride, layer.padding),
    }
    with torch.no_grad():
        times = milliseconds(calls, device, 0.2)
    return {f"{name} ms": value * batch / images for name, value in times.items()}
