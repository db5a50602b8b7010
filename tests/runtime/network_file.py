"""Files of integer networks, written from the description of the format alone, and what such a network computes.

Neither adderkit's writer nor its reader has a part in this: json, hashlib and NumPy do it all.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

DTYPES = {"uint8": "U8", "int8": "I8", "int32": "I32", "int64": "I64"}
Arrays = dict[str, np.ndarray]


def table(arrays: Arrays) -> tuple[dict[str, Any], bytes]:
    """The header's entries and the data: larger numbers first, so that all are aligned."""
    entries, data = {}, b""
    for name in sorted(arrays, key=lambda name: (-arrays[name].itemsize, name)):
        array = np.ascontiguousarray(arrays[name])
        raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        entries[name] = {"dtype": DTYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
        data += raw
    return entries, data


def sealed(header: bytes, data: bytes, at: int | None = None) -> bytes:
    """A file with a right checksum: the header's 64 zeros, first ones or at a place, are replaced by it."""
    header += b" " * (-len(header) % 8)
    whole = len(header).to_bytes(8, "little") + header + data
    at = whole.find(b"0" * 64) if at is None else at
    return whole[:at] + hashlib.sha256(whole).hexdigest().encode() + whole[at + 64 :] if at >= 0 else whole


def encode(network: dict[str, Any] | str, arrays: Arrays, /, **metadata: Any) -> bytes:
    """A whole file. `metadata` replaces texts of `__metadata__`; None leaves one out."""
    text = network if isinstance(network, str) else json.dumps(network)
    facts = {"format": "adderkit-integer-network", "version": "1", "sha256": "0" * 64, "network": text} | metadata
    entries, data = table(arrays)
    header = {"__metadata__": {key: value for key, value in facts.items() if value is not None}, **entries}
    return sealed(json.dumps(header).encode(), data)


def repaired(data: bytes) -> bytes:
    """The same file with the checksum that its content has now."""
    mark = b'"sha256": "'
    at = data.find(mark) + len(mark)
    zeroed = data[:at] + b"0" * 64 + data[at + 64 :]
    return data[:at] + hashlib.sha256(zeroed).hexdigest().encode() + data[at + 64 :]


class Builder:
    """Draws a network layer by layer."""

    def __init__(self, seed: int, height: int = 9, width: int = 7, channels: int = 3, bits: int = 8) -> None:
        self.rng = np.random.default_rng(seed)
        self.bits = bits
        self.arrays: Arrays = {}
        self.layers: list[dict[str, Any]] = []
        self.shapes = [(height, width, channels)]
        self.highs = [255]
        self.pads: dict[int, np.ndarray] = {}

    def pad(self, tensor: int) -> np.ndarray:
        """Of a tensor; all who read it agree."""
        channels = self.shapes[tensor][2]
        self.pads.setdefault(tensor, self.rng.integers(0, self.highs[tensor] + 1, channels).astype(np.uint8))
        return self.pads[tensor]

    def weighted(
        self, op: str, out_channels: int, tensor: int, kernel=(3, 3), stride=(1, 1), padding=(1, 1), residual: int = -1
    ) -> int:
        """An adder layer or a convolution; the number of the tensor that it makes."""
        index, channels = len(self.layers), self.shapes[tensor][2]
        shape = (out_channels, *kernel, channels)
        terms, high = kernel[0] * kernel[1] * channels, self.highs[tensor]
        if op == "adder":
            self.arrays[f"{index}.weight"] = self.rng.integers(0, min(high, 2**self.bits - 1) + 1, shape).astype(
                np.uint8
            )
            mean, spread = terms * high / 3, np.sqrt(terms) * high / 4
        else:
            self.arrays[f"{index}.weight"] = self.rng.integers(-128, 128, shape).astype(np.int8)
            mean, spread = -terms * high / 4, np.sqrt(terms) * high * 50
        self.arrays[f"{index}.pad"] = self.pad(tensor)
        top, shift = 2**self.bits - 1, int(self.rng.integers(12, 20))
        sign = -1 if op == "adder" else 1
        multiplier = sign * np.round(2**shift * top / (4 * spread) * self.rng.uniform(0.5, 1.5, out_channels))
        offset = np.round(2**shift * top * self.rng.uniform(0.2, 0.6, out_channels) - multiplier * mean)
        self.arrays[f"{index}.multiplier"] = multiplier.astype(np.int32)
        self.arrays[f"{index}.offset"] = offset.astype(np.int64) + 2 ** (shift - 1)
        low = int(self.rng.integers(0, 3))
        layer = {"op": op, "name": f"layer{index}", "input": tensor, "residual": residual, "out_channels": out_channels}
        layer |= {"kernel": list(kernel), "stride": list(stride), "padding": list(padding), "shift": shift}
        layer |= {"low": low, "high": top, "residual_multiplier": 2**shift // 2 if residual >= 0 else 0}
        return self._append(layer, self._windows(tensor, kernel, stride, padding, out_channels), top)

    def max_pool(self, tensor: int, kernel=(3, 3), stride=(2, 2), padding=(1, 1)) -> int:
        layer = {"op": "max_pool", "name": "pool", "input": tensor}
        layer |= {"kernel": list(kernel), "stride": list(stride), "padding": list(padding)}
        shape = self._windows(tensor, kernel, stride, padding, self.shapes[tensor][2])
        return self._append(layer, shape, self.highs[tensor])

    def average_pool(self, tensor: int) -> int:
        index, (height, width, channels) = len(self.layers), self.shapes[tensor]
        self.arrays[f"{index}.multiplier"] = np.array([2**20 * 32767 // (255 * height * width)], np.int32)
        self.arrays[f"{index}.offset"] = np.array([2**19], np.int64)
        layer = {"op": "average_pool", "name": "mean", "input": tensor, "shift": 20, "low": 0, "high": 32767}
        return self._append(layer, (1, 1, channels), 32767)

    def classifier(self, classes: int, tensor: int) -> None:
        index, (height, width, channels) = len(self.layers), self.shapes[tensor]
        weight = self.rng.integers(-128, 128, (classes, height, width, channels)).astype(np.int8)
        self.arrays[f"{index}.weight"] = weight
        self.arrays[f"{index}.multiplier"] = self.rng.integers(-(2**20), 2**20, classes).astype(np.int32)
        self.arrays[f"{index}.offset"] = self.rng.integers(-(2**40), 2**40, classes).astype(np.int64)
        layer = {"op": "classifier", "name": "fc", "input": tensor, "out_channels": classes, "shift": 21}
        self._append(layer, (1, 1, classes), 0)

    def network(self, **facts: Any) -> dict[str, Any]:
        height, width, channels = self.shapes[0]
        classes = [f"class {k}" for k in range(self.shapes[-1][2])]
        described = {"name": "drawn", "dataset": "noise", "classes": classes, "channels": channels, "height": height}
        described |= {"width": width, "bits": self.bits, "multiplier_free": False, "logit_shift": 14}
        return described | {"layers": self.layers} | facts

    def _windows(self, tensor, kernel, stride, padding, channels):
        sizes = zip(self.shapes[tensor][:2], kernel, stride, padding, strict=True)
        height, width = ((size + 2 * p - k) // s + 1 for size, k, s, p in sizes)
        return height, width, channels

    def _append(self, layer: dict[str, Any], shape: tuple[int, int, int], high: int) -> int:
        self.layers.append(layer)
        self.shapes.append(shape)
        self.highs.append(high)
        return len(self.layers)


def drawn(seed: int = 0, **sizes: Any) -> tuple[dict[str, Any], Arrays]:
    """A network with every kind of layer: stem, block with a residual, projection with stride, pools, classifier."""
    build = Builder(seed, **sizes)
    x = build.weighted("convolution", 6, 0)
    x = build.max_pool(x, stride=(1, 1)) if seed % 2 else x
    y = build.weighted("adder", 6, x)
    y = build.weighted("adder", 6, y, residual=x)
    shortcut = build.weighted("adder", 9, y, kernel=(1, 1), stride=(2, 2), padding=(0, 0))
    z = build.weighted("adder", 9, y, stride=(2, 2))
    z = build.weighted("adder", 9, z, kernel=(3, 1), padding=(1, 0), residual=shortcut)
    z = build.average_pool(z) if seed % 3 else build.max_pool(z, kernel=(2, 2), padding=(1, 1))
    build.classifier(5, z)
    return build.network(), build.arrays


def tangled(seed: int) -> tuple[dict[str, Any], Arrays]:
    """A network whose tensors have several readers, with borders of different widths, some of them without a border."""
    rng = np.random.default_rng(seed)
    height, width, channels = (int(rng.integers(1, most)) for most in (14, 18, 6))
    build = Builder(seed, height=height, width=width, channels=channels, bits=int(rng.choice([8, 8, 5])))
    x = build.weighted("convolution", int(rng.integers(1, 20)), 0)
    for _ in range(int(rng.integers(1, 4))):
        wide, stride = int(rng.integers(1, 35)), (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
        kernels = [(int(rng.choice([1, 3, 5])), int(rng.choice([1, 3, 5]))) for _ in range(2)]
        paddings = [(rows // 2, columns // 2) for rows, columns in kernels]
        first, second = (str(op) for op in rng.choice(["adder", "adder", "convolution"], 2))
        a = build.weighted(first, wide, x, kernels[0], stride, paddings[0])
        b = build.max_pool(x, stride=(1, 1)) if rng.integers(2) else build.weighted("adder", int(rng.integers(1, 9)), x)
        x = build.weighted(second, wide, b, kernels[1], stride, paddings[1], residual=a)
    if rng.integers(2):
        x = build.average_pool(x)
    build.classifier(int(rng.integers(1, 12)), x)
    for index, layer in enumerate(build.layers):
        if layer.get("padding") == [0, 0] and f"{index}.pad" in build.arrays:  # counts for nothing
            build.arrays[f"{index}.pad"] = 255 - build.arrays[f"{index}.pad"]
    return build.network(), build.arrays


def evaluated(network: dict[str, Any], arrays: Arrays, image: np.ndarray) -> list[np.ndarray]:
    """Every tensor of one image (H, W, C), in int64; logits are `tensors[-1] / 2**logit_shift`."""
    tensors = [image.astype(np.int64)]
    for index, layer in enumerate(network["layers"]):
        x, op = tensors[layer["input"]], layer["op"]
        part = {name: arrays[f"{index}.{name}"].astype(np.int64) for name in ("weight", "pad", "multiplier", "offset")
                if f"{index}.{name}" in arrays}  # fmt: skip
        if op == "average_pool":
            total = x.sum((0, 1), keepdims=True)
        elif op == "classifier":
            total = (x * part["weight"]).sum((1, 2, 3))[None, None]
        else:
            (top, left), kernel = layer["padding"], layer["kernel"]
            filler = part["pad"] if op != "max_pool" else np.full(x.shape[2], -1)
            padded = np.broadcast_to(filler, (x.shape[0] + 2 * top, x.shape[1] + 2 * left, x.shape[2])).copy()
            padded[top : top + x.shape[0], left : left + x.shape[1]] = x
            windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(0, 1))  # type: ignore[call-overload]
            windows = windows[:: layer["stride"][0], :: layer["stride"][1]].transpose(0, 1, 3, 4, 2)[:, :, None]
            if op == "max_pool":
                tensors.append(windows[:, :, 0].max((2, 3)))
                continue
            total = (np.abs(windows - part["weight"]) if op == "adder" else windows * part["weight"]).sum((3, 4, 5))
        value = part["multiplier"] * total + part["offset"]
        if layer.get("residual", -1) >= 0:
            value = value + layer["residual_multiplier"] * tensors[layer["residual"]]
        value >>= layer["shift"]
        low, high = (-(2**24) + 1, 2**24 - 1) if op == "classifier" else (layer["low"], layer["high"])
        tensors.append(np.clip(value, low, high))
    return tensors
