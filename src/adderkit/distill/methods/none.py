"""No distillation: cross entropy with the labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from adderkit.distill.method import Batch, Method
from adderkit.distill.methods import register


@register("none")
class NoDistillation(Method):
    """The net alone: the plain ANN of the paper's tables, or with `--layer conv` the CNN."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(batch.student.logits, batch.labels)}
