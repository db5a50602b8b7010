"""The configuration of a run: what a recipe holds and what the command line overrides."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationInfo, create_model, field_validator

from adderkit import models, strict_yaml
from adderkit.data import DataConfig
from adderkit.distill import method_names, method_type
from adderkit.options import Options, brief
from adderkit.paths import shown

_LONGEST_RECIPE = 2**16  # characters: the longest of ours has 3,000


class BaseConfig(Options):
    """Every key but the groups of the methods' own options."""

    method: str = Field(default="pkkd", description="how the student is trained")
    student: str = Field(default="resnet8", description="the network to train")
    layer: Literal["adder", "conv"] = Field(default="adder", description="the student's operator")
    teacher: str | None = Field(
        default=None, description="the teacher's network, convolutional; default: the student's twin"
    )
    teacher_run: Path | None = Field(
        default=None, description="folder of a finished run, or of imported weights: its student is the fixed teacher"
    )
    start: Literal["own", "teacher"] = Field(
        default="own",
        description="initial weights of the student: random | those that its twin, the teacher, has when the student's"
        " training begins, adder filters at mean 0 and deviation 1",
    )
    epochs: int = Field(default=40, ge=1, description="passes over the training images")
    batch_size: int = Field(default=64, ge=2, description="images per step, of all processes; BatchNorm needs 2")
    accumulate: int = Field(default=1, ge=1, description="parts that each batch is done in, one after the other")
    sync_batchnorm: bool = Field(
        default=True, description="batch normalisation over all processes; off: each for itself"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="of initial values, order and augmentation")
    lr: float = Field(default=0.1, ge=0, description="initial learning rate of SGD; a cosine takes it to 0")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(default=5e-4, ge=0, description="of SGD")
    eta: float = Field(default=0.2, gt=0, description="the adder layers' adaptive local learning rate")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where to train; auto: cuda where there is one"
    )
    cuda_graph: bool = Field(default=True, description="replay the step as one CUDA graph, on one GPU")
    teacher_autocast: bool = Field(
        default=False, description="the teacher's forward pass in bfloat16, in the steps that it teaches"
    )
    test_every: int = Field(default=1, ge=1, description="epochs from test to test; the last is always tested")
    save_every: int = Field(
        default=1, ge=1, description="epochs from checkpoint to checkpoint; the last is always saved"
    )
    checkpoint_minutes: float = Field(
        default=5.0, gt=0, description="between checkpoints at the most, within an epoch too"
    )
    keep_checkpoints: int = Field(default=3, ge=1, description="how many checkpoints stay; a damaged one falls back")
    data: DataConfig = Field(default=DataConfig(), description="The images")

    @field_validator("method", "student", "teacher")
    @classmethod
    def _is_known(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None:
            known = method_names() if info.field_name == "method" else models.names()
            if value not in known:
                raise ValueError(f"must be one of {', '.join(known)}")
        return value

    @field_validator("teacher_run")
    @classmethod
    def _is_absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    @property
    def teacher_network(self) -> str:
        """The teacher's network: `teacher`, or the student's twin."""
        return self.teacher or self.student

    def method_options(self) -> Options:
        """The options of the chosen method."""
        return getattr(self, self.method, None) or method_type(self.method).Options()


@cache
def config_type() -> type[BaseConfig]:
    """`TrainConfig`: the base with a group of options per registered method that has any."""
    groups: dict[str, Any] = {}
    for name in method_names():
        options = method_type(name).Options
        if name in BaseConfig.model_fields:
            raise ValueError(f"the method {name!r} has the name of a key that every run has: rename the method")
        if options.model_fields:
            groups[name] = (options, Field(options(), description=(options.__doc__ or name).strip()))
    return create_model("TrainConfig", __base__=BaseConfig, __doc__="Trains a network.", **groups)


def load_recipe(path: Path) -> BaseConfig:
    """Reads a YAML recipe. YAML tags construct nothing: plain mappings, lists and scalars only.

    Raises:
        ValueError: no such file, no YAML, no mapping, unknown keys, impossible values; the text names the file.
    """
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise ValueError(f"recipe `{shown(path)}` can't be read: it is no regular file")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_LONGEST_RECIPE + 1)
    except OSError as error:
        raise ValueError(f"recipe `{shown(path)}` can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"recipe `{shown(path)}` can't be read: {error}") from None
    if len(text) > _LONGEST_RECIPE:
        raise ValueError(f"recipe `{shown(path)}` can't be a recipe: it has more than {_LONGEST_RECIPE} characters")
    try:
        values = strict_yaml.load(text)
    except ValueError as error:
        raise ValueError(f"recipe `{shown(path)}` is no YAML: {error}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ValueError(f"recipe `{shown(path)}` must be a mapping of keys to values, but is {type(values).__name__}")
    for key in [*values, *(key for group in values.values() if isinstance(group, dict) for key in group)]:
        if not isinstance(key, str):
            raise ValueError(f"recipe `{shown(path)}`: unknown key `{brief(key)}`: keys are words")
    try:
        return config_type()(**values)
    except ValueError as error:
        raise ValueError(f"recipe `{shown(path)}`: {error}") from None


def to_values(config: BaseConfig) -> dict[str, Any]:
    """The configuration as plain values, without the options of methods that it does not use."""
    others = {name for name in method_names() if name != config.method}
    return config.model_dump(mode="json", exclude=others & set(type(config).model_fields))


def to_yaml(config: BaseConfig) -> str:
    """The configuration as a recipe."""
    return yaml.safe_dump(to_values(config), sort_keys=False)
