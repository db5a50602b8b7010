"""`AdderTranspose2d` beside `torch.nn.ConvTranspose2d`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adderkit.nn.base import AdderLayer
from adderkit.nn.layers import channels, describe
from adderkit.ops import adder_transpose2d
from adderkit.ops.validate import pair


class AdderTranspose2d(AdderLayer):
    """Transposed adder convolution: the arguments and attributes of `torch.nn.ConvTranspose2d`.

    Every input element adds -|x - f| to each output that its filter reaches; inserted zeros and the border add
    nothing, as `adderkit.adder_transpose2d` explains. `bias` is off by default, for the reason that `Adder2d` gives.
    Take a `kernel_size` that is a multiple of `stride` (2 over 2, 4 over 2): with others neighbouring outputs sum
    different numbers of taps, an offset between them that no BatchNorm removes.

    Shape: input (N, C_in, H, W) or (C_in, H, W); output (N, C_out, H_out, W_out) or (C_out, H_out, W_out), where
        H_out = (H - 1) * stride - 2 * padding + dilation * (K_h - 1) + output_padding + 1.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: an integer or (vertical, horizontal).
        stride: an integer or (vertical, horizontal).
        padding: rows and columns taken away on each side, an integer or (vertical, horizontal).
        output_padding: rows and columns added at the bottom and on the right, below `stride` or `dilation`.
        groups: number of blocks that input and output channels are split into.
        bias: adds a learnt constant per output channel, 0 at the start.
        dilation: an integer or (vertical, horizontal).
        padding_mode: "zeros" alone, as in torch.
        device: where the parameters live.
        dtype: of the parameters.

    Attributes:
        weight: the filters, (C_in, C_out / groups, K_h, K_w).
        bias: (C_out,) or None.

    Raises:
        ValueError: naming the argument, its value and what is allowed.

    Source: AdderNet (Chen et al., CVPR 2020), Eq. 2, on the taps of a transposed convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = False,
        dilation: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        kernel = pair("kernel_size", kernel_size, 1)
        in_channels, out_channels, groups = channels(in_channels, out_channels, groups)
        if padding_mode != "zeros":
            raise ValueError(f"`padding_mode` (={padding_mode!r}) must be zeros in a transposed layer")
        super().__init__((in_channels, out_channels // groups, *kernel), out_channels, bias, device, dtype)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel
        self.stride = pair("stride", stride, 1)
        self.padding = pair("padding", padding, 0)
        self.output_padding = pair("output_padding", output_padding, 0)
        self.dilation = pair("dilation", dilation, 1)
        self.groups = groups
        self.padding_mode = padding_mode

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Runs the layer; `output_size`, (H_out, W_out) or a whole shape, takes the place of `output_padding`."""
        extra = self.output_padding if output_size is None else self._output_padding(input, output_size)
        output = adder_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )
        self._watch_once(output)
        return output

    def _output_padding(self, input: Tensor, output_size: Sequence[int]) -> tuple[int, int]:
        sizes = tuple(output_size)
        if len(sizes) not in (2, input.dim()):
            raise ValueError(f"`output_size` (={sizes}) must be 2 sizes or the {input.dim()} of a whole shape")
        smallest = [
            (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1
            for size, stride, padding, dilation, kernel in zip(
                input.shape[-2:], self.stride, self.padding, self.dilation, self.kernel_size, strict=True
            )
        ]
        extras = [size - least for size, least in zip(sizes[-2:], smallest, strict=True)]
        if not all(0 <= extra < stride for extra, stride in zip(extras, self.stride, strict=True)):
            bounds = [f"{least} to {least + step - 1}" for least, step in zip(smallest, self.stride, strict=True)]
            raise ValueError(f"`output_size` (={sizes}) must end in {bounds[0]} rows and {bounds[1]} columns")
        return extras[0], extras[1]

    def extra_repr(self) -> str:
        defaults = {"padding": (0, 0), "output_padding": (0, 0), "groups": 1, "dilation": (1, 1)}
        return describe(self, defaults)
