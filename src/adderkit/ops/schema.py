"""How an operation of the family becomes torch operators: schemas, fake kernels, surrogate gradients, autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adderkit.ops.formats import empty_input_grad, empty_output
from adderkit.ops.validate import check_grad

# Output strides follow input strides, so a compiler must hand over the strides that the fake kernel saw.
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)
_HALF = (torch.bfloat16, torch.float16)
_library = torch.library.Library("adderkit", "DEF")


def register(
    name: str,
    geometry: str,
    check: Callable[..., tuple[int, ...]],
    forward: Callable[..., None],
    input_grad: Callable[..., None],
    weight_grad: Callable[..., Tensor],
    takes_half: Callable[[Tensor], bool] = lambda input: False,
) -> None:
    """Defines `adderkit::NAME`, `adderkit::NAME_input_grad` and `adderkit::NAME_weight_grad`.

    Each is an operator of its own, not a composition that autograd sees: it keeps only the input and the filters for
    backward, works through bounded temporaries, and sums half types in float32 with one rounding at the end.

    Args:
        name: of the operation.
        geometry: the arguments after `input` and `weight`, in the dispatcher's schema language.
        check: takes (input, weight, *geometry), refuses what can't be, returns the output's shape.
        forward: takes (input, weight, output, *geometry), in float32 or float64, and fills `output`.
        input_grad: takes (grad_output, input, weight, grad_input, *geometry) and fills `grad_input`.
        weight_grad: takes (grad_output, input, weight, *geometry) and returns the filters' gradient.
        takes_half: whether `forward` and `input_grad` take half types as they are, summing in float32.
    """

    def run_forward(input: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
        output = forward_fake(input, weight, *geometry)
        if input.dtype not in _HALF or takes_half(input):
            forward(input, weight, output, *geometry)
            return output
        wide = torch.empty_like(output, dtype=torch.float32)
        forward(input.float(), weight.float(), wide, *geometry)
        return output.copy_(wide)

    def forward_fake(input: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
        return empty_output(input, weight, check(input, weight, *geometry))

    def run_input_grad(grad_output: Tensor, input: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
        grad_input = input_grad_fake(grad_output, input, weight, *geometry)
        if input.dtype not in _HALF or takes_half(input):
            input_grad(grad_output, input, weight, grad_input, *geometry)
            return grad_input
        wide = torch.empty_like(grad_input, dtype=torch.float32)
        input_grad(grad_output.float(), input.float(), weight.float(), wide, *geometry)
        return grad_input.copy_(wide)

    def input_grad_fake(grad_output: Tensor, input: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
        check_grad(grad_output, input, check(input, weight, *geometry))
        return empty_input_grad(input)

    def run_weight_grad(grad_output: Tensor, input: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
        check_grad(grad_output, input, check(input, weight, *geometry))
        if input.dtype not in _HALF:
            return weight_grad(grad_output, input, weight, *geometry).contiguous()
        wide = weight_grad(grad_output.float(), input.float(), weight.float(), *geometry)
        return wide.to(weight.dtype).contiguous()

    def weight_grad_fake(grad_output: Tensor, input: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
        check_grad(grad_output, input, check(input, weight, *geometry))
        return torch.empty_like(weight, memory_format=torch.contiguous_format)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, weight, *ctx.geometry = inputs
        ctx.save_for_backward(input, weight)

    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        tensors = (grad_output, *ctx.saved_tensors)
        wanted = zip(gradients, ctx.needs_input_grad[:2], strict=True)
        found = [gradient(*tensors, *ctx.geometry) if is_wanted else None for gradient, is_wanted in wanted]
        return (*found, *(None for _ in ctx.geometry))

    def no_second_order(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(
            f"the gradients of {name} are surrogates and have no derivative of their own: no double backward"
        )

    for suffix, tensors, run, fake in (
        ("", "Tensor input, Tensor weight", run_forward, forward_fake),
        ("_input_grad", "Tensor grad_output, Tensor input, Tensor weight", run_input_grad, input_grad_fake),
        ("_weight_grad", "Tensor grad_output, Tensor input, Tensor weight", run_weight_grad, weight_grad_fake),
    ):
        _library.define(f"{name}{suffix}({tensors}, {geometry}) -> Tensor", tags=_TAGS)
        _library.impl(f"{name}{suffix}", run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"adderkit::{name}{suffix}", fake, lib=_library)
        if suffix:
            torch.library.register_autograd(f"adderkit::{name}{suffix}", no_second_order, lib=_library)
    gradients = [getattr(torch.ops.adderkit, f"{name}_{of}_grad").default for of in ("input", "weight")]
    torch.library.register_autograd(f"adderkit::{name}", backward, setup_context=setup_context, lib=_library)
    for device in ("cpu", "cuda"):
        torch.library.register_autocast(f"adderkit::{name}", device, torch.float32, lib=_library)
