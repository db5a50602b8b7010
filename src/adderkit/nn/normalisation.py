"""Finds adder layers that no normalisation follows."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adderkit.nn.first_use import WHY
from adderkit.nn.layers import AdderLayer

_NORMALISATIONS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.GroupNorm, nn.LayerNorm, nn.RMSNorm),
)


def unnormalised(model: nn.Module, example: Tensor | tuple[Any, ...]) -> list[str]:
    """Runs `model` once and tells which adder layers feed something other than a normalisation.

    A normalisation is a batch, instance, group, layer or RMS normalisation of torch, or a module without children
    whose class name contains "norm". It must receive the layer's output itself or a view of it, in every call of the
    layer. Functions (`torch.nn.functional.batch_norm`) are not seen, and layers that the run does not reach are not
    listed. The run is in evaluation mode without gradients; training flags, buffers and hooks are as before after it.

    Args:
        model: any module.
        example: its input, or a tuple of its inputs.

    Returns:
        Module paths, in the model's order.
    """
    paths: dict[nn.Module, str] = {module: path for path, module in model.named_modules()}
    pending: list[tuple[str, Tensor, int]] = []  # keeps the tensors alive, so that none is mistaken for another

    def produced(layer: nn.Module, args: Any, output: Tensor) -> None:
        pending.append((paths[layer], _root(output), output._version))

    def consumed(norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for tensor in (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)):
            # A changed version means that something wrote in place, between the layer and the normalisation.
            found = [p for p in pending if p[1] is _root(tensor) and p[2] == tensor._version]
            for item in found:
                pending.remove(item)

    handles: list[RemovableHandle] = []
    try:
        for module in paths:
            if isinstance(module, AdderLayer):
                handles.append(module.register_forward_hook(produced))
            elif is_normalisation(module):
                handles.append(module.register_forward_pre_hook(consumed, with_kwargs=True))
        with evaluation(model), torch.no_grad():
            model(*example) if isinstance(example, tuple) else model(example)
    finally:
        for handle in handles:
            handle.remove()
    left = {path for path, _, _ in pending}
    return [path for path in paths.values() if path in left]


def warn_unnormalised(model: nn.Module, example: Tensor | tuple[Any, ...]) -> None:
    """Issues one `UserWarning` that lists what `unnormalised` finds; silent where it finds nothing."""
    found = unnormalised(model, example)
    if found:
        warnings.warn(f"no normalisation follows {', '.join(found)}; {WHY}", stacklevel=2)


def is_normalisation(module: nn.Module) -> bool:
    """A normalisation of torch, or a module without children whose class name contains "norm"."""
    if isinstance(module, _NORMALISATIONS):
        return True
    return "norm" in type(module).__name__.lower() and next(module.children(), None) is None


def _root(tensor: Tensor) -> Tensor:
    return tensor if tensor._base is None else tensor._base


@contextmanager
def evaluation(model: nn.Module) -> Generator[None]:
    """Evaluation mode for a while; afterwards every module's training flag is as it was."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag
