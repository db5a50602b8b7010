"""Image data sets: one source per file, one loader that checks them before training starts."""

from __future__ import annotations

from adderkit.data.config import DataConfig
from adderkit.data.loading import ImageData, load
from adderkit.data.raw import RawData, RawSplit
from adderkit.data.registry import names, register
from adderkit.data.split import Share, Split

__all__ = ["DataConfig", "ImageData", "RawData", "RawSplit", "Share", "Split", "load", "names", "register"]
