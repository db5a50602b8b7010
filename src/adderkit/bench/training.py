"""`adderkit bench train`: a training step of an adder network against its CNN twin's, in time and peak memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from adderkit import models
from adderkit.bench import memory, record
from adderkit.bench.busy import busy_core
from adderkit.bench.config import TrainOptions
from adderkit.bench.timing import Budget, spread, take_turns, thread_count
from adderkit.train import AdaptiveLocalRate

LAYERS = ("adder", "conv")
_SIZE = 32  # height and width of the images, as CIFAR's
_MEMORY_REPEATS = 3


class Row(NamedTuple):
    """Steps of one network in one condition ("quiet", or "busy": one core taken); `ratio` is its median over conv's."""

    network: str
    layer: str
    batch: int
    condition: str
    steps: int
    median_s: float
    p10_s: float
    p90_s: float
    ratio: float
    ratio_p10: float
    ratio_p90: float
    peak_mib: float | None


def step_of(network: str, layer: str, batch: int) -> Callable[[], object]:
    """A training step as in the paper's recipe: forward, cross entropy, backward, SGD with the adaptive local rate.

    Raises:
        ValueError: where `network` is none.
    """
    torch.manual_seed(0)
    net = models.create(network, layer).to(memory_format=torch.channels_last)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    AdaptiveLocalRate(net).attach(optimizer)
    images = torch.randn(batch, 3, _SIZE, _SIZE).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()

    return step


def measure_train(options: TrainOptions, note: Callable[[str], None]) -> dict[str, Any]:
    """Times steps of both networks in turns, quiet and (`busy`) beside a process that takes one core.

    Args:
        options: what to measure.
        note: called with a sentence after each part.

    Returns:
        The report: `machine`, `settings`, `rows` (`Row`), `summary`; plain values alone.

    Raises:
        ValueError: where `network` is none.
    """
    with thread_count(options.threads) as threads:
        machine = record.machine(threads)
        steps = {layer: step_of(options.network, layer, options.batch) for layer in LAYERS}
        seconds: dict[str, dict[str, list[float]]] = {}
        for condition in ("quiet", "busy") if options.busy else ("quiet",):
            with busy_core() if condition == "busy" else nullcontext():
                seconds[condition] = take_turns(steps, Budget(options.steps))
            note(f"{options.network}: timed {options.steps} steps of each network, {condition}")
        del steps
        peaks: dict[str, list[float]] = {}
        if options.memory and memory.is_available():
            requests = {layer: memory.Request(options.network, layer, options.batch, threads) for layer in LAYERS}
            for _ in range(_MEMORY_REPEATS):
                for layer, request in requests.items():
                    peaks.setdefault(layer, []).append(memory.peak_in_own_process(request))
            note(f"{options.network}: measured the memory of each network {_MEMORY_REPEATS} times")
    rows = [_row(options, condition, layer, seconds[condition], peaks) for condition in seconds for layer in LAYERS]
    return {
        "bench": "train",
        "machine": machine,
        "settings": options.model_dump(),
        "rows": [row._asdict() for row in rows],
        "peaks_mib": peaks,
        "summary": _summary({(row.condition, row.layer): row for row in rows}),
    }


def _row(
    options: TrainOptions, condition: str, layer: str, seconds: dict[str, list[float]], peaks: dict[str, list[float]]
) -> Row:
    own, conv = spread(seconds[layer]), spread(seconds["conv"])
    by_round = spread([a / b for a, b in zip(seconds[layer], seconds["conv"], strict=True)])
    return Row(
        network=options.network,
        layer=layer,
        batch=options.batch,
        condition=condition,
        steps=options.steps,
        median_s=own.median,
        p10_s=own.p10,
        p90_s=own.p90,
        ratio=own.median / conv.median,
        ratio_p10=by_round.p10,
        ratio_p90=by_round.p90,
        peak_mib=statistics.median(peaks[layer]) if peaks else None,
    )


def _summary(rows: dict[tuple[str, str], Row]) -> dict[str, float | None]:
    """adder / conv in time and memory, and how much slower each is beside a busy core; None where not measured."""
    adder, conv = rows["quiet", "adder"], rows["quiet", "conv"]
    busy = {layer: rows.get(("busy", layer)) for layer in LAYERS}
    summary: dict[str, float | None] = {"time_ratio": adder.ratio}
    summary["busy_time_ratio"] = busy["adder"].ratio if busy["adder"] is not None else None
    for layer, row in busy.items():
        quiet = rows["quiet", layer]
        summary[f"{layer}_busy_slowdown"] = row.median_s / quiet.median_s if row is not None else None
    both = adder.peak_mib is not None and conv.peak_mib is not None
    summary["memory_ratio"] = adder.peak_mib / conv.peak_mib if both else None  # type: ignore[operator]
    return summary
