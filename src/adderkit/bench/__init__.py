"""Measurements: layers against convolutions and the older formulations, training steps against the CNN twin's."""

from adderkit.bench.config import OpsOptions, TrainOptions
from adderkit.bench.ops import measure_ops
from adderkit.bench.verify import WrongResult

__all__ = ["OpsOptions", "TrainOptions", "WrongResult", "measure_ops"]
