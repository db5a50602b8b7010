"""Adder layers: `Adder2d` beside `torch.nn.Conv2d`, `AdderLinear` beside `torch.nn.Linear`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from adderkit.nn.first_use import watch_first_use
from adderkit.ops import adder2d
from adderkit.ops.validate import pair

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class AdderLayer(nn.Module):
    """What adder layers share: filters in `weight` that start as N(0, 1), and an optional `bias`.

    Source: AdderNet (Chen et al., CVPR 2020), official code (`nn.init.normal_`).
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        shape: tuple[int, ...],
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(shape[0], device=device, dtype=dtype))
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
            watch_first_use(self, output)


class Adder2d(AdderLayer):
    """Adder convolution, y = -sum |x - f| (+ bias): the arguments and attributes of `torch.nn.Conv2d`.

    `bias` is off by default, unlike `Conv2d`'s: outputs are large and negative (about -138 for 16 channels and a
    3x3 filter at the start), so a normalisation must follow, and that removes any bias. `unnormalised` tells
    where none does.

    Shape: input (N, C_in, H, W) or (C_in, H, W); output (N, C_out, H_out, W_out) or (C_out, H_out, W_out).

    Args:
        in_channels: C_in.
        out_channels: C_out, the number of filters.
        kernel_size: an integer or (vertical, horizontal).
        stride: an integer or (vertical, horizontal).
        padding: an integer or (vertical, horizontal), or "valid" (none), or "same" (stride 1 only).
        dilation: an integer or (vertical, horizontal).
        groups: number of blocks that input channels and filters are split into.
        bias: adds a learnt constant per filter, 0 at the start.
        padding_mode: "zeros", "reflect", "replicate" or "circular". A padded zero is a tap like any other and
            contributes |f|.
        device: where the parameters live.
        dtype: of the parameters.

    Attributes:
        weight: the filters, (C_out, C_in / groups, K_h, K_w).
        bias: (C_out,) or None.

    Raises:
        ValueError: naming the argument, its value and what is allowed.

    Source: AdderNet (Chen et al., CVPR 2020), Eq. 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = False,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        kernel_height, kernel_width = pair("kernel_size", kernel_size, 1)
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
            _check_count(name, value)
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            if value % groups != 0:
                raise ValueError(f"`{name}` (={value}) must be divisible by `groups` (={groups})")
        if padding_mode not in _PADDING_MODES:
            raise ValueError(f"`padding_mode` (={padding_mode!r}) must be one of {', '.join(_PADDING_MODES)}")
        super().__init__((out_channels, in_channels // groups, kernel_height, kernel_width), bias, device, dtype)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = (kernel_height, kernel_width)
        self.stride = pair("stride", stride, 1)
        self.dilation = pair("dilation", dilation, 1)
        self.padding = _check_padding(padding, self.stride)
        self.groups = groups
        self.padding_mode = padding_mode

    def forward(self, input: Tensor) -> Tensor:
        padding: tuple[int, int] | str = self.padding
        if self.padding_mode != "zeros":
            input, padding = pad(input, self._margins(), mode=self.padding_mode), 0  # type: ignore[assignment]
        output = adder2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        self._watch_once(output)
        return output

    def _margins(self) -> tuple[int, int, int, int]:
        """(left, right, top, bottom), with the odd one of "same" on the far side, as `Conv2d` has it."""
        if self.padding == "valid":
            return (0, 0, 0, 0)
        if isinstance(self.padding, str):
            sizes = zip(self.kernel_size, self.dilation, strict=True)
            height, width = (dilation * (kernel - 1) for kernel, dilation in sizes)
            return (width // 2, width - width // 2, height // 2, height - height // 2)
        vertical, horizontal = self.padding
        return (horizontal, horizontal, vertical, vertical)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}", f"kernel_size={self.kernel_size}"]
        parts.append(f"stride={self.stride}")
        defaults = {"padding": (0, 0), "dilation": (1, 1), "groups": 1, "padding_mode": "zeros"}
        parts += [f"{k}={getattr(self, k)!r}" for k, default in defaults.items() if getattr(self, k) != default]
        if self.bias is not None:
            parts.append("bias=True")
        return ", ".join(parts)


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
        for name, value in (("in_features", in_features), ("out_features", out_features)):
            _check_count(name, value)
        super().__init__((out_features, in_features), bias, device, dtype)
        self.in_features = in_features
        self.out_features = out_features

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() < 1 or input.shape[-1] != self.in_features:
            raise ValueError(
                f"`input` (shape {tuple(input.shape)}) must have {self.in_features} features in its last dimension"
            )
        # One image whose positions are the vectors, so that kernels can tile over them (no image where there is no
        # vector); its channels_last view needs no copy.
        vectors = input.shape[:-1].numel()
        image = input.reshape(min(vectors, 1), max(vectors, 1), 1, self.in_features).permute(0, 3, 1, 2)
        output = adder2d(image, self.weight[:, :, None, None], self.bias)
        output = output.permute(0, 2, 3, 1).reshape(*input.shape[:-1], self.out_features)
        self._watch_once(output)
        return output

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


def adder_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The filters (`weight`) of every adder layer of `model`, in order; filters that layers share come once."""
    layers = (module for module in model.modules() if isinstance(module, AdderLayer))
    return list({id(layer.weight): layer.weight for layer in layers}.values())


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` (={value!r}) must be an integer >= 1")


def _check_padding(padding: int | Sequence[int] | str, stride: tuple[int, int]) -> tuple[int, int] | str:
    if not isinstance(padding, str):
        return pair("padding", padding, 0)
    if padding not in ("valid", "same"):
        raise ValueError(f"`padding` (={padding!r}) must be integers, 'valid' or 'same'")
    if padding == "same" and stride != (1, 1):
        raise ValueError(f"`stride` (={stride}) must be 1 where `padding` is 'same'")
    return padding
