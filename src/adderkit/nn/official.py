"""Reads checkpoints of the official AdderNet code into adder networks."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adderkit.nn.base import AdderLayer
from adderkit.plain_load import Compressed, load_plain

_WRAPPERS = ("state_dict", "model", "net")
_PARALLEL = "module."
_RENAMED = {"weight": "adder", "bias": "b"}
_CLASSIFIER, _CLASSIFIER_NORM = "fc", "bn2"
_NORM_EPS = 1e-5  # BatchNorm2d's, which the official networks leave as it is


def load_official(model: nn.Module, checkpoint: str | PathLike[str] | Mapping[str, Any]) -> list[str]:
    """Fills a model with the weights of a checkpoint that the official AdderNet code wrote.

    That code calls the filters of an adder layer `adder` and its bias `b`; everything else has torch's names. The
    model is `adderkit.models.create("resnet20")`, or any module with the same paths, such as
    `adderkit.convert(torchvision.models.resnet50())` for the official ResNet-50. Every tensor is accounted for, and
    the model is changed only where all fit.

    Accepted are state dicts as they are, within a checkpoint under "state_dict", "model" or "net", and with the
    prefix "module." of DataParallel. The official classifier `fc` is a 1x1 convolution followed by the BatchNorm
    `bn2`; where the model's `fc` is a linear layer and it has no `bn2`, both are folded into it, in float64. Counters
    `num_batches_tracked`, which files of old torch versions lack, keep the model's values.

    Args:
        model: takes the weights, on its own device and in its own dtypes.
        checkpoint: a file of `torch.save`, or its content. Nothing in a file is executed (`weights_only`).

    Returns:
        A sentence for each thing that was not copied name by name.

    Raises:
        ValueError: a file that can't be read or holds more than tensors (a whole pickled module, say); or names and
            shapes that differ, with the list of all.

    Source: github.com/huawei-noah/AdderNet, `adder.py`, `resnet20.py`, `resnet50.py` as of commit 566ac59.
    """
    name = "given" if isinstance(checkpoint, Mapping) else str(checkpoint)
    content = checkpoint if isinstance(checkpoint, Mapping) else _read(Path(checkpoint))
    tensors = _tensors(content, name)
    own = model.state_dict()
    if any(isinstance(value, Tensor) and value.is_meta for value in own.values()):
        raise ValueError("`model` has parameters on the meta device: give it memory first, as by `model.to_empty`")
    adders = [path for path, module in model.named_modules(remove_duplicate=False) if isinstance(module, AdderLayer)]
    names = _official_names(own, adders)
    notes = _fold_classifier(model, tensors, names)
    _fill_counters(own, tensors, names)
    faults = _faults(own, tensors, names, set(adders))
    if faults:
        raise ValueError(f"`checkpoint` (={name}) does not fit {type(model).__name__}:\n  " + "\n  ".join(faults))
    model.load_state_dict({name: tensors[official] for official, name in names.items()})
    return notes


def _read(path: Path) -> Any:
    try:
        return load_plain(path)
    except (OSError, Compressed) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"`checkpoint` (={path}) can't be read: {why or error}") from None
    except Exception as error:  # a damaged file makes the unpickler raise anything; its name must be said
        found = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if found is None:
            raise ValueError(f"`checkpoint` (={path}) can't be read: no file of torch.save, or damaged") from None
        raise ValueError(
            f"`checkpoint` (={path}) holds pickled Python objects ({found[1]}), and reading these can run any code. "
            "Only tensors are read. If you trust the file, save its weights alone, where its code can be imported:\n"
            f"  content = torch.load({str(path)!r}, map_location='cpu', weights_only=False)\n"
            "  torch.save(content.state_dict(), 'weights.pth')  # a module; of a dictionary content['state_dict'] or so"
        ) from None


def _tensors(content: Any, name: str) -> dict[str, Tensor]:
    """The state dict within `content`, without the prefix of DataParallel."""
    if isinstance(content, Mapping):
        wrapped = [key for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        content = content[wrapped[0]] if wrapped else content
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"`checkpoint` (={name}) must hold a state dict, but holds {_describe(content)}")
    is_named_tensor = {key: isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()}
    strange = [f"{key!r}: {_describe(content[key])}" for key, is_right in is_named_tensor.items() if not is_right]
    if strange:
        raise ValueError(f"`checkpoint` (={name}) must hold named tensors only, but has {', '.join(strange)}")
    is_parallel = all(key.startswith(_PARALLEL) for key in content)
    return {key.removeprefix(_PARALLEL) if is_parallel else key: value for key, value in content.items()}


def _describe(value: Any) -> str:
    is_empty = isinstance(value, Mapping) and not value
    return f"an empty {type(value).__name__}" if is_empty else f"a {type(value).__name__}"


def _official_names(own: Mapping[str, Any], adders: list[str]) -> dict[str, str]:
    """The model's names by those that the official code gives the same tensors."""
    renamed = {_join(path, name): _join(path, official) for path in adders for name, official in _RENAMED.items()}
    return {renamed.get(name, name): name for name in own}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _fold_classifier(model: nn.Module, tensors: dict[str, Tensor], names: dict[str, str]) -> list[str]:
    """Turns the official classifier into a linear layer where the model has one; changes `tensors`."""
    linear = dict(model.named_children()).get(_CLASSIFIER)
    weight = tensors.get(f"{_CLASSIFIER}.weight")
    if not isinstance(linear, nn.Linear) or weight is None or weight.dim() != 4 or weight.shape[2:] != (1, 1):
        return []
    tensors[f"{_CLASSIFIER}.weight"] = weight = weight.flatten(1)
    notes = [f"the 1x1 convolution `{_CLASSIFIER}` became the linear layer `{_CLASSIFIER}`"]
    norm = [tensors.get(f"{_CLASSIFIER_NORM}.{name}") for name in ("weight", "bias", "running_mean", "running_var")]
    has_own_norm = any(name.startswith(f"{_CLASSIFIER_NORM}.") for name in names)
    if has_own_norm or linear.bias is None or any(tensor is None or len(tensor) != len(weight) for tensor in norm):
        return notes  # what does not fit is listed as a fault
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        tensors.pop(f"{_CLASSIFIER_NORM}.{name}", None)
    scale, shift, mean, variance = (tensor.double() for tensor in norm if tensor is not None)
    factor = scale / (variance + _NORM_EPS).sqrt()
    bias = tensors.get(f"{_CLASSIFIER}.bias")
    offset = -mean if bias is None else bias.double() - mean
    tensors[f"{_CLASSIFIER}.weight"] = factor[:, None] * weight.double()
    tensors[f"{_CLASSIFIER}.bias"] = factor * offset + shift
    return [
        f"the 1x1 convolution `{_CLASSIFIER}` and its BatchNorm `{_CLASSIFIER_NORM}` were folded into the linear layer "
        f"`{_CLASSIFIER}`: the same logits in evaluation mode; in training they are no longer normalised"
    ]


