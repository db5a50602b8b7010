"""`adderkit bench infer`: an integer adder network against its CNN twin in torch and in ONNX Runtime."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch

from adderkit import models, quant, runtime
from adderkit.bench import onnx_twin, operations, record
from adderkit.bench.config import InferOptions
from adderkit.bench.timing import short_turns, spread, thread_count
from adderkit.bench.verify import WrongResult
from adderkit.data.augment import normalise
from adderkit.quant import reference
from adderkit.train import NetworkInfo

OWN = "adder int8, adderkit"
TORCH = "CNN float32, torch"
FLOAT = "CNN float32, ONNX Runtime"
INT8 = "CNN int8, ONNX Runtime"
_SIZE, _CHANNELS = 32, 3  # of the images of a network without a file
_MEAN, _STD = (0.5,) * 3, (0.25,) * 3
_CHECKED = 4  # images on which results are compared
_EXPORT = 1e-4  # of the largest logit: the exported CNN against torch
_ROUGH = 0.1  # alike, of the int8 CNN, mean over all logits: random filters gave 0.003 to 0.005
_CALIBRATION = 64  # random images: as many as give every tensor a range

Array = Any


class Row(NamedTuple):
    """Calls of one contestant. `ratio`: the adder network's time over this one's: median of the rounds, 10, 90 %."""

    contestant: str
    batch: int
    rounds: int
    median_s: float
    p10_s: float
    p90_s: float
    images_per_s: float
    ratio: float
    ratio_p10: float
    ratio_p90: float


def measure_infer(options: InferOptions, note: Callable[[str], None]) -> dict[str, Any]:
    """Checks the integer network against the reference and the exported CNN against torch, then times all in turns.

    The CNN's arrays are normalised float32 images, prepared beforehand; the integer network takes pixels.

    Args:
        options: what to measure.
        note: called with a sentence after each part.

    Returns:
        The report: `machine`, `settings`, `rows` (`Row`), `bytes` (sizes on disk), `operations`, `energy`, `summary`;
        plain values alone.

    Raises:
        ImportError: ONNX Runtime is wanted and not installed.
        ValueError: `net` is neither a network nor a file of one.
        WrongResult: the integer network differs from the reference in any bit, or the exported CNN from torch.
    """
    if options.onnxruntime:
        onnx_twin.require()
    with thread_count(options.threads) as threads, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = _file(options.net, folder)
        net = runtime.load(path)
        _check_own(path, net)
        note(f"{net.name}: the integers are the reference's on {_CHECKED} images")
        adder, conv = (
            models.create(net.name, layer, len(net.classes), net.channels).eval() for layer in ("adder", "conv")
        )
        calls: dict[str, Callable[[Array], object]] = {TORCH: _torch_call(conv)}
        sizes, digest = {OWN: path.stat().st_size}, hashlib.sha256(path.read_bytes()).hexdigest()
        if options.onnxruntime:
            files = _export(conv, net, folder)
            sizes |= {name: file.stat().st_size for name, file in files.items()}
            calls |= {name: onnx_twin.session(file, threads) for name, file in files.items()}
            _check_export(calls, net)
            note(f"{net.name}: the CNN is exported, and quantised to int8")
        rows: list[Row] = []
        for batch in options.batches:
            rows += _time(net, calls, batch, threads, options.rounds)
            note(f"{net.name}: timed {options.rounds} rounds of {batch} images")
        machine = record.machine(threads) | ({"onnxruntime": onnx_twin.version()} if options.onnxruntime else {})
        image = torch.zeros(1, net.channels, net.height, net.width)
        counts = {OWN: operations.count(adder, image), TORCH: operations.count(conv, image)}
        multiplier_free = bool(net.header["multiplier_free"])
    return {
        "bench": "infer",
        "machine": machine,
        "file_sha256": digest,
        "settings": options.model_dump() | {"network": net.name, "image": [net.height, net.width, net.channels]},
        "rows": [row._asdict() for row in rows],
        "bytes": sizes,
        "operations": {name: found._asdict() for name, found in counts.items()},
        "energy": {
            f"{name.split()[0]} {kind}": operations.microjoules(
                found, kind, multiplier_free and name == OWN and kind == "int8"
            )
            for name, found in counts.items()
            for kind in ("int8", "float32")
        },
        "summary": {
            f"batch {b}": {row.contestant: row.ratio for row in rows if row.batch == b} for b in options.batches
        },
    }


def _file(net: str, folder: Path) -> Path:
    """The file `net`, or a new one of the network of this name with random filters."""
    if net not in models.names():
        if not Path(net).is_file():
            raise ValueError(
                f"`net` (={net}) must be a file that `adderkit quantize` wrote, or one of: {', '.join(models.names())}"
            )
        return Path(net)
    torch.manual_seed(0)
    network = models.create(net, "adder")
    pixels = torch.randint(256, (_CALIBRATION, _CHANNELS, _SIZE, _SIZE), dtype=torch.uint8)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # one pass sets the statistics: an adder layer's outputs are far from 0
    with torch.no_grad():
        network.train()(normalise(pixels, _MEAN, _STD))
    fused = quant.fuse(network.eval(), _SIZE, _SIZE)
    simulation, largest = quant.calibrate(fused, pixels, _MEAN, _STD, 8, False)
    classes = tuple(map(str, range(network.num_classes)))
    info = NetworkInfo(net, "adder", "random", classes, _CHANNELS, _SIZE, _SIZE, _MEAN, _STD)
    path = folder / "random.adk"
    quant.write(quant.to_integers(simulation, info, largest, {}), path)
    return path


def _check_own(path: Path, net: runtime.Net) -> None:
    images = _images(net, _CHECKED)
    if not numpy.array_equal(net(images), reference.run(quant.read(path), images)):
        raise WrongResult(f"{path.name}: the logits differ from those of the reference in integers: not timed")


def _torch_call(conv: models.Network) -> Callable[[Array], Array]:
    conv = conv.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def call(images: Array) -> Array:
        with torch.inference_mode():
            return conv(torch.from_numpy(images).contiguous(memory_format=torch.channels_last)).numpy()

    return call


def _export(conv: models.Network, net: runtime.Net, folder: Path) -> dict[str, Path]:
    files = {FLOAT: folder / "float32.onnx", INT8: folder / "int8.onnx"}
    onnx_twin.export(conv, torch.from_numpy(_normalised(_images(net, 2))), files[FLOAT])
    batches = [_normalised(_images(net, _CALIBRATION))]
    onnx_twin.quantise(files[FLOAT], files[INT8], batches)
    return files


def _check_export(calls: dict[str, Callable[[Array], Any]], net: runtime.Net) -> None:
    images = _normalised(_images(net, _CHECKED))
    expected = calls[TORCH](images)
    scale = abs(expected).max()
    error = float(abs(calls[FLOAT](images) - expected).max() / scale)
    if not error <= _EXPORT:
        raise WrongResult(f"the exported CNN is off by {error:.2g} of its largest logit, allowed {_EXPORT:.0e}")
    error = float(abs(calls[INT8](images) - expected).mean() / scale)
    if not error <= _ROUGH:
        raise WrongResult(f"the int8 CNN is off by {error:.2g} of the largest logit, allowed {_ROUGH}")


def _time(
    net: runtime.Net, calls: dict[str, Callable[[Array], object]], batch: int, threads: int, rounds: int
) -> list[Row]:
    pixels = _images(net, batch)
    floats = _normalised(pixels)
    contestants: dict[str, Callable[[], object]] = {OWN: lambda: net(pixels, threads=threads)}
    for name, call in calls.items():
        contestants[name] = lambda call=call: call(floats)
    seconds = short_turns(contestants, rounds)
    return [_row(name, batch, seconds[name], seconds[OWN]) for name in contestants]


def _row(contestant: str, batch: int, seconds: list[float], own: list[float]) -> Row:
    taken = spread(seconds)
    ratios = spread([a / b for a, b in zip(own, seconds, strict=True)])
    return Row(
        contestant=contestant,
        batch=batch,
        rounds=len(seconds),
        median_s=taken.median,
        p10_s=taken.p10,
        p90_s=taken.p90,
        images_per_s=batch / taken.median,
        ratio=ratios.median,
        ratio_p10=ratios.p10,
        ratio_p90=ratios.p90,
    )


def _images(net: runtime.Net, count: int) -> Array:
    """Random pixels, the same for every contestant."""
    shape = (count, net.height, net.width, net.channels)
    return numpy.random.default_rng(count).integers(0, 256, shape, dtype=numpy.uint8)


def _normalised(pixels: Array) -> Array:
    """As a loader hands them to a CNN: float32, (N, C, H, W)."""
    channels = pixels.shape[3]
    floats = normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2), _MEAN[:1] * channels, _STD[:1] * channels)
    return numpy.ascontiguousarray(floats.numpy())
