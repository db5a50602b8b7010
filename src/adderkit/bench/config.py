"""The options of `adderkit bench`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from adderkit.options import Options

Pass = Literal["forward", "input_gradient", "forward+backward"]

MOST_THREADS = 4096
"""What the native library takes as well; more is a slip."""


class OpsOptions(Options):
    """Time adder layers against convolutions, as ratios in one run."""

    shapes: Literal["resnet20", "resnet50", "all"] = "all"
    """the distinct layers of which network: ResNet-20 on 32x32 images, ResNet-50 at 56x56 to 7x7 pixels, or both"""
    only: str = ""
    """only layers whose name contains this, as `3x3` or `64>64`"""
    batch: int = Field(default=128, ge=1)
    """images of a call"""
    threads: int | None = Field(default=None, ge=0, le=MOST_THREADS)
    """threads of adder2d and torch alike, 0: all cores; default: as many as torch takes by itself"""
    rounds: int = Field(default=9, ge=1)
    """rounds in which the contestants take turns, at most"""
    seconds: float = Field(default=2.0, gt=0)
    """time for a pass of a layer: no round starts that would exceed it, from the fourth on"""
    passes: tuple[Pass, ...] = Field(default=("forward", "input_gradient", "forward+backward"), min_length=1)
    """what to time"""
    layout: Literal["channels_last", "contiguous"] = "channels_last"
    """memory format of images, filters and gradients"""
    rivals: bool = True
    """also time `unfold` + `cdist` and the official formulation, 1 to 3 rounds on a part of the batch"""


class TrainOptions(Options):
    """Time a training step of an adder network against its CNN twin's, and compare their peak memory."""

    network: str = "resnet20"
    """the network, for 32x32 images, built as adder network and as CNN"""
    batch: int = Field(default=128, ge=1)
    """images of a step"""
    threads: int | None = Field(default=None, ge=0, le=MOST_THREADS)
    """threads of both, 0: all cores; default: as many as torch takes by itself"""
    steps: int = Field(default=15, ge=1)
    """timed steps of each network; each comes after one that only warms up"""
    busy: bool = False
    """time once more while another process keeps one core busy"""
    memory: bool = True
    """also measure the peak memory of each network in processes of its own (Linux)"""


class InferOptions(Options):
    """Time an integer adder network against its CNN twin in torch and ONNX Runtime."""

    net: str = "resnet20"
    """a file that `adderkit quantize` wrote, or a network's name: random filters are as fast"""
    batches: tuple[PositiveInt, ...] = Field(default=(1, 64), min_length=1)
    """images of a call"""
    threads: int | None = Field(default=None, ge=0, le=MOST_THREADS)
    """threads of all, 0: all cores; default: as many as torch takes by itself"""
    rounds: int = Field(default=21, ge=1)
    """rounds in which the contestants take turns"""
    onnxruntime: bool = True
    """also time the CNN in ONNX Runtime, float32 and int8 (extra `bench`)"""
