"""adder2d beside what PyTorch offers for the same sum, `unfold` + `cdist(p=1)`, and beside `conv2d`.

The three 3x3 layers of ResNet-20, channels_last. Every result is checked against float64 first; then the
contestants take turns, so that another process on the machine slows all of them alike: read the ratios.

    python benchmarks/forward_vs_cdist.py [--batch 128] [--threads 2] [--rounds 15] [--csv FILE]
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import conv2d, unfold

from adderkit import adder2d, ops
from adderkit.ops import reference

LAYERS = ((16, 32), (32, 16), (64, 8))  # channels in and out, height and width
ROUNDOFF = 2.0**-24


def unfold_cdist(x: Tensor, f: Tensor) -> Tensor:
    patches = unfold(x, f.shape[2:], padding=1).transpose(1, 2)
    distance = torch.cdist(patches, f.reshape(1, len(f), -1), p=1)
    return -distance.transpose(1, 2).reshape(len(x), len(f), *x.shape[2:])


def relative_error(output: Tensor, x: Tensor, f: Tensor) -> float:
    """Largest error on the first images, in roundings of sum(|x| + |f|)."""
    x, f = x[:4].double(), f.double()
    expected = torch.empty(len(x), len(f), *x.shape[2:], dtype=torch.float64)
    reference.forward(x, f, expected, (1, 1), (1, 1), (1, 1), 1)
    scale = conv2d(x.abs(), torch.ones_like(f), padding=1) + f.abs().sum((1, 2, 3)).view(1, -1, 1, 1)
    return ((output[:4] - expected).abs() / (scale * ROUNDOFF)).max().item()


def backward(layer: Callable[..., Tensor], x: Tensor, f: Tensor, g: Tensor) -> None:
    torch.autograd.grad(layer(x, f, padding=1), (x, f), g)


def take_turns(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, one after the other in every round; the first call of a turn only warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            call()
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    active = next(backend.name for backend in ops.backends() if backend.active)
    print(
        f"{_processor()}; torch {torch.__version__}; kernels: {active}; {options.threads} threads; "
        f"batch {options.batch}; {options.rounds} rounds"
    )
    print("median milliseconds (spread: 10th to 90th percentile), G operations a second, times adder2d's")
    rows = []
    for channels, size in LAYERS:
        x = torch.randn(options.batch, channels, size, size).contiguous(memory_format=torch.channels_last)
        f = torch.randn(channels, channels, 3, 3).contiguous(memory_format=torch.channels_last)
        for name, layer in (("adder2d", adder2d(x, f, padding=1)), ("unfold + cdist", unfold_cdist(x, f))):
            error = relative_error(layer, x, f)
            if error > 64:
                raise SystemExit(f"{name} is wrong by {error:.0f} roundings; nothing is timed")
        leaf_x, leaf_f, g = x.clone().requires_grad_(), f.clone().requires_grad_(), torch.randn_like(x)
        groups = {
            "forward": {
                "adder2d": lambda x=x, f=f: adder2d(x, f, padding=1),
                "unfold + cdist": lambda x=x, f=f: unfold_cdist(x, f),
                "conv2d": lambda x=x, f=f: conv2d(x, f, padding=1),
            },
            "forward + backward": {
                "adder2d": lambda x=leaf_x, f=leaf_f, g=g: backward(adder2d, x, f, g),
                "conv2d": lambda x=leaf_x, f=leaf_f, g=g: backward(conv2d, x, f, g),
            },
        }
        for group, contestants in groups.items():
            seconds = take_turns(contestants, options.rounds)
            operations = x.numel() * f[0].numel() * (1 if group == "forward" else 3)
            own = statistics.median(seconds["adder2d"])
            for name, times in seconds.items():
                median, deciles = statistics.median(times), statistics.quantiles(times, n=10)
                print(
                    f"{channels:3d} ch {size:2d}x{size:<2d}  {group:18s}  {name:14s} {median * 1e3:8.2f} "
                    f"({deciles[0] * 1e3:.2f} to {deciles[-1] * 1e3:.2f})  {operations / median * 1e-9:6.1f} G/s  "
                    f"x{median / own:.2f}"
                )
                rows.append((channels, size, group, name, median, deciles[0], deciles[-1], operations / median))
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("channels", "size", "pass", "name", "median_s", "p10_s", "p90_s", "operations_per_s"))
            writer.writerows(rows)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