def _fill_counters(own: Mapping[str, Any], tensors: dict[str, Tensor], names: dict[str, str]) -> None:
    """torch before 0.4.1 did not count batches."""
    for official, name in names.items():
        path, _, last = official.rpartition(".")
        if last == "num_batches_tracked" and official not in tensors and _join(path, "running_mean") in tensors:
            tensors[official] = own[name]


def _faults(own: Mapping[str, Any], tensors: dict[str, Tensor], names: dict[str, str], adders: set[str]) -> list[str]:
    faults: list[str] = []
    missing = [name for name in names if name not in tensors]
    unexpected = [name for name in tensors if name not in names]
    for path in sorted({name.rpartition(".")[0] for name in missing}):
        here, there = ("adder", "weight") if path in adders else ("weight", "adder")
        mistaken = (_join(path, here), _join(path, there))
        if mistaken[0] in missing and mistaken[1] in unexpected:
            kinds = ("an adder layer", "a convolution or linear layer")
            in_model, in_file = kinds if path in adders else reversed(kinds)
            faults.append(f"`{path}` is {in_model} in the model, but {in_file} in the checkpoint")
            missing = [name for name in missing if name.rpartition(".")[0] != path]
            unexpected = [name for name in unexpected if name.rpartition(".")[0] != path]
    if missing:
        faults.append(f"missing from the checkpoint: {', '.join(missing)}")
    if unexpected:
        faults.append(f"not in the model: {', '.join(unexpected)}")
    for official in (name for name in names if name in tensors):
        here, there = own[names[official]], tensors[official]
        if here.shape != there.shape:
            faults.append(f"`{official}` has the shape {tuple(there.shape)}, in the model {tuple(here.shape)}")
        elif here.is_floating_point() != there.is_floating_point() or there.is_complex():
            faults.append(f"`{official}` has the dtype {there.dtype}, in the model {here.dtype}")
        elif there.layout is not torch.strided or there.is_quantized or there.is_meta:
            faults.append(f"`{official}` is no plain tensor, but sparse, quantized or without data")
        elif there.is_floating_point() and not there.isfinite().all():
            faults.append(f"`{official}` holds a NaN or an infinity")
    return faults
