"""Whole training steps as `adderkit train` makes them, on random images of CIFAR-10's shape."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy
import torch

from adderkit import train
from adderkit.data import DataConfig, RawData, register
from adderkit.data.raw import from_arrays
from adderkit.train.display import SilentDisplay

_TEST_IMAGES = 256
_images = [0]  # training images of the source below


@register("noise", uses=())
def noise(config: DataConfig) -> RawData:
    """Random images of random classes."""
    draw = numpy.random.default_rng(0)
    counts = {"training": _images[0], "test": _TEST_IMAGES}
    splits = [
        from_arrays(
            draw.integers(0, 256, (count, 32, 32, 3), numpy.uint8), draw.integers(0, 10, count), f"noise {name}"
        )
        for name, count in counts.items()
    ]
    return RawData("noise", tuple("0123456789"), *splits)


class _Clock(SilentDisplay):
    """Notes the time at the end of every epoch, when its weights were looked at and so all of it is done."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def epoch(self, rows: Any) -> None:
        self.times.append(time.perf_counter())


def measure(device: torch.device, steps: int, **options: Any) -> dict[str, Any]:
    """Time of a step, from the second epoch of a short training on, and the most memory that torch held.

    Args:
        device: where.
        steps: of an epoch.
        options: keys of the run: `method`, `student`, `batch_size`, `cuda_graph` ...
    """
    config = train.config_type()(
        epochs=3,
        test_every=3,
        save_every=3,
        checkpoint_minutes=60,
        device=device.type,
        data={"name": "noise"},
        **options,
    )
    _images[0] = steps * config.batch_size
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        train.train(config, Path(folder, "run"), display=clock)
    seconds = (clock.times[1] - clock.times[0]) / steps
    row: dict[str, Any] = {key: value for key, value in options.items() if isinstance(value, (int, str, bool))}
    row |= {"step ms": 1e3 * seconds, "images/s": config.batch_size / seconds}
    row["400 epochs of CIFAR-10, min"] = 400 * 50_000 / row["images/s"] / 60
    if device.type == "cuda":
        row["peak MiB"] = torch.cuda.max_memory_allocated(device) / 2**20
        row["reserved MiB"] = torch.cuda.max_memory_reserved(device) / 2**20  # what a graph keeps between replays too
    return row | {"notes": clock.notes[1:]}


def weights_differ(device: torch.device, steps: int, first: dict[str, Any], second: dict[str, Any]) -> float:
    """Largest difference between the weights of two trainings that differ in some keys; 0 means the same bits.

    With cuDNN's deterministic kernels: rounding that differs from run to run grows to any size in a few steps.
    """
    _images[0] = steps * 128
    found = []
    before, torch.backends.cudnn.deterministic = torch.backends.cudnn.deterministic, True
    for options in (first, second):
        config = train.config_type()(
            student="resnet8", epochs=2, batch_size=128, device=device.type, data={"name": "noise"}, **options
        )
        with tempfile.TemporaryDirectory() as folder:
            train.train(config, Path(folder, "run"), display=SilentDisplay())
            network, _ = train.load_network(Path(folder, "run", "last.safetensors"))
        found.append(network.state_dict())
    torch.backends.cudnn.deterministic = before
    return max(float((found[0][name].double() - found[1][name].double()).abs().max()) for name in found[0])
