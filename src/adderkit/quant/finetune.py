"""Fine-tuning of a simulation: the network learns to live with its integers.

Filters, scales and biases are trained with SGD and the adaptive local rate of adder layers, as in training; steps and
zeros stay. Rounding passes gradients straight through. BatchNorm is part of scale and bias by now. The loss is the cross
entropy with the float network's own answer: its probabilities know more than the labels, and the integers are to agree
with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from adderkit.data import ImageData
from adderkit.quant.simulation import Simulation
from adderkit.train import AdaptiveLocalRate


def finetune(
    simulation: Simulation,
    teacher: nn.Module,
    data: ImageData,
    epochs: int,
    lr: float,
    eta: float,
    batch_size: int = 128,
    seed: int = 0,
    label_share: float = 0.5,
    max_steps: int | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> None:
    """Trains a calibrated simulation in place and leaves it in evaluation mode."""
    filters = [layer.weight for layer in simulation.layers if layer.fused.op == "adder"]
    others = [
        p
        for layer in simulation.layers
        for n, p in layer.named_parameters()
        if not (n == "weight" and layer.fused.op == "adder")
    ]
    optimizer = torch.optim.SGD(
        [{"params": filters, "lr": lr}, {"params": others, "lr": lr * 0.1}], lr=lr, momentum=0.9
    )
    AdaptiveLocalRate(filters, eta=eta).attach(optimizer)
    steps = epochs * data.train.steps(batch_size)
    if max_steps:
        steps = min(steps, max_steps)
    mean, std = simulation.mean.float()[:, None, None], simulation.std.float()[:, None, None]
    simulation.train()
    step = 0
    run = 0.0
    for epoch in range(epochs):
        for images, labels in data.train.batches(batch_size, seed=seed, epoch=epoch):
            for group, base in zip(optimizer.param_groups, (lr, lr * 0.1)):
                group["lr"] = base * (1 + math.cos(math.pi * step / steps)) / 2
            with torch.no_grad():
                taught = teacher(images).softmax(1)
            logits = simulation((images * std + mean) * 255)
            loss = label_share * F.cross_entropy(logits, labels) + (1 - label_share) * F.cross_entropy(logits, taught)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run = 0.98 * run + 0.02 * loss.item() if step else loss.item()
            step += 1
            if step % 20 == 0:
                note(f"{step} {run:.4f}")
            if step >= steps:
                break
        if step >= steps:
            break
    simulation.eval()
