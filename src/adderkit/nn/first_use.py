"""Looks once where an adder layer's output goes, for users who never call `unnormalised`.

A layer cannot know its consumer when it runs. At its first training step it therefore leaves a hook on all modules
until one of them receives that very tensor, or until backward reaches it; later steps pay one comparison. The hook
speaks only where there is no doubt: where an activation, a convolution, a linear layer, a loss or another adder layer
receives the output itself. Anything else (functions such as `torch.relu`, additions, pooling, dropout) may still lead
to a normalisation and passes in silence, as does a model that is compiled from its first step on; `unnormalised` is
the full check.
"""

from __future__ import annotations

import warnings
import weakref
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

_SATURATING = tuple(f"torch.nn.modules.{name}" for name in ("activation", "conv", "linear", "loss"))
WHY = (
    "outputs of adder layers are large and negative, so an activation that follows them directly is constant and "
    "training stands still: put a normalisation such as BatchNorm2d after each"
)


def watch_first_use(layer: nn.Module, output: Tensor, family: type[nn.Module]) -> None:
    """Warns once, with a `UserWarning`, where the next module that takes `output` is no normalisation.

    Args:
        layer: whose output it is.
        output: the tensor itself.
        family: base class of the adder layers, none of which is a fit consumer.
    """
    watched = weakref.ref(output)

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        tensor = watched()
        if tensor is None:
            handle.remove()
        elif any(arg is tensor for arg in args) and not isinstance(module, nn.Identity):
            if next(module.children(), None) is not None:
                return  # a container: its first child will tell
            handle.remove()
            if isinstance(module, family) or type(module).__module__ in _SATURATING:
                warnings.warn(f"{layer} feeds {type(module).__name__} directly; {WHY}", stacklevel=2)

    handle = register_module_forward_pre_hook(look)
    output.register_hook(lambda _: handle.remove())
