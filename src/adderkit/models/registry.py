"""The names of the networks: one file per family in this folder, or the entry points `adderkit.models`."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Literal

from adderkit.models.network import LAYERS, Network, Operator

Builder = Callable[[Operator, int, int], Network]
"""Builds a network from (operator, num_classes, in_channels)."""

_builders: dict[str, Builder] = {}


def register(builder: Builder) -> Builder:
    """Decorator: the function's name becomes the network's.

    A file in this folder is found by itself. A package of its own names the module that registers under the
    entry-point group `adderkit.models`.

    Raises:
        ValueError: where another builder has that name.
    """
    name = builder.__name__
    if name in _builders:
        raise ValueError(f"`name` (={name!r}) must be new: {_builders[name].__module__} registers it already")
    _builders[name] = builder
    return builder


def names() -> list[str]:
    """The networks that `create` knows, sorted."""
    _discover()
    return sorted(_builders)


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
    _discover()
    if name not in _builders:
        near = get_close_matches(name, _builders)
        hint = f"; did you mean {' or '.join(near)}?" if near else ";"
        raise ValueError(f"`name` (={name!r}) is unknown{hint} Allowed: {', '.join(sorted(_builders))}")
    if layer not in LAYERS:
        raise ValueError(f"`layer` (={layer!r}) must be one of {', '.join(LAYERS)}")
    _check_count("num_classes", num_classes, 2)
    _check_count("in_channels", in_channels, 1)
    network = _builders[name](LAYERS[layer], num_classes, in_channels)
    for path in (network.stem_path, network.classifier_path, *network.stage_paths):
        network.get_submodule(path)  # AttributeError where a family's facts are wrong
    network.name, network.layer = name, layer
    network.num_classes, network.in_channels = num_classes, in_channels
    return network


def _check_count(argument: str, value: object, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"`{argument}` (={value!r}) must be an integer >= {minimum}")


@cache
def _discover() -> None:
    import adderkit.models as package

    for module in iter_modules(package.__path__):
        import_module(f"adderkit.models.{module.name}")
    for entry in entry_points(group="adderkit.models"):
        entry.load()
