"""`AdderLinear` beside `torch.nn.Linear`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from adderkit.nn.base import AdderLayer
from adderkit.ops import adder2d
from adderkit.ops.validate import count


class AdderLinear(AdderLayer):
    """Adder layer on vectors, y = -sum |x - f| over the features (+ bias): beside `torch.nn.Linear`.

    It runs through `adder2d` as a 1x1 filter, one position per vector. `bias` is off by default, for the reason
    that `Adder2d` gives.

    Shape: input (..., in_features); output (..., out_features).

    Args:
        in_features: length of an input vector.
        out_features: number of filters.
        bias: adds a learnt constant per filter, 0 at the start.
        device: where the parameters live.
        dtype: of the parameters.

    Attributes:
        weight: the filters, (out_features, in_features).
        bias: (out_features,) or None.

    Raises:
        ValueError: naming the argument, its value and what is allowed.

    Source: AdderNet (Chen et al., CVPR 2020), Eq. 2 with a 1x1 filter.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        in_features, out_features = count("in_features", in_features), count("out_features", out_features)
        super().__init__((out_features, in_features), out_features, bias, device, dtype)
        self.in_features = in_features
        self.out_features = out_features

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() < 1 or input.shape[-1] != self.in_features:
            raise ValueError(
                f"`input` (shape {tuple(input.shape)}) must have {self.in_features} features in its last dimension"
            )
        # One image whose positions are the vectors, so that kernels can tile over them (no image where there is no
        # vector); its channels_last view needs no copy.
        vectors = math.prod(input.shape[:-1])  # `numel()` would fix a symbolic size
        image = input.reshape(min(vectors, 1), max(vectors, 1), 1, self.in_features).permute(0, 3, 1, 2)
        output = adder2d(image, self.weight[:, :, None, None], self.bias)
        output = output.permute(0, 2, 3, 1).reshape(*input.shape[:-1], self.out_features)
        self._watch_once(output)
        return output

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"
