"""Methods whose teacher may leave early: one term with the teacher, in all epochs or the first of them."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from adderkit.distill.method import Batch, Method, Phase, TeacherNeed, first_epochs
from adderkit.options import Options


class LedOptions(Options):
    """What `kd`, `sp` and `at` have in common."""

    progressive: bool = Field(default=False, description="teacher trained beside the student instead of beforehand")
    share: float = Field(
        default=1.0, ge=0, le=1, description="share of the epochs, from the first, with the teacher; then labels alone"
    )


class Led(Method):
    """A student led by its teacher for a `share` of the epochs; after it, `CE(student, labels)` alone.

    With soft labels that is early-stopped distillation (Cho, Hariharan, On the efficacy of knowledge distillation, ICCV
    2019); for the other terms it is our own addition.
    """

    Options = LedOptions

    @property
    def teacher_need(self) -> TeacherNeed:
        return TeacherNeed.PROGRESSIVE if self.options.progressive else TeacherNeed.FIXED

    def phases(self, epochs: int) -> tuple[Phase, ...]:
        led = first_epochs(self.options.share, epochs)
        phases = Phase("train", led), Phase("labels alone", epochs - led, reads_teacher=False)
        return tuple(phase for phase in phases if phase.epochs)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        if not batch.phase.reads_teacher:
            return {"ce": F.cross_entropy(batch.student.logits, batch.labels)}
        return self.led(batch)

    def led(self, batch: Batch) -> dict[str, Tensor]:
        """`losses` of the epochs with the teacher."""
        raise NotImplementedError
