"""`adderkit bench ops`: every layer is verified, then timed against `conv2d` and against older formulations."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from adderkit.bench import formulations, record, verify
from adderkit.bench.config import OpsOptions, Pass
from adderkit.bench.limits import faster, measure_limits
from adderkit.bench.shapes import Layer, select
from adderkit.bench.timing import Budget, spread, take_turns, thread_count
from adderkit.ops import adder2d

OFFSETS = (0.0, 1.0, 2.0, 5.0, 8.0, 1e1, 1e2, 1e3, 1e4, 1e5, -1e5)

# A call beyond a tenth of a second is as fast whatever came before it: a 32 MiB last-level cache is refilled in some 3
# ms. Three rounds still have a median that one bad moment does not move. The older formulations, some fifty times
# slower than what they are compared with, need no such care.
_LONG_CALL = 0.1
_LEAST_ROUNDS = 3
_RIVAL_ROUNDS = 3
_RIVAL_SECONDS = 1.0
_DEEPEST = Layer("resnet50", 512, 64, 3, 1, 7)  # K = 4608 as in ResNet-50's last stage; the number of filters is free


class Row(NamedTuple):
    """One contestant in one pass of one layer; `ratio` is its time per image over `adder2d` or `conv2d`, see `over`."""

    network: str
    layer: str
    batch: int
    pass_name: str
    contestant: str
    images: int
    rounds: int
    median_s: float
    p10_s: float
    p90_s: float
    operations_per_s: float
    operations_per_byte: float | None
    over: str
    ratio: float
    ratio_p10: float
    ratio_p90: float


class Tensors(NamedTuple):
    """Images, filters, and the output's gradient."""

    x: Tensor
    f: Tensor
    g: Tensor

    def first(self, images: int) -> Tensors:
        return Tensors(self.x[:images], self.f, self.g[:images])


