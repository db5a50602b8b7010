"""An adder network that begins with the weights of its convolutional twin."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from adderkit.nn.base import AdderLayer

_GEOMETRY = ("stride", "padding", "output_padding", "dilation", "groups", "padding_mode")


def check_twin(student: nn.Module, teacher: nn.Module) -> None:
    """Refuses nets that `start_from_twin` can't serve.

    Raises:
        ValueError: the student has no adder layer, or the nets differ in more than the operator of these layers and
            what the student has besides (a BatchNorm behind its classifier, say).
    """
    layers = _adder_layers(student)
    if not layers:
        raise ValueError("the student has no adder layers: a convolutional one would be its teacher at once")
    twins, own = dict(teacher.named_modules()), dict(student.named_parameters())
    for path, layer in layers.items():
        twin = twins.get(path)
        if not isinstance(twin, _ConvNd | nn.Linear) or not _has_geometry(twin, layer):
            raise ValueError(
                f"the teacher is not the student's twin: its `{path}` is not the convolution of that layer"
            )
    for name, parameter in teacher.named_parameters():
        if name not in own or own[name].shape != parameter.shape:
            shape = tuple(own[name].shape) if name in own else "missing"
            raise ValueError(
                f"the teacher is not the student's twin: `{name}` is {tuple(parameter.shape)} there, {shape} here"
            )


@torch.no_grad()
def start_from_twin(student: nn.Module, teacher: nn.Module) -> None:
    """Gives an adder network the parameters of its convolutional twin, so that both see the same templates.

    `-|x - f|` is largest where `x` is like `f`, and a product where `x` points the way of `w`: filters of one shape
    respond alike. An adder layer takes its convolution's filters, at mean 0 and deviation 1 over the layer, as random
    ones have. Stem, classifier, normalisations and whatever else the teacher has are taken as they are.
    Running statistics are not: those of distances are others.

    Args:
        student: changed in place: an adder network of `models.create`, or what `convert` made of `teacher`.
        teacher: its convolutional twin, trained.

    Raises:
        ValueError: it is no twin; nothing was changed.

    Source: none, this is our own (figures: docs/results/study).
    """
    check_twin(student, teacher)
    filters = {f"{path}.weight" for path in _adder_layers(student)}
    own = dict(student.named_parameters())
    for name, parameter in teacher.named_parameters():
        own[name].copy_(_standardised(parameter) if name in filters else parameter)


def _standardised(filters: Tensor) -> Tensor:
    """At mean 0 and deviation 1; filters that are all alike, up to rounding, become 0 or nearly so."""
    least = 1e-5 * filters.abs().max() + 1e-30
    return (filters - filters.mean()) / filters.std(correction=0).clamp(min=least)


def _adder_layers(student: nn.Module) -> dict[str, AdderLayer]:
    return {path: module for path, module in student.named_modules() if isinstance(module, AdderLayer)}


def _has_geometry(twin: nn.Module, layer: AdderLayer) -> bool:
    """Whether a layer has the shape of an adder layer's filters and all that says which taps they meet."""
    keys = [key for key in _GEOMETRY if hasattr(layer, key)]
    return twin.get_parameter("weight").shape == layer.weight.shape and all(
        getattr(twin, key, None) == getattr(layer, key) for key in keys
    )
