"""A run's folder from weights that another program trained."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
import yaml
from pydantic import Field, field_validator

from adderkit import models
from adderkit.data import DataConfig, load
from adderkit.data.sift import describe
from adderkit.nn import load_official
from adderkit.options import Options
from adderkit.train.config import config_type, to_values
from adderkit.train.files import write_text
from adderkit.train.folder import CONFIG_FILE, IMPORT_FILE, check_new, locked
from adderkit.train.weights import NetworkInfo, save_network

_HEAD = f"# Of imported weights ({IMPORT_FILE}): what `adderkit eval` needs. No training with these options was run.\n"
_KEYS = ("student", "layer", "data")


class ImportConfig(Options):
    """What an official checkpoint does not say of itself."""

    network: str = Field(default="resnet20", description="the network that the checkpoint is of")
    data: DataConfig = Field(
        default_factory=lambda: DataConfig(name="cifar10"), description="The images that it was trained on"
    )

    @field_validator("network")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in models.names():
            raise ValueError(f"must be one of {', '.join(models.names())}")
        return value


def import_official(checkpoint: Path, config: ImportConfig, out: Path) -> list[str]:
    """Writes an official AdderNet checkpoint as the student of a run, for `adderkit eval` and `load_network`.

    The folder holds `last.safetensors`, `config.yaml` with the network and the data alone, and `imported.json` with the
    checkpoint's path and SHA-256. There is no training to go on with, and `adderkit train` refuses the folder.

    Args:
        checkpoint: as `adderkit.nn.load_official` takes it.
        config: network and data set; the data are loaded, for their classes and their normalisation.
        out: the folder, new or empty.

    Returns:
        What `adderkit.nn.load_official` says, and how many images were skipped where some were.

    Raises:
        ValueError: a checkpoint, data or a folder that can't be; nothing is written then.
    """
    check_new(out, remedy="choose another folder")
    data = load(config.data, torch.device("cpu"))
    network = models.create(config.network, "adder", len(data.classes), data.channels)
    notes = load_official(network, checkpoint)
    run = to_values(config_type()(method="none", student=config.network, data=config.data))
    source = {
        "imported_from": str(checkpoint),
        "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "notes": notes,
    }
    with locked(out):
        write_text(out / IMPORT_FILE, json.dumps(source, indent=2) + "\n")
        write_text(out / CONFIG_FILE, _HEAD + yaml.safe_dump({key: run[key] for key in _KEYS}, sort_keys=False))
        save_network(out / "last.safetensors", network, NetworkInfo.of(network, data))
    return [*notes, describe(data.skipped)] if data.skipped else notes
