"""Measurements: layers, training steps and integer inference against convolutions and older formulations."""

from adderkit.bench.config import InferOptions, OpsOptions, TrainOptions
from adderkit.bench.figure import draw_roofline
from adderkit.bench.inference import measure_infer
from adderkit.bench.inference_tables import draw_times
from adderkit.bench.ops import measure_ops
from adderkit.bench.training import measure_train
from adderkit.bench.verify import WrongResult

__all__ = [
    "InferOptions",
    "OpsOptions",
    "TrainOptions",
    "WrongResult",
    "draw_roofline",
    "draw_times",
    "measure_infer",
    "measure_ops",
    "measure_train",
]
