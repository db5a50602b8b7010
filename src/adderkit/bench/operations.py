"""Operations of a network on one image, and their energy by the convention of the adder papers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from adderkit.nn import Adder2d

# pJ an operation in 45 nm: Horowitz, "Computing's energy problem", ISSCC 2014, figure 1.1.9; the adder papers' source.
PICOJOULES = {
    "float32": {"multiplication": 3.7, "addition": 0.9},
    "int8": {"multiplication": 0.2, "addition": 0.03},
    "int32": {"multiplication": 3.1, "addition": 0.1},
}


class Operations(NamedTuple):
    """What a network does for one image.

    Attributes:
        adder: terms |x - f|.
        multiply: products x * f with their additions.
        outputs: numbers that layers give, each scaled once (BatchNorm, or requantisation of integers).
    """

    adder: int
    multiply: int
    outputs: int


@torch.no_grad()
def count(network: nn.Module, image: Tensor) -> Operations:
    """Counts the layers that a pass meets; padded taps count, additions of shortcuts and pools do not.

    Args:
        network: with `Conv2d`, `Linear` and `Adder2d` layers.
        image: shape (1, C, H, W).
    """
    found: list[tuple[bool, int, int]] = []

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight: Tensor = layer.weight  # type: ignore[assignment]
        found.append((isinstance(layer, Adder2d), output.numel() * weight[0].numel(), output.numel()))

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear | Adder2d)]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    was_training = network.training
    try:
        network.eval()(image)
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
    return Operations(
        adder=sum(terms for is_adder, terms, _ in found if is_adder),
        multiply=sum(terms for is_adder, terms, _ in found if not is_adder),
        outputs=sum(outputs for _, _, outputs in found),
    )


def microjoules(operations: Operations, kind: str, multiplier_free: bool = False) -> dict[str, float]:
    """Energy of an image's arithmetic, in microjoules.

    An adder operation is two additions (the difference and the sum), a multiply-accumulate one multiplication and one
    addition, both of `kind`, as the papers count: that sums of 8-bit terms need more bits is left out, as are memory,
    control, and pools. `scaling` is what they leave out too: a multiplication and an addition for each output, of
    32 bits for integers (nothing but the addition where `multiplier_free`).

    Args:
        kind: "float32" or "int8".
    """
    energy = PICOJOULES[kind]
    terms = operations.adder * 2 * energy["addition"]
    terms += operations.multiply * (energy["multiplication"] + energy["addition"])
    scale = PICOJOULES["int32" if kind == "int8" else kind]
    scaling = operations.outputs * (scale["addition"] + (0.0 if multiplier_free else scale["multiplication"]))
    return {"arithmetic": terms * 1e-6, "scaling": scaling * 1e-6}
