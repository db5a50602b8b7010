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
        if layer["op"] != "classifier":
            continue
        x = tensors[layer["input"]].astype(np.int64)
        sums = (x[:, None] * arrays["weight"]).sum((2, 3, 4))
        out = (sums * arrays["multiplier"] + arrays["offset"]) >> layer["shift"]
        assert np.array_equal(np.clip(out, layer["low"], layer["high"]), tensors[layer["output"]].reshape(out.shape))
    files = {path.name for path in (tmp_path / "vectors").iterdir()}
    assert {"layer3.weight.hex", "layer3.pad.npy", "layer4.offset.hex", "tensor6.npy"} <= files
    assert not any(name.endswith(".tmp") for name in files)
