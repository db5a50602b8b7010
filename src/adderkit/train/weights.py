"""Trained networks as files: safetensors with all that is needed to build and feed them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from adderkit import models
from adderkit.data import ImageData
from adderkit.models import Network
from adderkit.train.checkpoint import write_atomically

_FORMAT = "adderkit-network-1"


@dataclass(frozen=True)
class NetworkInfo:
    """What a file of weights says of its network.

    Attributes:
        network: name for `models.create`.
        layer: "adder" or "conv".
        dataset: what it was trained on.
        classes: their names, in the order of the logits.
        in_channels, height, width: of the images.
        mean, std: per channel, of images in [0, 1].
    """

    network: str
    layer: Literal["adder", "conv"]
    dataset: str
    classes: tuple[str, ...]
    in_channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, network: Network, data: ImageData) -> NetworkInfo:
        return cls(
            network=network.name,
            layer=network.layer,
            dataset=data.name,
            classes=tuple(data.classes),
            in_channels=data.channels,
            height=data.height,
            width=data.width,
            mean=tuple(data.mean),
            std=tuple(data.std),
        )


def save_network(path: Path, network: Network, info: NetworkInfo) -> None:
    """Writes a network's parameters and buffers, with `info` in the header, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    metadata = {"format": _FORMAT, "network": TypeAdapter(NetworkInfo).dump_json(info).decode()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_network(path: Path) -> tuple[Network, NetworkInfo]:
    """Builds a network from a file of weights, on the CPU and in evaluation mode.

    Raises:
        ValueError: a file that is missing, damaged, foreign, or does not fit the network that it names.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"weights `{path}` can't be read: {error}") from None
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"weights `{path}`: format {metadata.get('format')!r}, but this version reads {_FORMAT!r}")
    try:
        info = TypeAdapter(NetworkInfo).validate_json(metadata["network"])
        network = models.create(info.network, info.layer, len(info.classes), info.in_channels)
        network.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"weights `{path}` do not fit their network: {error}") from None
    return network.eval(), info
