"""The names of the networks: one file per family in this folder, or the entry points `adderkit.models`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from adderkit.models.network import LAYERS, Network, Operator
from adderkit.registry import Registry

Builder = Callable[[Operator, int, int], Network]
"""Builds a network from (operator, num_classes, in_channels)."""

_builders: Registry[Builder] = Registry("network", "adderkit.models", "adderkit.models")

names = _builders.names


def register(builder: Builder) -> Builder:
    """Decorator: the function's name becomes the network's.

    A file in this folder is found by itself. A package of its own names the module that registers under the
    entry-point group `adderkit.models`.

    Raises:
        ValueError: where another builder has that name.
    """
    return _builders.register(builder.__name__)(builder)


def create(
    name: str, layer: Literal["adder", "conv"] = "adder", num_classes: int = 10, in_channels: int = 3
) -> Network:
    """Builds a network.

    Stem and classifier stay multiplicative in both twins and, under the same seed (`torch.manual_seed` before
    each), start equal.

    Args:
        name: one of `names()`.
        layer: the operator: "adder" for the adder network, "conv" for its twin.
        num_classes: number of logits, >= 2.
        in_channels: channels of the images, >= 1.

    Returns:
        The network in training mode. Its output has the shape (N, num_classes).

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    builder = _builders.get(name)
    if layer not in LAYERS:
        raise ValueError(f"`layer` (={layer!r}) must be one of {', '.join(LAYERS)}")
    _check_count("num_classes", num_classes, 2)
    _check_count("in_channels", in_channels, 1)
    network = builder(LAYERS[layer], num_classes, in_channels)
    for path in (network.stem_path, network.classifier_path, *network.stage_paths):
        network.get_submodule(path)  # AttributeError where a family's facts are wrong
    network.name, network.layer = name, layer
    network.num_classes, network.in_channels = num_classes, in_channels
    return network


def _check_count(argument: str, value: object, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"`{argument}` (={value!r}) must be an integer >= {minimum}")
