"""Measurements: layers against convolutions and the older formulations, training steps against the CNN twin's."""

from adderkit.bench.config import OpsOptions, TrainOptions
from adderkit.bench.figure import draw_roofline
from adderkit.bench.ops import measure_ops
from adderkit.bench.training import measure_train
from adderkit.bench.verify import WrongResult

__all__ = ["OpsOptions", "TrainOptions", "WrongResult", "draw_roofline", "measure_ops", "measure_train"]
