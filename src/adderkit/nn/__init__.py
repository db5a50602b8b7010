"""Layers without multiplications, and the check that each is followed by a normalisation."""

from __future__ import annotations

from adderkit.nn.layers import Adder2d, AdderLinear, adder_parameters
from adderkit.nn.normalisation import unnormalised, warn_unnormalised

__all__ = ["Adder2d", "AdderLinear", "adder_parameters", "unnormalised", "warn_unnormalised"]
