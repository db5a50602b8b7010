"""Layers without multiplications, their way into existing models, and the check that a normalisation follows each."""

from __future__ import annotations

from adderkit.nn.conversion import convert
from adderkit.nn.layers import Adder2d, AdderLinear, adder_parameters
from adderkit.nn.normalisation import unnormalised, warn_unnormalised

__all__ = ["Adder2d", "AdderLinear", "adder_parameters", "convert", "unnormalised", "warn_unnormalised"]
