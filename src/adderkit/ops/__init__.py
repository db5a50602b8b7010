"""The adder operations: `adder2d` with surrogate gradients, its relatives, and the kernels behind them."""

from __future__ import annotations

from adderkit.ops.backends import Backend, backends, serving
from adderkit.ops.one_dimension import adder1d
from adderkit.ops.three_dimensions import adder3d
from adderkit.ops.transpose import adder_transpose2d
from adderkit.ops.two_dimensions import adder2d

__all__ = ["Backend", "adder1d", "adder2d", "adder3d", "adder_transpose2d", "backends", "serving"]
