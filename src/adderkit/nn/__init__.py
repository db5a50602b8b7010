"""Layers without multiplications, their way into existing models, and the check that a normalisation follows each."""

from __future__ import annotations

from adderkit.nn.base import AdderLayer, adder_parameters
from adderkit.nn.conversion import convert
from adderkit.nn.layers import Adder1d, Adder2d, Adder3d
from adderkit.nn.linear import AdderLinear
from adderkit.nn.normalisation import unnormalised, warn_unnormalised
from adderkit.nn.official import load_official
from adderkit.nn.sync_batch_norm import SyncBatchNorm, batch_norm_of_all, synchronise
from adderkit.nn.transpose import AdderTranspose2d
from adderkit.nn.twin import check_twin, start_from_twin

__all__ = [
    "Adder1d",
    "Adder2d",
    "Adder3d",
    "AdderLayer",
    "AdderLinear",
    "AdderTranspose2d",
    "SyncBatchNorm",
    "adder_parameters",
    "batch_norm_of_all",
    "check_twin",
    "convert",
    "load_official",
    "start_from_twin",
    "synchronise",
    "unnormalised",
    "warn_unnormalised",
]
