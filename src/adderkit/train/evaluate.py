"""Evaluation of a net on a split."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adderkit.data import Split

BATCH = 256  # images at a time: no result depends on it


class Scores(NamedTuple):
    """Mean cross entropy; top-1 and top-5 accuracy as fractions of 1 (with 5 classes or fewer, top-5 is 1)."""

    loss: float
    top1: float
    top5: float


def count_correct(logits: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """How many rows of `logits` (N, classes) have the label among their `k` largest: a scalar int64 tensor."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == labels[:, None]).sum()


@torch.no_grad()
def evaluate(net: nn.Module, split: Split) -> Scores:
    """Scores of `net` in evaluation mode over all rows of `split`; its mode is put back afterwards."""
    was_training = net.training
    net.eval()
    loss = torch.zeros((), dtype=torch.float64)
    correct = torch.zeros(2, dtype=torch.int64)
    for images, labels in split.batches(BATCH, seed=None):
        logits = net(images).float()
        loss += F.cross_entropy(logits, labels, reduction="sum").double().cpu()
        correct += torch.stack([count_correct(logits, labels, k) for k in (1, 5)]).cpu()
    net.train(was_training)
    top1, top5 = (correct.double() / len(split)).tolist()
    return Scores(loss.item() / len(split), top1, top5)
