"""From a run's folder to an integer network and what it scores."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import adderkit
from adderkit import native, runtime, train
from adderkit.data import ImageData, Split
from adderkit.data.augment import normalise
from adderkit.data.crops import CentreCrop
from adderkit.data.loading import fitting
from adderkit.paths import shown
from adderkit.quant import file, reference
from adderkit.quant.calibration import calibrate
from adderkit.quant.finetune import finetune
from adderkit.quant.folding import to_integers
from adderkit.quant.fusing import fuse
from adderkit.quant.network import IntegerNetwork
from adderkit.quant.options import QuantizeOptions
from adderkit.quant.simulation import Simulation
from adderkit.train.environment import commit

Runner = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Images (N, H, W, C) to logits (N, classes)."""

_BATCH = 256
_LARGEST_BATCH = 2**27  # numbers in a tensor of all calibration images: 512 MB, and some ten such tensors live at once
_REFERENCE_IMAGES = 500  # that the reference is asked for where there is no native library: a quarter of a minute


@dataclass(frozen=True)
class Result:
    """An integer network, and top-1 accuracies as fractions of 1 on the same test images.

    Attributes:
        network: its notes hold the scores too.
        float_top1: of the trained network.
        integer_top1: of the integer network.
        test_images: how many; without the native library the first 500 alone.
    """

    network: IntegerNetwork
    float_top1: float
    integer_top1: float
    test_images: int


def quantize(
    weights: Path, data: ImageData, options: QuantizeOptions, note: Callable[[str], None] = lambda line: None
) -> Result:
    """Turns a trained network into integers and compares the two on the test images.

    Args:
        weights: file of the network, as `train.load_network` reads it.
        data: training images for calibration and fine-tuning, test images for the scores.
        options: how.
        note: told what is being done.

    Raises:
        ValueError: weights, a network or data that can't be.
    """
    digest = _digest(weights)
    network, info = train.load_network(weights)
    if _digest(weights) != digest:
        raise ValueError(f"weights `{shown(weights)}` changed while they were read: is the run still going on?")
    train.check_fits(f"`{weights}`", info, train.NetworkInfo.of(network, data))
    fused = fuse(network, info.height, info.width)
    room = max(2, _LARGEST_BATCH // max(math.prod(layer.shape) for layer in fused.layers))
    images = calibration_images(data.train, min(options.calibration_images, room))
    note(f"calibrating on {len(images)} training images")
    simulation, largest = calibrate(fused, images, info.mean, info.std, options.bits, options.multiplier_free)
    if options.finetune_epochs:
        finetune(simulation, network, data, options.finetune_epochs, images, note)
        largest = max(largest, largest_logit(simulation, images))
    notes: dict[str, Any] = {
        "source": {
            "weights_sha256": digest,
            "adderkit": adderkit.__version__,
            "commit": commit(),
            "data": data.name,
            "train_rows": options.data.train_rows,
            "test_rows": options.data.test_rows,
            "train_images": len(data.train),
            "calibration_images": len(images),
            "finetune_epochs": options.finetune_epochs,
        }
    }
    if isinstance(how := fitting(options.data), CentreCrop):
        notes["resize"] = how.resize  # `adderkit predict` prepares pictures as the test images are
    integers = to_integers(simulation, info, largest, notes)
    rows = np.arange(len(data.test) if native.library() is not None else min(len(data.test), _REFERENCE_IMAGES))
    note(f"comparing on {len(rows)} test images")
    scores = {
        "float_top1": top1(_float_runner(network, info), data.test, rows),
        "integer_top1": top1(_runner(integers), data.test, rows),
        "test_images": len(rows),
    }
    return Result(replace(integers, notes={**notes, **scores}), **scores)


def _digest(weights: Path) -> str | None:
    """SHA-256 of the file; None where there is none: reading it says so."""
    return hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None


def calibration_images(split: Split, count: int) -> Tensor:
    """So many images, evenly spaced: uint8 (N, C, H, W)."""
    rows = np.unique(np.linspace(0, len(split) - 1, min(count, len(split))).round().astype(np.int64))
    return torch.cat([images.cpu() for images, _ in split.uint8_batches(_BATCH, rows)])


@torch.no_grad()
def largest_logit(simulation: Simulation, images: Tensor) -> float:
    """The largest magnitude among the logits of some images."""
    return max(simulation(part).abs().max().item() for part in images.split(_BATCH))


def top1(run: Runner, split: Split, rows: NDArray[np.int64] | None = None) -> float:
    """The share of a split's images that a network gets right."""
    correct = count = 0
    for images, labels in split.uint8_batches(_BATCH, rows):
        logits = run(np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy()))
        correct += int((logits.argmax(1) == labels.cpu().numpy()).sum())
        count += len(labels)
    return correct / count


def _runner(network: IntegerNetwork) -> Runner:
    if native.library() is not None:
        return runtime.parse(file.encode(network))
    return lambda images: reference.run(network, images)


def _float_runner(network: nn.Module, info: train.NetworkInfo) -> Runner:
    @torch.no_grad()
    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        normalised = normalise(torch.from_numpy(images).permute(0, 3, 1, 2), info.mean, info.std)
        return network(normalised).numpy()

    return run
