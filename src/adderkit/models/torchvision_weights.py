"""torchvision's weights for the convolutional twins that have its names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adderkit.models.network import Network
from adderkit.nn import load_official
from adderkit.paths import refuse_special, shown

DEFAULT = "IMAGENET1K_V1"  # the plain training, as papers compare with; V2 is a long one with many more tricks


def load_torchvision(network: Network, source: str | Path | Mapping[str, Tensor] = DEFAULT) -> list[str]:
    """Fills a convolutional twin with weights of torchvision: the same logits for the same images.

    Args:
        network: `models.create(name, "conv", 1000)`, name one of resnet18, resnet50, resnet152.
        source: a text names weights of torchvision ("IMAGENET1K_V1", "DEFAULT"), which are downloaded unless they lie
            in torch's cache already; a `Path` is a file of them (`torch.save` or safetensors); a mapping is a state
            dict.

    Returns:
        A sentence for each thing that was not copied name by name.

    Raises:
        ValueError: an adder network; weights that torchvision does not have, can't be read, or do not fit.
        ImportError: `source` is a text and torchvision is not installed.
    """
    if network.layer != "conv":
        raise ValueError(f"`network` (={network.name}) is an adder network: weights of torchvision are of convolutions")
    if isinstance(source, str):
        source = download(network.name, source)
    if isinstance(source, Path) and source.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            refuse_special(source)
            source = load_file(source)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"weights `{shown(source)}` can't be read: {error}") from None
    return load_official(network, source)  # the twin has no adder layers: names are compared as they are


def download(network: str, weights: str = DEFAULT) -> Path:
    """The file of torchvision's weights, in torch's cache; fetched where it is not there.

    Args:
        network: its name, in torchvision and here.
        weights: their name within torchvision's enumeration for that network.

    Raises:
        ValueError: torchvision has no such network or weights, or they can't be fetched, or are damaged.
        ImportError: torchvision is not installed.
    """
    url = str(_entry(network, weights).url)
    prefix = url.rpartition("-")[2].partition(".")[0]  # of the file's SHA-256: torchvision's rule for names
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=False)
        except (OSError, RuntimeError) as error:  # URLError is an OSError; RuntimeError: another hash
            raise ValueError(
                f"{url} can't be fetched ({error}); fetch it by other means and name the file, or put it to {path}"
            ) from None
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(prefix):
        raise ValueError(f"{path} is damaged: its SHA-256 begins with {found[: len(prefix)]}, not {prefix}; delete it")
    return path


def _entry(network: str, weights: str) -> Any:
    try:
        from torchvision import models  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise ImportError(f'weights of torchvision need it: pip install "adderkit[vision]" ({error})') from error
    if network not in models.list_models(module=models):
        raise ValueError(f"`network` (={network}): torchvision has no such network")
    known = models.get_model_weights(network).__members__
    if weights not in known:
        raise ValueError(f"`weights` (={shown(weights)}): torchvision has {', '.join(known)} for {network}")
    return known[weights].value
