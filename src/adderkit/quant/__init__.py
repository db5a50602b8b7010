"""Integer networks: calibration, folding to integers, fine-tuning, the file, the reference in NumPy."""

from __future__ import annotations

from adderkit.quant.calibration import calibrate
from adderkit.quant.file import encode, read, write
from adderkit.quant.folding import to_integers
from adderkit.quant.fusing import fuse
from adderkit.quant.network import IntegerLayer, IntegerNetwork
from adderkit.quant.options import QuantizeOptions
from adderkit.quant.pipeline import Result, calibration_images, quantize
from adderkit.quant.vectors import write_vectors

__all__ = [
    "IntegerLayer",
    "IntegerNetwork",
    "QuantizeOptions",
    "Result",
    "calibrate",
    "calibration_images",
    "encode",
    "fuse",
    "quantize",
    "read",
    "to_integers",
    "write",
    "write_vectors",
]
