"""Where an adder student may begin: with the weights of its convolutional twin."""

from __future__ import annotations

import torch
from torch import nn

from adderkit.nn import AdderLayer


def check_twin(student: nn.Module, teacher: nn.Module | None) -> None:
    """Refuses nets that `start_from_twin` can't serve.

    Raises:
        ValueError: no teacher, no adder layer in the student, or one whose convolution the teacher does not have.
    """
    if teacher is None:
        raise ValueError("`start` (=teacher): the method has no teacher; it must be own")
    layers = _adder_layers(student)
    if not layers:
        raise ValueError(
            "`start` (=teacher) is for adder students (`layer` adder): a convolutional one would be its teacher at once"
        )
    twins = dict(teacher.named_modules())
    for path, layer in layers.items():
        if not _has_shapes(twins.get(path), layer):
            raise ValueError(
                f"`start` (=teacher): the teacher must be the student's twin, but has no convolution `{path}` with"
                f" filters of shape {tuple(layer.weight.shape)}; `start` must be own"
            )


@torch.no_grad()
def start_from_twin(student: nn.Module, teacher: nn.Module) -> None:
    """Gives an adder network the parameters of its convolutional twin, so that both see the same templates.

    `-|x - f|` is largest where `x` is like `f`, and a product where `x` points the way of `w`: filters of one shape
    respond alike. An adder layer takes its convolution's filters at mean 0 and deviation 1 over the layer, the
    distribution that adder filters have at random. Stem, classifier, normalisations and whatever else has the path and
    the shapes of a module of the teacher take its parameters as they are. Running statistics stay: those of distances
    are others.

    Args:
        student: changed in place.
        teacher: its twin, as `check_twin` has it.

    Source: none, this is our own (figures: docs/results/study).
    """
    twins, layers = dict(teacher.named_modules()), _adder_layers(student)
    for path, module in student.named_modules():
        twin = twins.get(path)
        if twin is None or not _has_shapes(twin, module):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            values = twin.get_parameter(name)
            if path in layers and name == "weight":
                values = (values - values.mean()) / values.std(correction=0).clamp(min=1e-12)
            parameter.copy_(values)


def _adder_layers(student: nn.Module) -> dict[str, AdderLayer]:
    return {path: module for path, module in student.named_modules() if isinstance(module, AdderLayer)}


def _has_shapes(twin: nn.Module | None, module: nn.Module) -> bool:
    """Whether two modules have parameters of their own by the same names and of the same shapes."""
    own, others = (
        None if part is None else {name: parameter.shape for name, parameter in part.named_parameters(recurse=False)}
        for part in (module, twin)
    )
    return own == others
