"""Attention transfer: where in the image a net's activations are large."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from adderkit.distill.led import Led, LedOptions
from adderkit.distill.method import Batch, TapPairs
from adderkit.distill.methods import register
from adderkit.distill.taps import check_one_size, stage_outputs


class ATOptions(LedOptions):
    """Attention transfer (Zagoruyko and Komodakis, 2017)."""

    weight: float = Field(default=1000.0, ge=0, description="of the attention maps' term")


@register("at")
class AT(Led):
    """`CE(student, labels) + weight sum over stages of mean (Q_t - Q_s)^2`, `Q` the attention map of a stage's output.

    `Q` is the mean over channels of the squared activations, flattened to (N, H W) and divided by its L2 norm. The mean
    runs over images and pixels: the variant of the authors' code. Their paper has half the sum over stages of the L2
    norm of `Q_t - Q_s` (equation 2) instead. Channels may differ between the nets, pixels may not.

    Source: Zagoruyko, Komodakis, Paying more attention to attention, ICLR 2017, section 3.1, activation-based, p = 2.
    """

    Options = ATOptions

    def tap_pairs(self, student: nn.Module, teacher: nn.Module | None) -> TapPairs:
        return TapPairs(stage_outputs(student), stage_outputs(teacher))

    def setup(self, student: nn.Module, example: Batch) -> list[RemovableHandle]:
        check_one_size("at", example.student.taps, example.taught.taps)
        return []

    def led(self, batch: Batch) -> dict[str, Tensor]:
        pairs = zip(batch.student.taps.values(), batch.taught.taps.values(), strict=True)
        terms = [(_attention(teacher) - _attention(student)).square().mean() for student, teacher in pairs]
        return {
            "ce": F.cross_entropy(batch.student.logits, batch.labels),
            "at": self.options.weight * torch.stack(terms).sum(),
        }


def _attention(activations: Tensor) -> Tensor:
    return F.normalize(activations.square().mean(1).flatten(1), dim=1)
