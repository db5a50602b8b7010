"""Trained networks as files: safetensors with all that is needed to build and feed them."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from adderkit import models
from adderkit.data import ImageData
from adderkit.models import Network
from adderkit.options import brief
from adderkit.paths import refuse_special, shown
from adderkit.train.files import write_atomically

_FORMAT_NAME = "adderkit-network-"
_FORMAT = f"{_FORMAT_NAME}1"
_DIGEST = "sha256"  # key in the metadata; files of older versions have none
_MOST_FAULTS = 5  # in a message


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
    """Writes a network's parameters and buffers, with `info` and a SHA-256 of all that in the header, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    metadata = {"format": _FORMAT, "network": TypeAdapter(NetworkInfo).dump_json(info).decode()}
    content = _sealed(save(tensors, metadata))
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _sealed(content: bytes) -> bytes:
    """With its SHA-256, and the header in order: the same weights make the same file, whatever safetensors does."""
    _, digest = _digests(io.BytesIO(content))
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"][_DIGEST] = digest
    text = _in_order(header)
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + content[start:]


def _digests(file: BinaryIO) -> tuple[str | None, str]:
    """Of a file of safetensors: the SHA-256 that its header names, and that of all the rest."""
    header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    metadata: dict[str, str] = header.get("__metadata__", {})
    named = metadata.pop(_DIGEST, None)
    digest = hashlib.sha256(_in_order(header))
    while part := file.read(2**20):
        digest.update(part)
    return named, digest.hexdigest()


def _in_order(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def load_network(path: Path) -> tuple[Network, NetworkInfo]:
    """Builds a network from a file of weights, on the CPU and in evaluation mode.

    Raises:
        ValueError: a file that is missing, damaged, foreign, of another version, or does not fit the network that it
            names; a NaN or an infinity among the weights.
    """
    name = shown(path)
    try:
        refuse_special(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        with open(path, "rb") as file:
            named, found = _digests(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"weights `{name}` can't be read: {error}") from None
    _check_format(name, metadata.get("format"))
    if named not in (None, found):
        raise ValueError(f"weights `{name}` are damaged: their checksum is not that of their content")
    try:
        info = TypeAdapter(NetworkInfo).validate_json(metadata["network"])
        _check_info(info)
        with torch.device("meta"):  # nothing is allocated before the file's shapes are known to be the network's
            expected = models.create(info.network, info.layer, len(info.classes), info.in_channels).state_dict()
        faults = _faults(expected, tensors)
        if faults:
            raise ValueError("; ".join(faults[:_MOST_FAULTS]) + ("; ..." if len(faults) > _MOST_FAULTS else ""))
        network = models.create(info.network, info.layer, len(info.classes), info.in_channels)
        network.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"weights `{name}` do not fit their network: {error}") from None
    return network.eval(), info


def same_network(one: Path, other: Path) -> bool:
    """Whether two files hold the same network with the same weights; what can't be read is not the same."""
    try:
        (network, _), (twin, _) = load_network(one), load_network(other)
    except ValueError:
        return False
    weights, others = network.state_dict(), twin.state_dict()
    is_same_kind = (network.name, network.layer, weights.keys()) == (twin.name, twin.layer, others.keys())
    return is_same_kind and all(torch.equal(weights[name], others[name]) for name in weights)


def check_fits(what: str, info: NetworkInfo, expected: NetworkInfo) -> None:
    """Refuses a network of other classes or images than the data set at hand.

    Args:
        what: the network, as the message names it.
        info: of the network.
        expected: `NetworkInfo.of` the data.
    """
    for key in ("classes", "in_channels", "height", "width"):
        here, there = getattr(info, key), getattr(expected, key)
        if here != there:
            raise ValueError(
                f"{what} does not fit the data: its {key} are {brief(here)}, those of {expected.dataset} {brief(there)}"
            )


def _check_format(name: str, found: str | None) -> None:
    if found == _FORMAT:
        return
    if (found or "").startswith(_FORMAT_NAME):
        raise ValueError(
            f"weights `{name}` have the format {found!r}, but this version of adderkit reads {_FORMAT!r}: take the"
            " version that wrote them, or a newer one"
        )
    raise ValueError(f"weights `{name}` are not of adderkit: their format is {found!r}, not {_FORMAT!r}")


def _check_info(info: NetworkInfo) -> None:
    if min(info.in_channels, info.height, info.width) < 1:
        raise ValueError(f"images of {info.in_channels} x {info.height} x {info.width} (channels x height x width)")
    if not len(info.mean) == len(info.std) == info.in_channels:
        raise ValueError(f"{len(info.mean)} means and {len(info.std)} deviations for {info.in_channels} channels")
    if not all(map(math.isfinite, info.mean)) or not all(0 < value < math.inf for value in info.std):
        raise ValueError(f"a mean {info.mean} or deviation {info.std} that can't be")


def _faults(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    faults = [f"`{name}` is missing" for name in expected if name not in tensors]
    faults += [f"there is no `{shown(name)}` in it" for name in tensors if name not in expected]
    for name, here in expected.items():
        there = tensors.get(name)
        if there is None:
            continue
        if (there.shape, there.dtype) != (here.shape, here.dtype):
            faults.append(f"`{name}` is {_described(there)}, not {_described(here)}")
        elif there.is_floating_point() and not there.isfinite().all():
            faults.append(f"`{name}` holds a NaN or an infinity: train again, or take an earlier file")
    return faults


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
