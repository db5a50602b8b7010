"""Fine-tuning of a simulation: the network learns to live with its integers.

Filters, gains and levels are trained with SGD and the adaptive local rate of adder layers, as in training; steps and
zeros stay, and rounding passes gradients straight through.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adderkit.data import ImageData
from adderkit.quant.simulation import Simulation
from adderkit.train import AdaptiveLocalRate

BATCH = 64
_LR, _ETA, _MOMENTUM = 0.002, 0.05, 0.9
_LABELS = 0.5  # share of the labels in the loss; the rest is the float network's own answer
_TOLD = 25  # steps between two notes


def finetune(
    simulation: Simulation,
    teacher: nn.Module,
    data: ImageData,
    epochs: int,
    images: Tensor,
    note: Callable[[str], None] = lambda line: None,
) -> None:
    """Trains a calibrated simulation in place and leaves it in evaluation mode.

    Args:
        simulation: calibrated.
        teacher: the float network, in evaluation mode.
        data: the training images, BATCH of them or more.
        epochs: passes over them, >= 1.
        images: uint8 (N, C, H, W), that the layers' centres are taken from at the end.
        note: told of the loss.

    Raises:
        ValueError: fewer training images than BATCH; a loss that is no number.
    """
    if len(data.train) < BATCH:
        raise ValueError(
            f"`finetune_epochs` (={epochs}) must be 0 with {len(data.train)} training images: a step takes {BATCH}"
        )
    optimizer = torch.optim.SGD(simulation.parameters(), lr=_LR, momentum=_MOMENTUM)
    filters = [simulation.layer(i).weight for i, layer in enumerate(simulation.network.layers) if layer.op == "adder"]
    AdaptiveLocalRate(filters, eta=_ETA).attach(optimizer)
    mean, std = (torch.tensor(value)[:, None, None] for value in (data.mean, data.std))
    own_mean, own_std = (value.float()[:, None, None] for value in (simulation.mean, simulation.std))
    steps = data.train.steps(BATCH)
    simulation.train()
    losses: list[float] = []
    for epoch in range(epochs):
        for step, (normalised, labels) in enumerate(data.train.batches(BATCH, seed=0, epoch=epoch), epoch * steps):
            optimizer.param_groups[0]["lr"] = _LR * (1 + math.cos(math.pi * step / (epochs * steps))) / 2
            pixels = ((normalised * std + mean) * 255).round()  # the network's statistics may be those of other data
            with torch.no_grad():
                taught = teacher((pixels / 255 - own_mean) / own_std).softmax(1)
            logits = simulation(pixels)
            loss = _LABELS * F.cross_entropy(logits, labels) + (1 - _LABELS) * F.cross_entropy(logits, taught)
            if not loss.isfinite():
                raise ValueError(f"fine-tuning diverged at step {step}: the loss is {loss.item()}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == _TOLD:
                note(f"step {step + 1} of {epochs * steps}: loss {sum(losses) / _TOLD:.4f}")
                losses.clear()
    recentre(simulation, images)


@torch.no_grad()
def recentre(simulation: Simulation, images: Tensor) -> None:
    """Takes every layer's centre from these images, and leaves the simulation in evaluation mode."""
    simulation.train()
    simulation(images)
    simulation.eval()
