"""Golden vectors: a reader that knows the manifest alone computes every layer again."""

from __future__ import annotations

import json

import nets
import numpy as np

from adderkit.quant import reference, write_vectors


def read_hex(path, dtype, shape):
    numbers = [int(line, 16) for line in path.read_text().splitlines()]
    unsigned = np.array(numbers, f"u{np.dtype(dtype).itemsize}")
    return unsigned.view(dtype).reshape(shape)


def computed(layer, arrays, x, residual):
    """A layer's output by what the manifest says: `sum` of the operation, then `epilogue`."""
    if layer["op"] == "average_pool":
        sums = x.sum((1, 2), keepdims=True)
    elif layer["op"] == "classifier":
        sums = np.einsum("nhwc,ohwc->no", x, arrays["weight"].astype(np.int64))[:, None, None]
    else:
        (top, left), (down, across) = layer["padding"], layer["stride"]
        count, rows, columns, channels = x.shape
        padded = np.empty((count, rows + 2 * top, columns + 2 * left, channels), np.int64)
        padded[:] = arrays.get("pad", -1)  # below all values: no tap of a maximum
        padded[:, top : top + rows, left : left + columns] = x
        windows = np.lib.stride_tricks.sliding_window_view(padded, layer["kernel"], axis=(1, 2))
        windows = windows[:, ::down, ::across].transpose(0, 1, 2, 4, 5, 3)  # (image, row, column, *kernel, channel)
        if layer["op"] == "max_pool":
            return windows.max((3, 4))
        windows, weight = windows[:, :, :, None], arrays["weight"].astype(np.int64)
        terms = np.abs(windows - weight) if layer["op"] == "adder" else windows * weight
        sums = terms.sum((4, 5, 6))
    out = arrays["multiplier"].astype(np.int64) * sums + arrays["offset"] + layer["residual_multiplier"] * residual
    return np.clip(out >> layer["shift"], layer["low"], layer["high"])


def test_text_and_arrays_hold_what_the_reference_makes(tmp_path):
    network = nets.integer_network(1)
    images = np.random.default_rng(1).integers(0, 256, (2, 7, 6, 3)).astype(np.uint8)
    write_vectors(network, images, tmp_path / "vectors")
    manifest = json.loads((tmp_path / "vectors" / "manifest.json").read_text())
    made = reference.tensors(network, images)
    tensors = []
    for entry, expected in zip(manifest["tensors"], made, strict=True):
        array = np.load(tmp_path / "vectors" / f"{entry['name']}.npy")
        assert array.dtype == expected.dtype and np.array_equal(array, expected)
        text = read_hex(tmp_path / "vectors" / f"{entry['name']}.hex", entry["dtype"], entry["shape"])
        assert text.dtype == expected.dtype and np.array_equal(text, expected)
        tensors.append(text)
    for layer in manifest["layers"]:
        arrays = {
            key: read_hex(tmp_path / "vectors" / f"{entry['name']}.hex", entry["dtype"], entry["shape"])
            for key, entry in layer["arrays"].items()
        }
        residual = tensors[layer["residual"]].astype(np.int64) if layer["residual"] >= 0 else 0
        found = computed(layer, arrays, tensors[layer["input"]].astype(np.int64), residual)
        assert np.array_equal(found, tensors[layer["output"]]), layer["name"]
    files = {path.name for path in (tmp_path / "vectors").iterdir()}
    assert {"layer3.weight.hex", "layer3.pad.npy", "layer4.offset.hex", "tensor6.npy"} <= files
    assert not any(name.endswith(".tmp") for name in files)
