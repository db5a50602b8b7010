"""An integer network as `net.adk`: safetensors with a checked header. The runtime's parser is the one that reads it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adderkit import runtime
from adderkit.quant.network import IntegerLayer, IntegerNetwork
from adderkit.train.files import write_atomically

FORMAT, VERSION = "adderkit-integer-network", "1"
_DTYPES = {"uint8": "U8", "int8": "I8", "int32": "I32", "int64": "I64"}
_PARTS = ("weight", "multiplier", "offset", "pad")
_FACTS = ("name", "dataset", "classes", "channels", "height", "width", "bits", "multiplier_free", "logit_shift")
_NO_DIGEST = "0" * 64


def write(network: IntegerNetwork, path: Path) -> None:
    """Writes the file, atomically.

    Raises:
        WriteError: the disk is full, the right to write is missing.
    """
    content = encode(network)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read(path: Path) -> IntegerNetwork:
    """Reads a file back, for the reference and for tools; what it was not read with is in `notes`.

    Raises:
        ValueError, ImportError: as `runtime.load`.
    """
    with runtime.load(path) as net:
        arrays = net.arrays()
        facts = dict(net.header)
    channels = [facts["channels"]]  # of each tensor
    layers: list[IntegerLayer] = []
    for index, layer in enumerate(facts.pop("layers")):
        layers.append(_read_layer(index, layer, arrays, channels[layer["input"]]))
        channels.append(layers[-1].out_channels)
    given: dict[str, Any] = {key: facts.pop(key) for key in _FACTS}
    given["classes"] = tuple(given["classes"])
    return IntegerNetwork(**given, layers=tuple(layers), notes=facts)


def _read_layer(index: int, facts: dict[str, Any], arrays: dict[str, NDArray[Any]], in_channels: int) -> IntegerLayer:
    """Keys that mean nothing for an operation may be absent; a pool's output has its input's channels."""
    given = {field.name: facts[field.name] for field in fields(IntegerLayer) if field.name in facts}
    given |= {key: tuple(given[key]) for key in ("kernel", "stride", "padding") if key in given}
    if facts["op"] in ("max_pool", "average_pool"):
        given["out_channels"] = in_channels
    parts: dict[str, Any] = {part: arrays.get(f"{index}.{part}") for part in _PARTS}
    return IntegerLayer(**(given | parts))


def encode(network: IntegerNetwork) -> bytes:
    """The bytes of the file: the same network makes the same bytes."""
    arrays = _arrays(network)
    entries: dict[str, Any] = {}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        entries[name] = {"dtype": _DTYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": [start, end]}
    metadata = {"format": FORMAT, "network": _dumped(header(network)), "sha256": _NO_DIGEST, "version": VERSION}
    text = _dumped({"__metadata__": metadata, **entries}).encode()
    text += b" " * (-len(text) % 8)  # arrays begin at a multiple of 8 bytes
    data = b"".join(np.ascontiguousarray(a).astype(a.dtype.newbyteorder("<")).tobytes() for a in arrays.values())
    content = len(text).to_bytes(8, "little") + text + data
    digest = hashlib.sha256(content).hexdigest().encode()
    # Quotes within the other metadata are escaped, so this stands in the header once.
    return content.replace(b'"sha256":"' + _NO_DIGEST.encode(), b'"sha256":"' + digest, 1)


def header(network: IntegerNetwork) -> dict[str, Any]:
    """What the header's `network` says, with the notes beside the keys of the format."""
    facts = {
        "name": network.name,
        "dataset": network.dataset,
        "classes": list(network.classes),
        "channels": network.channels,
        "height": network.height,
        "width": network.width,
        "bits": network.bits,
        "multiplier_free": network.multiplier_free,
        "logit_shift": network.logit_shift,
        "layers": [_layer(layer) for layer in network.layers],
    }
    return {**network.notes, **facts}


def _layer(layer: IntegerLayer) -> dict[str, Any]:
    return {
        "op": layer.op,
        "name": layer.name,
        "input": layer.input,
        "residual": layer.residual,
        "out_channels": layer.out_channels,
        "kernel": list(layer.kernel),
        "stride": list(layer.stride),
        "padding": list(layer.padding),
        "shift": layer.shift,
        "low": layer.low,
        "high": layer.high,
        "residual_multiplier": layer.residual_multiplier,
    }


def _arrays(network: IntegerNetwork) -> dict[str, NDArray[Any]]:
    """By name, the widest first, so that each is aligned."""
    found = {
        f"{index}.{key}": array
        for index, layer in enumerate(network.layers)
        for key in _PARTS
        if (array := getattr(layer, key)) is not None
    }
    return dict(sorted(found.items(), key=lambda item: -item[1].itemsize))


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
