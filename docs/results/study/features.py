"""Pictures of what student and teacher of a finished PKKD training look like inside.

python docs/results/study/features.py RUN OUT [RUN ...]

From the first RUN: features.png (raw outputs of the tapped operators, standardised, and their kernels), weights.png and
weights.csv (each layer's filters against a Gaussian and a Laplace density fitted to them). From all: mid.png, L_mid and
the other terms by epoch.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from adderkit import data, train
from adderkit.distill import Taps
from adderkit.distill.kernels import adder_kernel, convolution_kernel
from adderkit.distill.taps import stage_paths
from adderkit.models import Network
from adderkit.nn import AdderLayer

IMAGES = 512
COLOURS = {"student": "tab:blue", "teacher": "tab:orange"}
SIGNS = {"mixed": (1.0, -1.0), "rising": (1.0, 1.0), "literal": (-1.0, -1.0)}  # of (student, teacher), as `pkkd.signs`
Floats = NDArray[np.float64]


def main(run: Path, out: Path, others: list[Path]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    config = train.load_recipe(run / "config.yaml")
    images, _ = next(data.load(config.data).test.batches(IMAGES, seed=None))
    nets = {name: train.load_network(run / f"{file}.safetensors")[0].eval() for name, file in
            (("student", "last"), ("teacher", "teacher"))}  # fmt: skip
    draw_features(nets, images, config.method_options(), out / "features.png")
    draw_weights(nets, out)
    draw_terms([run, *others], out / "mid.png")


@torch.no_grad()
def draw_features(nets: dict[str, Network], images: torch.Tensor, options: Any, path: Path) -> None:
    """A row per tapped stage: the standardised raw outputs, and exp of them, as PKKD's running scale would see them."""
    stages = {name: outputs(net, images) for name, net in nets.items()}
    figure = Figure(figsize=(10, 3 * len(stages["student"])), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(stages["student"]), 2, squeeze=False)
    for name, taps in stages.items():
        for row, (tap, output) in enumerate(taps.items()):
            dims = (0, 2, 3) if options.scale == "channel" else (0, 1, 2, 3)
            unit = (output - output.mean(dims, keepdim=True)) / output.std(dims, keepdim=True)
            sign = SIGNS[options.signs][name == "teacher"]
            width = options.sigma_a if name == "student" else options.sigma_c
            kernel = (adder_kernel if name == "student" else convolution_kernel)(unit, width, sign)
            values = (unit, kernel / kernel.mean())
            titles = ("raw output, standardised", "kernel / its mean")
            for column, (what, shown) in enumerate(zip(titles, values, strict=True)):
                ax = axes[row][column]
                density = np.clip(shown.flatten().double().numpy(), -8, 8)
                ax.hist(density, 160, density=True, histtype="step", color=COLOURS[name],
                        label=f"{name}, skew {skewness(shown):.2f}")  # fmt: skip
                ax.set(title=f"{tap}: {what}", yscale="log")
                ax.legend(fontsize="small")
    figure.savefig(path, dpi=100)


def outputs(net: Network, images: torch.Tensor) -> dict[str, torch.Tensor]:
    with Taps(net, stage_paths(net)) as taps:
        net(images)
        return taps.take()


def skewness(values: torch.Tensor) -> float:
    unit = (values - values.mean()) / values.std()
    return float((unit**3).mean())


def draw_weights(nets: dict[str, Network], out: Path) -> None:
    """Filters of every layer that the twins do not share, with the fitted densities."""
    layers = {
        name: {path: module.weight.detach().double().flatten().numpy() for path, module in net.named_modules()
               if isinstance(module, AdderLayer | nn.Conv2d)}
        for name, net in nets.items()
    }  # fmt: skip
    rows = [
        {"net": name, "layer": path, **fits(values)} for name, found in layers.items() for path, values in found.items()
    ]
    with open(out / "weights.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    paths = [path for path in layers["student"] if path in layers["teacher"]]
    figure = Figure(figsize=(10, 2.2 * len(paths)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(paths), 2, squeeze=False)
    for row, path in enumerate(paths):
        for column, name in enumerate(("student", "teacher")):
            values, ax = layers[name][path], axes[row][column]
            grid = np.linspace(*np.percentile(values, [0.1, 99.9]), 200)
            ax.hist(values, 100, range=(grid[0], grid[-1]), density=True, color=COLOURS[name], alpha=0.4)
            centre, scale = np.median(values), np.abs(values - np.median(values)).mean()
            ax.plot(grid, np.exp(-np.abs(grid - centre) / scale) / (2 * scale), label="Laplace")
            mean, deviation = values.mean(), values.std()
            gauss = np.exp(-(((grid - mean) / deviation) ** 2) / 2) / (deviation * np.sqrt(2 * np.pi))
            ax.plot(grid, gauss, label="Gauss")
            ax.set_title(f"{name}, {path}", fontsize="small")
            ax.legend(fontsize="x-small")
    figure.savefig(out / "weights.png", dpi=80)


def fits(values: Floats) -> dict[str, float | str]:
    """Mean log-likelihoods of the two densities at their best, the excess kurtosis (Gauss 0, Laplace 3), the better."""
    scale = np.abs(values - np.median(values)).mean()
    deviation = values.std()
    laplace = float(-np.log(2 * scale) - 1)
    gauss = float(-np.log(deviation * np.sqrt(2 * np.pi)) - 0.5)
    kurtosis = float((((values - values.mean()) / deviation) ** 4).mean() - 3)
    better = "Laplace" if laplace > gauss else "Gauss"
    return {"deviation": float(deviation), "laplace": laplace, "gauss": gauss, "kurtosis": kurtosis, "better": better}


def draw_terms(runs: list[Path], path: Path) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    for run in runs:
        with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["net"] == "student" and row["train_loss"]]
        for ax, term in zip(axes, ("loss.mid", "loss.ce"), strict=True):
            points = [(int(row["epoch"]), float(row[term])) for row in rows if row.get(term)]
            ax.plot(*zip(*points, strict=True), label=f"{run.parent.name}")
            ax.set(xlabel="epoch", ylabel=f"training {term[5:]}", yscale="log")
            ax.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
