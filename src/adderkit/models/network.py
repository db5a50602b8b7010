"""What every network of this folder is: a module that says where its stem, stages and classifier are."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from torch import nn

from adderkit.nn import Adder2d

Operator = Callable[..., nn.Module]
"""`Adder2d` or `torch.nn.Conv2d`: called alike, with `bias=False`."""

LAYERS: dict[str, Operator] = {"adder": Adder2d, "conv": nn.Conv2d}
"""The operators that a network can be built from, by the name that `create` takes."""


class Network(nn.Module):
    """A classifier of images with structural facts, by which tools find its parts.

    A family builds the stem and the classifier before any other parameter: twins that are created under the same
    seed then start with the same stem and classifier, whichever operator lies between.

    Attributes:
        stem_path: module path of the first layer, multiplicative in both twins.
        classifier_path: module path of the last layer, multiplicative in both twins.
        stage_paths: module paths of the stages, in order; each returns one feature map (N, C, H, W).
        name: as given to `create`.
        layer: "adder" or "conv".
        num_classes: number of logits.
        in_channels: channels of the input images.
    """

    stem_path: ClassVar[str]
    classifier_path: ClassVar[str]
    stage_paths: ClassVar[tuple[str, ...]]
    name: str
    layer: Literal["adder", "conv"]
    num_classes: int
    in_channels: int
