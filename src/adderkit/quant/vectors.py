"""Golden vectors: what every layer reads and makes for some images, as NumPy arrays and as hexadecimal text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adderkit.quant.file import header
from adderkit.quant.network import LOGIT_LIMIT, IntegerNetwork
from adderkit.quant.reference import tensors
from adderkit.train.files import write_text

_SUMS = {
    "adder": "sum[o] = sum over (row, column, c) of |x - weight[o]|; a padded tap is x = pad[c]",
    "convolution": "sum[o] = sum over (row, column, c) of x * weight[o]; a padded tap is x = pad[c]",
    "max_pool": "out = the largest tap; a padded tap is no tap",
    "average_pool": "sum[c] = sum of x over the whole map; multiplier and offset are one number for all channels",
    "classifier": "sum[o] = sum over (row, column, c) of x * weight[o] over the whole input",
}
_EPILOGUE = "out = clamp((multiplier[o] * sum[o] + offset[o] + residual_multiplier * residual) >> shift, low, high)"


def write_vectors(network: IntegerNetwork, images: NDArray[np.uint8], folder: Path) -> None:
    """Writes `manifest.json`, and per array NAME.npy and NAME.hex.

    A .hex file has one number per line, in C order of the array's shape, as two's complement of the type's width: the
    format of Verilog's `$readmemh`. `tensor0` is the images, `tensor<i + 1>` the output of layer i.

    Args:
        network: the network.
        images: uint8 (N, height, width, channels).
        folder: created where it is missing.

    Raises:
        WriteError: the disk is full, say.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = tensors(network, images)
    layers: list[dict[str, Any]] = []
    for index, (layer, facts) in enumerate(zip(network.layers, header(network)["layers"], strict=True)):
        arrays = {key: getattr(layer, key) for key in ("weight", "pad", "multiplier", "offset")}
        found = {key: _write(folder, f"layer{index}.{key}", a) for key, a in arrays.items() if a is not None}
        low, high = (-LOGIT_LIMIT, LOGIT_LIMIT) if layer.op == "classifier" else (layer.low, layer.high)
        facts |= {"low": low, "high": high, "sum": _SUMS[layer.op], "output": index + 1, "arrays": found}
        layers.append(facts)
    manifest = {
        "network": {key: value for key, value in header(network).items() if key != "layers"},
        "epilogue": f"{_EPILOGUE}; 64-bit two's complement, >> rounds down; a max_pool has none",
        "logit": f"the last tensor * 2^-{network.logit_shift}",
        "order": "activations (image, row, column, channel), weights (output, row, column, channel), C order",
        "tensors": [_write(folder, f"tensor{index}", array) for index, array in enumerate(made)],
        "layers": layers,
    }
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def _write(folder: Path, name: str, array: NDArray[Any]) -> dict[str, Any]:
    array = np.ascontiguousarray(array)
    np.save(folder / f"{name}.npy", array)
    digits = 2 * array.itemsize
    numbers = array.view(f"u{array.itemsize}").ravel().tolist()
    write_text(folder / f"{name}.hex", "".join(f"{number:0{digits}x}\n" for number in numbers))
    return {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
