"""Vanilla knowledge distillation: softened logits of a fixed teacher."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from adderkit.distill.led import Led, LedOptions
from adderkit.distill.method import Batch
from adderkit.distill.methods import register


class KDOptions(LedOptions):
    """Vanilla knowledge distillation (Hinton et al., 2015)."""

    temperature: float = Field(default=4.0, gt=0, description="divides the logits of both nets")
    weight: float = Field(default=0.9, ge=0, le=1, description="of the teacher's term; the labels have 1 - weight")


@register("kd")
class KD(Led):
    """`(1 - w) CE(student, labels) + w T^2 KL(softmax(teacher / T) || softmax(student / T))`.

    The KL divergence is summed over classes and averaged over the batch. T = 4, w = 0.9 are usual for CIFAR,
    T = 1, w = 0.5 for ImageNet. Note that some code bases call the weight of the labels alpha, others that of the KL.

    Source: Hinton, Vinyals, Dean, Distilling the knowledge in a neural network, arXiv 1503.02531, section 2.
    """

    Options = KDOptions

    def led(self, batch: Batch) -> dict[str, Tensor]:
        temperature, weight = self.options.temperature, self.options.weight
        student = F.log_softmax(batch.student.logits / temperature, dim=1)
        teacher = F.log_softmax(batch.taught.logits / temperature, dim=1)
        divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return {
            "ce": (1 - weight) * F.cross_entropy(batch.student.logits, batch.labels),
            "kd": weight * temperature**2 * divergence,
        }
