"""A run's folder from weights that another program trained."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
import yaml
from pydantic import Field, ValidationInfo, field_validator

from adderkit import models
from adderkit.data import DataConfig, load
from adderkit.data.sift import describe
from adderkit.models import torchvision_weights
from adderkit.nn import load_official
from adderkit.options import Options
from adderkit.train.config import config_type, to_values
from adderkit.train.files import write_text
from adderkit.train.folder import CONFIG_FILE, IMPORT_FILE, check_new, locked
from adderkit.train.weights import NetworkInfo, save_network

_HEAD = f"# Of imported weights ({IMPORT_FILE}): what `adderkit eval` needs. No training with these options was run.\n"
_KEYS = ("student", "layer", "data")


class ImportConfig(Options):
    """What a file of weights does not say of itself."""

    network: str | None = Field(default=None, description="the network of an official checkpoint; default: resnet20")
    torchvision: str | None = Field(
        default=None, description="instead: torchvision's network of this name, convolutional; FILE, or downloaded"
    )
    weights: str = Field(
        default=torchvision_weights.DEFAULT, description="which weights of torchvision's to download, without FILE"
    )
    data: DataConfig = Field(
        default_factory=lambda: DataConfig(name="cifar10"), description="The images that it was trained on"
    )

    @field_validator("network", "torchvision")
    @classmethod
    def _is_known(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and value not in models.names():
            raise ValueError(f"must be one of {', '.join(models.names())}")
        if info.field_name == "torchvision" and value is not None and info.data.get("network") is not None:
            raise ValueError(f"goes without `network` (={info.data['network']}), which is of an official checkpoint")
        return value


def import_weights(file: Path | None, config: ImportConfig, out: Path) -> list[str]:
    """Writes weights from elsewhere as the student of a run, for `adderkit eval`, `load_network` and `teacher_run`.

    The folder holds `last.safetensors`, `config.yaml` with the network and the data alone, and `imported.json` with the
    file's path and SHA-256. There is no training to go on with, and `adderkit train` refuses the folder.

    Args:
        file: an official checkpoint, as `adderkit.nn.load_official` takes it; with `config.torchvision` weights of that
            network, or None: torchvision's own.
        config: network and data set; the data are loaded, for their classes and their normalisation. Of torchvision's
            networks they must be the thousand classes of ImageNet in the order of their WordNet numbers.
        out: the folder, new or empty.

    Returns:
        What `adderkit.nn.load_official` says, and how many images were skipped where some were.

    Raises:
        ValueError: a file, data or a folder that can't be; nothing is written then.
        ImportError: torchvision's own weights, and torchvision is not installed.
    """
    check_new(out, remedy="choose another folder")
    data = load(config.data, torch.device("cpu"))
    layer = "conv" if config.torchvision else "adder"
    name = config.torchvision or config.network or "resnet20"
    network = models.create(name, layer, len(data.classes), data.channels)
    if config.torchvision:
        if config.data.normalisation != "imagenet":
            raise ValueError(
                f"`data.normalisation` (={config.data.normalisation}) must be imagenet: torchvision's networks were"
                " trained on images normalised so"
            )
        file = file or torchvision_weights.download(name, config.weights)
        notes = models.load_torchvision(network, file)
    elif file is None:
        raise ValueError("`file` is required: an official checkpoint. (Or `torchvision`, the name of a network there)")
    else:
        notes = load_official(network, file)
    run = to_values(config_type()(method="none", student=name, layer=layer, data=config.data))
    source = {
        "imported_from": str(file),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "notes": notes,
    }
    with locked(out):
        write_text(out / IMPORT_FILE, json.dumps(source, indent=2) + "\n")
        write_text(out / CONFIG_FILE, _HEAD + yaml.safe_dump({key: run[key] for key in _KEYS}, sort_keys=False))
        save_network(out / "last.safetensors", network, NetworkInfo.of(network, data))
    return [*notes, describe(data.skipped)] if data.skipped else notes
