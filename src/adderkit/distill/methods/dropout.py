"""Dropout: the student alone, with dropout before its classifier."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from adderkit.collectives import process_count, process_rank
from adderkit.distill.method import Batch, Method
from adderkit.distill.methods import register
from adderkit.options import Options


class DropoutOptions(Options):
    """Dropout before the classifier (Srivastava et al., 2014)."""

    rate: float = Field(default=0.1, ge=0, lt=1, description="share of the classifier's inputs that a step zeroes")


@register("dropout")
class Dropout(Method):
    """`CE(student, labels)`, each input of the classifier zeroed with probability `rate` while training.

    What is left is divided by `1 - rate`. Each element of the classifier's input is drawn for itself: after a global
    average pool, as in the ResNets, these are whole channels. Several processes draw what one would for the images of
    all.

    Source: Srivastava et al., Dropout, JMLR 15, 2014. The PKKD paper compares with it and gives no rate: the default is
    reconstruction.
    """

    Options = DropoutOptions

    def setup(self, student: nn.Module, example: Batch) -> list[RemovableHandle]:
        path = getattr(student, "classifier_path", None)
        if path is None:
            raise ValueError(f"`dropout` needs a network with a `classifier_path`; {type(student).__name__} has none")
        return [student.get_submodule(path).register_forward_pre_hook(self._drop)]

    def _drop(self, classifier: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        (features, *rest), rate = inputs, self.options.rate
        if not classifier.training:
            return inputs
        # The processes hold one random state, so each draws the numbers of all and takes its own rows.
        shares = torch.rand(process_count(), *features.shape, device=features.device)
        kept = (shares[process_rank()] >= rate).to(features.dtype)
        return (features * kept / (1 - rate), *rest)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(batch.student.logits, batch.labels)}
