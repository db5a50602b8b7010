"""Where a teacher comes from: initialised beside the student, a finished run, or trained beforehand and cached."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch

from adderkit import models, paths
from adderkit.data import ImageData
from adderkit.distill import TeacherNeed, method_type
from adderkit.models import Network
from adderkit.train.config import BaseConfig, load_recipe
from adderkit.train.files import make_folder, write_atomically
from adderkit.train.folder import CONFIG_FILE, IMPORT_FILE, decisive
from adderkit.train.record import read_summary, write_summary
from adderkit.train.weights import NetworkInfo, check_fits, load_network

SHARED = "ADDERKIT_SHARED"  # variable: a run that a fixed teacher's training would equal is that one; set by a table


def new_teacher(need: TeacherNeed, config: BaseConfig, data: ImageData) -> Network | None:
    """The teacher that a method needs, on the CPU; a fixed one that is yet to be trained has its initial weights.

    Raises:
        ValueError: a `teacher` or a `teacher_run` where the method has no use for it, or one that does not fit.
    """
    if config.teacher_run is not None and need is not TeacherNeed.FIXED:
        has = "no teacher" if need is TeacherNeed.NONE else "no fixed teacher, but one trained beside the student"
        raise ValueError(f"`teacher_run` (={config.teacher_run}): `{config.method}` as configured has {has}")
    if need is TeacherNeed.NONE:
        if config.teacher is not None:
            raise ValueError(f"`teacher` (={config.teacher}): `{config.method}` has no teacher")
        return None
    if config.teacher_run is not None:
        return teacher_from_run(config.teacher_run, config, data)
    # Under the student's seed a twin starts with the student's stem and classifier.
    torch.manual_seed(config.seed)
    return models.create(config.teacher_network, "conv", len(data.classes), data.channels)


def teacher_config(config: BaseConfig) -> BaseConfig:
    """The configuration of a fixed teacher that is trained beforehand: the run's own, for the CNN alone."""
    alone = {"method": "none", "student": config.teacher_network, "layer": "conv", "teacher": None}
    for key in ("eta", "teacher_autocast", "start"):  # of adder layers, of teaching: such runs share a teacher
        alone[key] = type(config).model_fields[key].default
    return config.model_copy(update=alone)


def trained_first(config: BaseConfig) -> BaseConfig | None:
    """The configuration of the teacher that a run trains beforehand or finds in the cache; None where it has none."""
    need = method_type(config.method)(config.method_options()).teacher_need
    return teacher_config(config) if need is TeacherNeed.FIXED and config.teacher_run is None else None


def identity(config: BaseConfig) -> dict[str, Any]:
    """All of a teacher's configuration that its weights depend on, but for the images: runs of one share a teacher."""
    return {key: value for key, value in decisive(config).items() if key not in ("teacher_autocast", "start")}


def is_teacher(config: BaseConfig) -> bool:
    """Whether a run is, bit for bit, the training of a fixed teacher (`teacher_config`): a CNN alone."""
    return (config.method, config.layer) == ("none", "conv")


def is_tested_alike(folder: Path, config: BaseConfig) -> bool:
    """Whether a teacher in a folder of the cache, if there is one, has the metrics that a run would have."""
    path = folder / CONFIG_FILE
    return not path.exists() or load_recipe(path).test_every == config.test_every


def take_over(folder: Path, out: Path) -> dict[str, Any]:
    """Makes the finished training of a folder that of another one, which has its configuration already.

    Returns:
        The summary, which comes last: until it is there, the other training is not finished.
    """
    summary = read_summary(folder)
    assert summary is not None
    for source in sorted(path for path in folder.rglob("*") if path.is_file()):
        inside = source.relative_to(folder)
        if inside.parts[0] not in ("checkpoints", "summary.json", CONFIG_FILE) and not inside.name.startswith("."):
            make_folder((out / inside).parent)
            write_atomically(out / inside, lambda temporary, source=source: shutil.copyfile(source, temporary))
    write_summary(out, summary)
    return summary


def cached_folder(config: BaseConfig, data: ImageData) -> Path:
    """The folder of a teacher of configuration `config`: its name stands for all that decides the teacher's weights."""
    values = {"run": identity(config), "data": data.facts()}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
    return paths.home() / "teachers" / f"{data.name}-{config.student}-{digest}"


def cached_teacher(folder: Path, config: BaseConfig, data: ImageData) -> Network | None:
    """The teacher that was trained in a folder of the cache; None where its training is not finished.

    Raises:
        ValueError: something is missing or damaged there.
    """
    try:
        return None if read_summary(folder) is None else teacher_from_run(folder, config, data)
    except ValueError as error:
        raise ValueError(
            f"the fixed teacher that was trained before can't serve: {error}; delete the folder `{folder}`, and it is"
            " trained anew"
        ) from None


def teacher_from_run(folder: Path, config: BaseConfig, data: ImageData) -> Network:
    """The student of a finished run, or imported weights, as a teacher.

    Raises:
        ValueError: no finished run, an adder network, another network than asked for, or other images.
    """
    if read_summary(folder) is None and not (folder / IMPORT_FILE).exists():
        raise ValueError(f"`teacher_run` (={folder}) holds no finished run: there is no summary.json")
    network, info = load_network(folder / "last.safetensors")
    if info.layer != "conv":
        raise ValueError(f"`teacher_run` (={folder}) holds an adder network; a teacher is convolutional")
    if config.teacher is not None and info.network != config.teacher:
        raise ValueError(f"`teacher_run` (={folder}) holds a {info.network}, but `teacher` is {config.teacher}")
    expected = NetworkInfo.of(network, data)
    check_fits(f"`teacher_run` (={folder})", info, expected)
    if (info.mean, info.std) != (expected.mean, expected.std):
        warnings.warn(
            f"the teacher in {folder} was trained on images normalised by {info.mean}, {info.std};"
            f" here they are normalised by {expected.mean}, {expected.std}",
            stacklevel=2,
        )
    return network