def measure_ops(
    options: OpsOptions, note: Callable[[str], None], keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Verifies and times the layers.

    Args:
        options: what to measure.
        note: called with a sentence after each layer.
        keep: called with the report after each layer.

    Returns:
        The report: `complete` (false where layers are still to come), `machine`, `settings`, `limits` (`Limits`, or
        None without a native library), `rows` (`Row`), `errors`, `forward_errors`, `summary`; plain values alone.

    Raises:
        ValueError: where no layer is called what `only` says.
        WrongResult: where a contestant's result is not what the formula says.
    """
    layers = select(options.shapes, options.only)
    rows: list[Row] = []
    errors: list[dict[str, Any]] = []
    report: dict[str, Any] = {}
    with thread_count(options.threads) as threads:
        machine = record.machine(threads)
        limits = measure_limits(threads)
        forward_errors = _forward_errors()
        for done, layer in enumerate(layers, 1):
            torch.manual_seed(0)
            tensors = _tensors(layer, options.batch, options.layout)
            errors += _verify(layer, tensors, options.rivals)
            new = [
                row for name in dict.fromkeys(options.passes) for row in _against_conv(layer, tensors, name, options)
            ]
            if options.rivals:
                new += _against_rivals(layer, tensors, options)
            rows += new
            limits = faster(limits, measure_limits(threads))
            ratios = (f"{row.pass_name} {row.ratio:.2f}" for row in new if row.contestant == "adder2d")
            note(f"{layer.network} {layer.name}: adder2d / conv2d {', '.join(ratios)}")
            report = {
                "bench": "ops",
                "complete": done == len(layers),
                "machine": machine,
                "settings": options.model_dump(),
                "limits": None if limits is None else limits._asdict(),
                "rows": [row._asdict() for row in rows],
                "errors": list(errors),
                "forward_errors": forward_errors,
                "summary": _summary(rows),
            }
            keep(report)
    return report


def _tensors(layer: Layer, batch: int, layout: str) -> Tensors:
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    shapes = (
        (batch, layer.in_channels, layer.size, layer.size),
        (layer.out_channels, layer.in_channels, layer.kernel, layer.kernel),
        (batch, layer.out_channels, layer.out_size, layer.out_size),
    )
    return Tensors(*(torch.randn(shape).contiguous(memory_format=memory_format) for shape in shapes))


def _adder(x: Tensor, f: Tensor, stride: int, padding: int) -> Tensor:
    return adder2d(x, f, None, stride, padding)


def _conv(x: Tensor, f: Tensor, stride: int, padding: int) -> Tensor:
    return F.conv2d(x, f, None, stride, padding)


def _forward_errors() -> list[dict[str, Any]]:
    """Forward errors at K = 4608: images and filters share an offset, or images have one or two values.

    In the latter roundings go the same way in many terms, so they add up where sums are not cut into pieces.
    """
    torch.manual_seed(0)
    x, f, _ = _tensors(_DEEPEST, 1, "channels_last")
    found: list[dict[str, Any]] = []

    def add(x_is: str, x: Tensor, f_is: str, f: Tensor) -> None:
        output = _adder(x, f, _DEEPEST.stride, _DEEPEST.padding)
        error = verify.forward_error(output, x, f, _DEEPEST.stride, _DEEPEST.padding)
        verify.require(error, f"adder2d, K = 4608, x: {x_is}, f: {f_is},")
        found.append({"x": x_is, "f": f_is, "error": error})

    for offset in OFFSETS:
        name = "normal" if offset == 0 else f"normal {'+' if offset > 0 else '-'} {abs(offset):g}"
        add(name, x + offset, name, f + offset)
    add("1.7", torch.full_like(x, 1.7), "normal", f)
    add("0 or 0.3", 0.3 * (x > 0).to(x.dtype), "normal", f)
    return found


def _verify(layer: Layer, tensors: Tensors, with_rivals: bool) -> list[dict[str, Any]]:
    """The errors of each contestant on the tensors that it is timed on, or on a part of them that takes a second."""

    def check(name: str, operation: verify.Operation, tensors: Tensors) -> dict[str, Any]:
        errors = verify.layer_errors(operation, *tensors, layer.stride, layer.padding)
        for which, error in errors._asdict().items():
            verify.require(error, f"{name}, {which} of {layer.network} {layer.name},")
        return {"network": layer.network, "layer": layer.name, "contestant": name, **errors._asdict()}

    found = [check("adder2d", _adder, tensors)]
    if with_rivals:
        part = tensors.first(formulations.part(layer, len(tensors.x)))
        found.append(check("official", formulations.official, part))
        output = formulations.unfold_cdist(part.x, part.f, layer.stride, layer.padding)
        error = verify.forward_error(output, part.x, part.f, layer.stride, layer.padding)
        verify.require(error, f"cdist, forward of {layer.network} {layer.name},")
        found.append({"network": layer.network, "layer": layer.name, "contestant": "cdist", "forward": error})
    return found


def _call(operation: verify.Operation, tensors: Tensors, layer: Layer, name: Pass) -> Callable[[], object]:
    """What is timed."""
    stride, padding = layer.stride, layer.padding
    x, f, g = tensors
    if name == "forward":
        return lambda: operation(x, f, stride, padding)
    x = x.detach().requires_grad_()
    if name == "input_gradient":
        output = operation(x, f, stride, padding)
        return lambda: torch.autograd.grad(output, x, g, retain_graph=True)
    f = f.detach().requires_grad_()
    return lambda: torch.autograd.grad(operation(x, f, stride, padding), (x, f), g)


def _against_conv(layer: Layer, tensors: Tensors, name: Pass, options: OpsOptions) -> list[Row]:
    calls = {
        "adder2d": _call(_adder, tensors, layer, name),
        "conv2d": _call(_conv, tensors, layer, name),
    }
    least = min(options.rounds, _LEAST_ROUNDS)
    seconds = take_turns(calls, Budget(options.rounds, least, options.seconds, _LONG_CALL))
    images = {contestant: options.batch for contestant in calls}
    return [_row(layer, name, contestant, "conv2d", seconds, images) for contestant in calls]


def _against_rivals(layer: Layer, tensors: Tensors, options: OpsOptions) -> list[Row]:
    """The older formulations, on a part of the batch where need be, in turns with `adder2d` on the whole of it."""
    count = formulations.images(layer, options.batch)
    part = tensors.first(count)
    rivals: dict[Pass, dict[str, verify.Operation]] = {
        "forward": {"cdist": formulations.unfold_cdist, "official": formulations.official},
        "forward+backward": {"official": formulations.official},  # cdist's gradients are other ones
    }
    rows: list[Row] = []
    for name, operations in rivals.items():
        if name not in options.passes:
            continue
        calls = {"adder2d": _call(_adder, tensors, layer, name)}
        calls.update({rival: _call(operation, part, layer, name) for rival, operation in operations.items()})
        seconds = take_turns(calls, Budget(min(options.rounds, _RIVAL_ROUNDS), 1, _RIVAL_SECONDS, _LONG_CALL))
        images = {contestant: options.batch if contestant == "adder2d" else count for contestant in calls}
        rows += [_row(layer, name, rival, "adder2d", seconds, images) for rival in operations]
    return rows


def _row(
    layer: Layer, name: Pass, contestant: str, over: str, seconds: dict[str, list[float]], images: dict[str, int]
) -> Row:
    own = spread(seconds[contestant])
    pairs = zip(seconds[contestant], seconds[over], strict=True)
    factor = images[over] / images[contestant]
    by_round = spread([a / b * factor for a, b in pairs])
    operations = layer.operations * images[contestant] * (3 if name == "forward+backward" else 1)
    return Row(
        network=layer.network,
        layer=layer.name,
        batch=images["adder2d"],
        pass_name=name,
        contestant=contestant,
        images=images[contestant],
        rounds=len(seconds[contestant]),
        median_s=own.median,
        p10_s=own.p10,
        p90_s=own.p90,
        operations_per_s=operations / own.median,
        operations_per_byte=None
        if name == "forward+backward"
        else layer.operations_per_byte(images[contestant], name == "input_gradient"),
        over=over,
        ratio=own.median / spread(seconds[over]).median * factor,
        ratio_p10=by_round.p10,
        ratio_p90=by_round.p90,
    )


def _summary(rows: list[Row]) -> dict[str, Any]:
    """Geometric means and extremes of adder2d / conv2d, and of the rivals / adder2d, by pass."""
    summary: dict[str, Any] = {}
    for row in rows:
        if row.contestant != "conv2d":
            summary.setdefault(f"{row.contestant} / {row.over}", {}).setdefault(row.pass_name, []).append(row)
    for passes in summary.values():
        for name, found in passes.items():
            worst, best = max(found, key=lambda row: row.ratio), min(found, key=lambda row: row.ratio)
            passes[name] = {
                "geometric_mean": statistics.geometric_mean([row.ratio for row in found]),
                "layers": len(found),
                "highest": worst.ratio,
                "highest_layer": f"{worst.network} {worst.layer}",
                "lowest": best.ratio,
                "lowest_layer": f"{best.network} {best.layer}",
            }
    return summary
