"""The options of `adderkit quantize`."""

from __future__ import annotations

from pydantic import Field

from adderkit.data import DataConfig
from adderkit.options import Options


class QuantizeOptions(Options):
    """How a trained network becomes integers."""

    bits: int = Field(default=8, ge=2, le=8, description="of the activations and filters of adder layers")
    multiplier_free: bool = Field(default=False, description="powers of two for every multiplier")
    calibration_images: int = Field(default=1024, ge=2, description="training images that ranges are chosen on")
    finetune_epochs: int = Field(default=0, ge=0, description="passes over the training images with integers simulated")
    data: DataConfig = Field(default=DataConfig(), description="The images; default: those of the run")
