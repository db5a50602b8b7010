"""Evaluation of a net on a split."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adderkit import collectives
from adderkit.data import Share, Split


class Scores(NamedTuple):
    """Mean cross entropy; top-1 and top-5 accuracy as fractions of 1 (with 5 classes or fewer, top-5 is 1)."""

    loss: float
    top1: float
    top5: float


def count_correct(logits: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """How many rows of `logits` (N, classes) have the label among their `k` largest: a scalar int64 tensor."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == labels[:, None]).sum()


def tally(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Of one batch the sum of its cross entropies, and how many images are right and among the best 5: float64 (3,)."""
    logits = net(images).float()
    loss = F.cross_entropy(logits, labels, reduction="sum").double()
    return torch.stack([loss, *(count_correct(logits, labels, k).double() for k in (1, 5))])


@torch.no_grad()
def evaluate(
    net: nn.Module,
    split: Split,
    share: Share | None = None,
    of_batch: Callable[[nn.Module, Tensor, Tensor], Tensor] = tally,
) -> Scores:
    """Scores of `net` in evaluation mode over all rows of `split`; its mode is put back afterwards.

    Args:
        net: on the split's device.
        split: the images.
        share: where several processes evaluate together, which of them this one is: each takes every n-th batch and
            all get the scores of the whole, to the last bit those of one process. None: this process takes all.
        of_batch: computes the figures of a batch, on the device.
    """
    was_training = net.training
    net.eval()
    first, of = (0, 1) if share is None else (share.process, share.processes)
    size = split.evaluated_at_once
    found: list[Tensor] = []  # per batch: loss, correct, among the best 5; on the device, which is waited for once
    for images, labels in split.batches(size, seed=None, share=Share(first, of)):
        found.append(of_batch(net, images, labels))
    sums = torch.zeros(-(-len(split) // size), 3, dtype=torch.float64)
    if found:
        sums[first::of] = torch.stack(found).cpu()
    net.train(was_training)
    if of > 1:
        sums = collectives.summed(sums)  # each row is of one process, and 0 + x is x
    loss, top1, top5 = (sums.sum(0) / len(split)).tolist()
    return Scores(loss, top1, top5)
