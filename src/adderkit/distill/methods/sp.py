"""Similarity-preserving distillation: which images of a batch resemble which."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from adderkit.collectives import gathered_rows
from adderkit.distill.led import Led, LedOptions
from adderkit.distill.method import Batch, TapPairs
from adderkit.distill.methods import register
from adderkit.distill.taps import stage_outputs


class SPOptions(LedOptions):
    """Similarity-preserving distillation (Tung and Mori, 2019)."""

    weight: float = Field(default=3000.0, ge=0, description="of the similarities' term")


@register("sp")
class SP(Led):
    """`CE(student, labels) + weight ||G_t - G_s||_F^2 / b^2`, `G` the similarities of the batch's b images.

    `G = normalise(Q Q^T)`, rows of unit L2 norm, `Q` (b, C H W) the activations that the last stage returns. Channels
    and pixels of the two nets may differ. Several processes: over the images of all of them, so that the update is that
    of one process; with `accumulate`, over those of a part.

    Source: Tung, Mori, Similarity-preserving knowledge distillation, ICCV 2019, equations 1 to 4; weight and layer as
    in its CIFAR-10 experiments (section 4.1).
    """

    Options = SPOptions

    def tap_pairs(self, student: nn.Module, teacher: nn.Module | None) -> TapPairs:
        return TapPairs(stage_outputs(student)[-1:], stage_outputs(teacher)[-1:])

    def led(self, batch: Batch) -> dict[str, Tensor]:
        (student,), (teacher,) = batch.student.taps.values(), batch.taught.taps.values()
        difference = _similarities(gathered_rows(teacher)) - _similarities(gathered_rows(student))
        return {
            "ce": F.cross_entropy(batch.student.logits, batch.labels),
            "sp": self.options.weight * difference.square().mean(),
        }


def _similarities(activations: Tensor) -> Tensor:
    rows = activations.flatten(1)
    return F.normalize(rows @ rows.T, dim=1)
