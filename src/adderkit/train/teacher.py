"""Where a teacher comes from: initialised beside the student, a finished run, or trained beforehand and cached."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from adderkit import models, paths
from adderkit.data import ImageData
from adderkit.distill import TeacherNeed
from adderkit.models import Network
from adderkit.train.config import BaseConfig, to_values
from adderkit.train.folder import locked
from adderkit.train.record import read_summary
from adderkit.train.weights import NetworkInfo, load_network

# Keys that change no weight of a teacher, so that runs which differ in them share one.
_NOT_IN_KEY = ("method", "layer", "teacher", "teacher_run", "device", "checkpoint_minutes", "data")


def twin(config: BaseConfig, data: ImageData) -> Network:
    """A fresh convolutional teacher, with the initial stem and classifier of a student of the same network and seed."""
    torch.manual_seed(config.seed)
    return models.create(config.teacher_network, "conv", num_classes=len(data.classes), in_channels=data.channels)


def teacher_for(
    need: TeacherNeed,
    config: BaseConfig,
    data: ImageData,
    train_first: Callable[[BaseConfig, Path], object],
) -> Network | None:
    """The teacher that a method needs, on the CPU.

    Args:
        need: of the method.
        config: of the student's run.
        data: of the student's run.
        train_first: trains a configuration in a folder, or does nothing where that is finished.

    Raises:
        ValueError: a `teacher_run` where the method has no fixed teacher, or one that does not fit.
    """
    if config.teacher_run is not None and need is not TeacherNeed.FIXED:
        raise ValueError(
            f"`teacher_run` (={config.teacher_run}): `{config.method}` as configured takes no fixed teacher, but"
            f" {'one trained beside the student' if need is TeacherNeed.PROGRESSIVE else 'none'}"
        )
    if need is TeacherNeed.NONE:
        return None
    if need is TeacherNeed.PROGRESSIVE:
        return twin(config, data)
    if config.teacher_run is not None:
        return _from_run(config.teacher_run, config, data)
    alone = config.model_copy(
        update={"method": "none", "student": config.teacher_network, "layer": "conv", "teacher": None}
    )
    folder = paths.home() / "teachers" / _key(alone, data)
    with locked(folder.with_name(f"{folder.name}.cache"), wait=True):
        train_first(alone, folder)
    return _from_run(folder, config, data)


def _from_run(folder: Path, config: BaseConfig, data: ImageData) -> Network:
    if read_summary(folder) is None:
        raise ValueError(f"`teacher_run` (={folder}) holds no finished run: there is no summary.json")
    network, info = load_network(folder / "last.safetensors")
    if config.teacher is not None and info.network != config.teacher:
        raise ValueError(f"`teacher_run` (={folder}) holds a {info.network}, but `teacher` is {config.teacher}")
    expected = NetworkInfo.of(network, data)
    for key in ("classes", "in_channels", "height", "width"):
        if getattr(info, key) != getattr(expected, key):
            raise ValueError(
                f"`teacher_run` (={folder}) does not fit the data: its {key} are {getattr(info, key)!r},"
                f" those of {data.name} {getattr(expected, key)!r}"
            )
    if (info.mean, info.std) != (expected.mean, expected.std):
        warnings.warn(
            f"the teacher in {folder} was trained on images normalised by {info.mean}, {info.std};"
            f" here they are normalised by {expected.mean}, {expected.std}",
            stacklevel=2,
        )
    return network


def _key(config: BaseConfig, data: ImageData) -> str:
    """A folder's name that stands for the teacher's whole configuration, the images included."""
    values: dict[str, Any] = {key: value for key, value in to_values(config).items() if key not in _NOT_IN_KEY}
    values["data"] = [data.name, data.classes, data.mean, data.std, len(data.train), len(data.test)]
    values["augmentation"] = [config.data.crop_padding, config.data.flip, config.data.image_size]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
    return f"{data.name}-{config.student}-{digest}"
