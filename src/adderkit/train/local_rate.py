"""The adaptive local learning rate of adder layers, as a hook on the optimiser's step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from adderkit.nn import adder_parameters

_SMALLEST_NORM = 1e-12  # a gradient of zero stays zero


class AdaptiveLocalRate:
    """Rescales the gradient of every adder filter tensor before the step: g <- eta * sqrt(k) * g / ||g||_2.

    k is the number of elements of the tensor, so that the root mean square of its gradient becomes `eta`. Momentum and
    weight decay then act as usual. Nothing else is touched: biases, BatchNorm, convolutions, gradients that are None.

    Works with any torch optimiser, with `foreach`, `fused` and `capturable` steps, parameter groups, closures (the
    gradient is rescaled after each evaluation; a line search as in LBFGS then sees directions that are no gradient
    of its loss) and `GradScaler`. Optimisers of Adam's kind divide by the gradient's own running scale, so there the
    factor nearly cancels.

    ```
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    handle = AdaptiveLocalRate(model, eta=0.2).attach(optimizer)   # handle.remove() ends it
    ```

    Args:
        parameters: a model, for the filters of its adder layers (none is fine: a convolutional twin takes the same
            path), or the filter tensors themselves.
        eta: root mean square of a rescaled gradient, finite and >= 0. The official code has 0.2, its paper 0.1.

    Raises:
        ValueError: where `eta` is negative or not finite.

    Source: AdderNet (Chen et al., CVPR 2020), Eq. 11-13; official code, `adder.backward`.
    Differs: the official code rescales inside backward. One backward and one use of a filter per step give the same
        step. With accumulated batches, DataParallel, DistributedDataParallel or a filter that several layers share,
        it rescales each partial gradient and sums those; here the complete gradient (after the all-reduce) is
        rescaled once. Gradient clipping sees the raw gradient here, the rescaled one there.
    """

    def __init__(self, parameters: nn.Module | Iterable[Tensor], eta: float = 0.2) -> None:
        if not (math.isfinite(eta) and eta >= 0):
            raise ValueError(f"`eta` (={eta!r}) must be finite and >= 0")
        filters = adder_parameters(parameters) if isinstance(parameters, nn.Module) else parameters
        self.eta = eta
        self._filters = list({id(tensor): tensor for tensor in filters}.values())

    def attach(self, optimizer: Optimizer) -> RemovableHandle:
        """Rescales before every step of `optimizer`; returns the handle whose `remove` ends that.

        Raises:
            ValueError: where a filter that requires gradients is in no parameter group of `optimizer`.
        """
        held = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
        trained = [tensor for tensor in self._filters if tensor.requires_grad]
        found = sum(id(tensor) in held for tensor in trained)
        if found < len(trained):
            raise ValueError(f"`optimizer` (holds {found} of the {len(trained)} filter tensors) must hold them all")
        return optimizer.register_step_pre_hook(self._before_step)

    @torch.no_grad()
    def rescale(self, unit: float | Tensor = 1.0) -> None:
        """Rescales the gradients that are there now, to `eta * unit`."""
        for tensor in self._filters:
            if tensor.grad is not None:
                # float32 at least: in float16 the norm overflows from 65504 on, the factor with gradients below 3e-6
                wide = tensor.grad.to(torch.promote_types(tensor.grad.dtype, torch.float32))
                norm: Tensor = torch.linalg.vector_norm(wide).clamp(min=_SMALLEST_NORM)
                factor = self.eta * math.sqrt(tensor.numel()) / norm
                if isinstance(unit, Tensor) or unit != 1:
                    factor = factor * unit
                tensor.grad.mul_(factor) if wide is tensor.grad else tensor.grad.copy_(wide * factor)

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        # A fused optimiser under GradScaler divides by `grad_scale` within its step: give it eta in that unit.
        scale = getattr(optimizer, "grad_scale", None)
        unit = 1.0 if scale is None else scale
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self.rescale(unit)
            return None

        def evaluate() -> Any:
            with torch.enable_grad():
                loss = closure()
            self.rescale(unit)
            return loss

        if len(args) > 1:
            return (args[0], evaluate, *args[2:]), kwargs
        return args, {**kwargs, "closure": evaluate}
