"""Neural networks without multiplications: adder layers, their training, their distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adderkit import data as data
    from adderkit import distill as distill
    from adderkit import models as models
    from adderkit import nn as nn
    from adderkit import ops as ops
    from adderkit import runtime as runtime
    from adderkit import train as train
    from adderkit.nn import convert as convert
    from adderkit.ops import adder1d as adder1d
    from adderkit.ops import adder2d as adder2d
    from adderkit.ops import adder3d as adder3d
    from adderkit.ops import adder_transpose2d as adder_transpose2d

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "adder1d",
    "adder2d",
    "adder3d",
    "adder_transpose2d",
    "convert",
    "data",
    "distill",
    "models",
    "nn",
    "ops",
    "runtime",
    "train",
]
_OPERATIONS = ("adder1d", "adder2d", "adder3d", "adder_transpose2d")


def __getattr__(name: str) -> Any:
    """Imports on first use, so that `import adderkit` costs nothing and needs no torch."""
    from importlib import import_module

    if name in _OPERATIONS:
        return getattr(import_module("adderkit.ops"), name)
    if name == "convert":
        return import_module("adderkit.nn").convert
    if name in __all__:
        return import_module(f"adderkit.{name}")
    raise AttributeError(f"module 'adderkit' has no attribute {name!r}")
