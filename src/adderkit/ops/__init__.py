"""The adder operation: `adder2d` with surrogate gradients, and the kernels behind it."""

from __future__ import annotations

from adderkit.ops.backends import Backend, backends
from adderkit.ops.schema import adder2d

__all__ = ["Backend", "adder2d", "backends"]
