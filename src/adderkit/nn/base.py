"""What all adder layers share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adderkit.nn.first_use import watch_first_use


class AdderLayer(nn.Module):
    """What adder layers share: filters in `weight` that start as N(0, 1), and an optional `bias`.

    Source: AdderNet (Chen et al., CVPR 2020), official code (`nn.init.normal_`).
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        shape: tuple[int, ...],
        out_channels: int,
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self._was_watched = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Filters from N(0, 1) and a bias of zero."""
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _watch_once(self, output: Tensor) -> None:
        """At the first training step of this layer: looks where its output goes (see `first_use`)."""
        if torch.compiler.is_compiling() or self._was_watched:
            return
        if self.training and output.requires_grad:
            self._was_watched = True
            watch_first_use(self, output, AdderLayer)


def adder_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The filters (`weight`) of every adder layer of `model`, in order; filters that layers share come once."""
    layers = (module for module in model.modules() if isinstance(module, AdderLayer))
    return list({id(layer.weight): layer.weight for layer in layers}.values())
