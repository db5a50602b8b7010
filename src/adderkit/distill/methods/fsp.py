"""FSP distillation, "a gift from knowledge distillation": how features change from a stage's begin to its end."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from adderkit.distill.method import Batch, Method, Phase, TapPairs, TeacherNeed, first_epochs
from adderkit.distill.methods import register
from adderkit.distill.taps import stage_beginnings, stage_outputs
from adderkit.options import Options

_FIRST = "flow"


class FSPOptions(Options):
    """FSP distillation, also called Gift (Yim et al., 2017)."""

    weight: float = Field(default=50.0, ge=0, description="of the FSP matrices' term")
    first_phase: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of epochs trained by FSP matrices alone, the others by labels alone; 0: both at once",
    )
    progressive: bool = Field(default=False, description="teacher trained beside the student instead of beforehand")


@register("fsp")
class FSP(Method):
    """`CE(student, labels) + weight sum over stages of mean (G_t - G_s)^2`, `G` the FSP matrix of a stage.

    `G[i, j] = sum over pixels of first[i] last[j] / (H W)`, (N, C_first, C_last): `first` is what the stage's first
    BatchNorm gives, rectified, `last` what the stage returns; the larger map is max-pooled to the smaller
    one's size. The mean runs over images and entries, as in common code; the paper sums over entries. Both nets need
    the same channels.

    With `first_phase` as in the paper: first the matrices alone, then the labels alone, each with a cosine of its own.

    Source: Yim, Joo, Bae, Kim, A gift from knowledge distillation, CVPR 2017, equations 1 and 2, section 3.4. Which
    layers of a ResNet-20 the PKKD paper took is not known.
    """

    Options = FSPOptions

    @property
    def teacher_need(self) -> TeacherNeed:
        return TeacherNeed.PROGRESSIVE if self.options.progressive else TeacherNeed.FIXED

    def phases(self, epochs: int) -> tuple[Phase, ...]:
        share = self.options.first_phase
        if share == 0:
            return (Phase("train", epochs),)
        first = first_epochs(share, epochs)
        if first >= epochs:
            raise ValueError(f"`fsp.first_phase` (={share}) leaves none of {epochs} epochs for the labels")
        return (Phase(_FIRST, first), Phase("labels", epochs - first, restarts_rate=True, reads_teacher=False))

    def tap_pairs(self, student: nn.Module, teacher: nn.Module | None) -> TapPairs:
        return TapPairs(*((*stage_beginnings(net), *stage_outputs(net)) for net in (student, teacher)))

    def setup(self, student: nn.Module, example: Batch) -> list[RemovableHandle]:
        pairs = zip(example.student.taps.items(), example.taught.taps.values(), strict=True)
        for (path, output), target in pairs:
            if output.shape[1] != target.shape[1]:
                raise ValueError(
                    f"`fsp`: `{path}` has {output.shape[1]} channels in the student, its pair in the teacher"
                    f" {target.shape[1]}: FSP matrices can be compared between nets of the same width only"
                )
        return []

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        if batch.phase.name != _FIRST:
            losses["ce"] = F.cross_entropy(batch.student.logits, batch.labels)
        if batch.phase.name == _FIRST or self.options.first_phase == 0:
            student, teacher = (_matrices(list(net.taps.values())) for net in (batch.student, batch.taught))
            terms = [(t - s).square().mean() for s, t in zip(student, teacher, strict=True)]
            losses["fsp"] = self.options.weight * torch.stack(terms).sum()
        return losses


def _matrices(taps: list[Tensor]) -> list[Tensor]:
    """Of each stage; `taps` are all beginnings, then all ends.

    A ReLU in place behind a beginning has rectified it already; one that is not in place has not.
    """
    half = len(taps) // 2
    return [_matrix(first.relu(), last) for first, last in zip(taps[:half], taps[half:], strict=True)]


def _matrix(first: Tensor, last: Tensor) -> Tensor:
    height, width = min(first.shape[2], last.shape[2]), min(first.shape[3], last.shape[3])
    first, last = (
        F.adaptive_max_pool2d(x, (height, width)) if x.shape[2:] != (height, width) else x for x in (first, last)
    )
    return first.flatten(2) @ last.flatten(2).transpose(1, 2) / (height * width)
