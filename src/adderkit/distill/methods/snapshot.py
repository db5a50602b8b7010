"""Snapshot distillation: the net as it was at the end of the cycle before is the teacher."""

from __future__ import annotations

import copy

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from adderkit.distill.method import Batch, Method, Phase
from adderkit.distill.methods import register
from adderkit.options import Options


class SnapshotOptions(Options):
    """Snapshot distillation (Yang et al., 2019)."""

    cycles: int = Field(default=4, ge=2, description="parts of the training, each with a cosine of its own")
    temperature: float = Field(default=2.0, gt=0, description="divides the snapshot's logits; the student's stay")


@register("snapshot")
class Snapshot(Method):
    """First cycle `CE(student, labels)`, later `(1 + 1/T) CE(student, labels) + KL(softmax(snapshot / T) || student)`.

    The cycles are of equal length (the first ones an epoch longer where that does not come out even) and the rate
    falls from its full value to 0 in each. The snapshot is the net at the end of the cycle before, in evaluation mode,
    fixed. Only its logits are smoothed ("asymmetric distillation"). No CNN takes part.

    Source: Yang, Xie, Su, Yuille, Snapshot distillation, CVPR 2019, equations 2 and 5, section 3.4. The divergence is
    averaged over the batch.
    """

    Options = SnapshotOptions
    snapshot: nn.Module

    def phases(self, epochs: int) -> tuple[Phase, ...]:
        cycles = self.options.cycles
        if epochs < cycles:
            raise ValueError(f"`epochs` (={epochs}) must be >= `snapshot.cycles` (={cycles})")
        lengths = [epochs // cycles + (index < epochs % cycles) for index in range(cycles)]
        return tuple(Phase(_name(index), length, restarts_rate=index > 0) for index, length in enumerate(lengths))

    def setup(self, student: nn.Module, example: Batch) -> list[RemovableHandle]:
        self.snapshot = copy.deepcopy(student).requires_grad_(False).eval()
        return []

    def train(self, mode: bool = True) -> Snapshot:
        """The snapshot stays in evaluation mode."""
        super().train(mode)
        if hasattr(self, "snapshot"):
            self.snapshot.eval()
        return self

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        logits = batch.student.logits
        hard = F.cross_entropy(logits, batch.labels)
        if batch.phase.name == _name(0):
            return {"ce": hard}
        temperature = self.options.temperature
        with torch.no_grad():
            teacher = F.log_softmax(self.snapshot(batch.images) / temperature, dim=1)
        divergence = F.kl_div(F.log_softmax(logits, dim=1), teacher, reduction="batchmean", log_target=True)
        return {"ce": (1 + 1 / temperature) * hard, "kd": divergence}

    def end_phase(self, phase: Phase, student: nn.Module) -> None:
        self.snapshot.load_state_dict(student.state_dict())


def _name(cycle: int) -> str:
    return f"cycle {cycle + 1}"
