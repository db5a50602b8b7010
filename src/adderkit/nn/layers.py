"""Adder convolutions: `Adder1d`, `Adder2d`, `Adder3d` beside `torch.nn.Conv1d`, `Conv2d`, `Conv3d`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from adderkit.nn.base import AdderLayer
from adderkit.ops import adder1d, adder2d, adder3d
from adderkit.ops.validate import check_padding, count, numbers

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Convolution(AdderLayer):
    """What the three have in common; a subclass names its number of dimensions and its operation."""

    _dims: ClassVar[int]
    _operation: ClassVar[Callable[..., Tensor]]

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
        kernel = numbers("kernel_size", kernel_size, self._dims, 1)
        in_channels, out_channels, groups = channels(in_channels, out_channels, groups)
        if padding_mode not in _PADDING_MODES:
            raise ValueError(f"`padding_mode` (={padding_mode!r}) must be one of {', '.join(_PADDING_MODES)}")
        super().__init__((out_channels, in_channels // groups, *kernel), out_channels, bias, device, dtype)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel
        self.stride = numbers("stride", stride, self._dims, 1)
        self.dilation = numbers("dilation", dilation, self._dims, 1)
        self.padding = check_padding(padding, self.stride)
        self.groups = groups
        self.padding_mode = padding_mode

    def forward(self, input: Tensor) -> Tensor:
        output = self._padded(input) if self.padding_mode != "zeros" else self._run(input, self.padding)
        self._watch_once(output)
        return output

    def _padded(self, input: Tensor) -> Tensor:
        """Pads with other values than zeros; these are always dense, so the operation needs no padding of its own."""
        is_unbatched = input.dim() == 1 + self._dims
        batch = input.unsqueeze(0) if is_unbatched else input
        if batch.dim() == 2 + self._dims:  # else the operation says what is wrong
            batch = pad(batch, self._margins(), mode=self.padding_mode)
        output = self._run(batch, 0)
        return output.squeeze(0) if is_unbatched else output

    def _run(self, input: Tensor, padding: int | tuple[int, ...] | str) -> Tensor:
        operation = type(self)._operation
        return operation(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def _margins(self) -> list[int]:
        """(left, right, top, bottom, ...), with the odd one of "same" on the far side, as convolutions have it."""
        if self.padding == "valid":
            sides = [(0, 0)] * self._dims
        elif self.padding == "same":
            reaches = [step * (size - 1) for size, step in zip(self.kernel_size, self.dilation, strict=True)]
            sides = [(reach // 2, reach - reach // 2) for reach in reaches]
        else:
            sides = [(size, size) for size in cast("tuple[int, ...]", self.padding)]
        return [margin for side in reversed(sides) for margin in side]

    def extra_repr(self) -> str:
        nothing, one = (0,) * self._dims, (1,) * self._dims
        return describe(self, {"padding": nothing, "dilation": one, "groups": 1, "padding_mode": "zeros"})


class Adder1d(_Convolution):
    """Adder convolution of sequences, y = -sum |x - f| (+ bias): the arguments and attributes of `torch.nn.Conv1d`.

    It runs through `adder2d` on images of one row. `bias` is off by default, for the reason that `Adder2d` gives.

    Shape: input (N, C_in, L) or (C_in, L); output (N, C_out, L_out) or (C_out, L_out).

    Args:
        in_channels: C_in.
        out_channels: C_out, the number of filters.
        kernel_size: an integer.
        stride: an integer.
        padding: an integer, or "valid" (none), or "same" (stride 1 only).
        dilation: an integer.
        groups: number of blocks that input channels and filters are split into.
        bias: adds a learnt constant per filter, 0 at the start.
        padding_mode: "zeros", "reflect", "replicate" or "circular". A padded zero is a tap like any other and
            contributes |f|.
        device: where the parameters live.
        dtype: of the parameters.

    Attributes:
        weight: the filters, (C_out, C_in / groups, K).
        bias: (C_out,) or None.

    Raises:
        ValueError: naming the argument, its value and what is allowed.

    Source: AdderNet (Chen et al., CVPR 2020), Eq. 2.
    """

    _dims = 1
    _operation = adder1d


class Adder2d(_Convolution):
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

    _dims = 2
    _operation = adder2d


class Adder3d(_Convolution):
    """Adder convolution of volumes, y = -sum |x - f| (+ bias): the arguments and attributes of `torch.nn.Conv3d`.

    It runs through `adder2d`, with the frames below an output as channels. `bias` is off by default, for the reason
    that `Adder2d` gives.

    Shape: input (N, C_in, D, H, W) or (C_in, D, H, W); output (N, C_out, D_out, H_out, W_out) or
        (C_out, D_out, H_out, W_out).

    Args:
        in_channels: C_in.
        out_channels: C_out, the number of filters.
        kernel_size: an integer or (depth, vertical, horizontal).
        stride: an integer or (depth, vertical, horizontal).
        padding: an integer or (depth, vertical, horizontal), or "valid" (none), or "same" (stride 1 only).
        dilation: an integer or (depth, vertical, horizontal).
        groups: number of blocks that input channels and filters are split into.
        bias: adds a learnt constant per filter, 0 at the start.
        padding_mode: "zeros", "reflect", "replicate" or "circular". A padded zero is a tap like any other and
            contributes |f|.
        device: where the parameters live.
        dtype: of the parameters.

    Attributes:
        weight: the filters, (C_out, C_in / groups, K_d, K_h, K_w).
        bias: (C_out,) or None.

    Raises:
        ValueError: naming the argument, its value and what is allowed.

    Source: AdderNet (Chen et al., CVPR 2020), Eq. 2.
    """

    _dims = 3
    _operation = adder3d


def channels(in_channels: int, out_channels: int, groups: int) -> tuple[int, int, int]:
    """Returns channels and groups as plain integers; refuses those that do not fit each other.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    numbers_of = {"in_channels": in_channels, "out_channels": out_channels, "groups": groups}
    inputs, outputs, blocks = (count(name, value) for name, value in numbers_of.items())
    for name, value in (("in_channels", inputs), ("out_channels", outputs)):
        if value % blocks != 0:
            raise ValueError(f"`{name}` (={value}) must be divisible by `groups` (={blocks})")
    return inputs, outputs, blocks


def describe(layer: AdderLayer, defaults: dict[str, object]) -> str:
    """The inside of a layer's repr: channels, kernel size and stride, and what differs from its `defaults`."""
    parts = [f"{layer.in_channels}, {layer.out_channels}", f"kernel_size={layer.kernel_size}"]
    parts.append(f"stride={layer.stride}")
    parts += [f"{k}={getattr(layer, k)!r}" for k, default in defaults.items() if getattr(layer, k) != default]
    if layer.bias is not None:
        parts.append("bias=True")
    return ", ".join(parts)
