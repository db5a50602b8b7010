"""The CNN twin in ONNX Runtime, in float32 and in int8: what an engineer would run instead."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import nn

Array = Any
"""A NumPy array."""


def require() -> None:
    """Raises ImportError, naming the extra, where ONNX Runtime or the exporter is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"`onnxruntime` (=True) needs the package {error.name}: pip install 'adderkit[bench]', or say "
            "--no_onnxruntime"
        ) from None


def version() -> str:
    import onnxruntime

    return onnxruntime.__version__


def export(network: nn.Module, image: torch.Tensor, path: Path) -> None:
    """Writes a network for batches of any size; BatchNorm is folded into the convolutions by the exporter.

    Args:
        network: in evaluation mode.
        image: an input of two images, shape (2, C, H, W).
    """
    with _silence():
        program = torch.onnx.export(
            network,
            (image,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("images")},),
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
        if program is None:
            raise RuntimeError("torch.onnx.export gave no program")
        program.save(path)


def quantise(source: Path, target: Path, batches: list[Array]) -> None:
    """Writes the int8 network: QDQ, weights int8 per channel, activations uint8, ranges from `batches`."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(batches)

        def get_next(self) -> dict[str, Array] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
            batch = next(self._left, None)
            return None if batch is None else {"images": batch}

    prepared = target.with_suffix(".prepared.onnx")
    with _silence():
        quant_pre_process(source, prepared)
        quantize_static(
            prepared,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def session(path: Path, threads: int) -> Callable[[Array], Array]:
    """Loads a network; the result takes float32 images (N, C, H, W) and returns logits."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    loaded = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: numpy.asarray(loaded.run(None, {"images": images})[0])


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Exporter and quantiser print their progress and warn about packages that are not there."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
