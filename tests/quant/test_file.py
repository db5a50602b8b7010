"""The file: safetensors of the described layout, the same bytes every time, whole; and the native library agrees."""

from __future__ import annotations

import hashlib
import json

import nets
import numpy as np
import pytest
from safetensors.numpy import load as load_safetensors

from adderkit import native, runtime
from adderkit.quant import encode, reference, write

needs_native = pytest.mark.skipif(native.library() is None, reason=native.reason())


def split(content: bytes):
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def test_layout():
    network = nets.integer_network()
    content = encode(network)
    assert encode(network) == content
    entries, data = split(content)
    metadata = entries.pop("__metadata__")
    assert metadata["format"] == "adderkit-integer-network" and metadata["version"] == "1"
    digest = metadata["sha256"]
    assert content.count(digest.encode()) == 1
    assert hashlib.sha256(content.replace(digest.encode(), b"0" * 64)).hexdigest() == digest
    spans = sorted(entry["data_offsets"] for entry in entries.values())
    assert [start for start, _ in spans] == [0] + [end for _, end in spans[:-1]] and spans[-1][1] == len(data)
    assert (len(content) - len(data)) % 8 == 0
    arrays = load_safetensors(content)  # another reader of the same format
    for index, layer in enumerate(network.layers):
        for key in ("weight", "multiplier", "offset", "pad"):
            array, name = getattr(layer, key), f"{index}.{key}"
            assert (array is None) == (name not in arrays)
            if array is not None:
                assert arrays[name].dtype == array.dtype and np.array_equal(arrays[name], array)
    facts = json.loads(metadata["network"])
    assert facts["classes"] == ["a", "b", "c"] and facts["logit_shift"] == 12 and len(facts["layers"]) == 6
    assert facts["layers"][3]["residual_multiplier"] == -(2**29)


def test_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "net.adk"
    write(nets.integer_network(), path)
    assert path.read_bytes() == encode(nets.integer_network())
    with pytest.raises(OSError, match="missing"):
        write(nets.integer_network(), tmp_path / "missing" / "net.adk")
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.adk"]


@needs_native
@pytest.mark.parametrize("seed", range(6))
def test_the_native_library_computes_what_the_reference_does(seed):
    network = nets.integer_network(seed)
    images = np.random.default_rng(seed).integers(0, 256, (9, 7, 6, 3)).astype(np.uint8)
    net = runtime.parse(encode(network))
    assert np.array_equal(net(images), reference.run(network, images))
    made = reference.tensors(network, images)
    for layer in range(len(network.layers)):
        assert np.array_equal(net.layer_output(images[1], layer).ravel(), made[layer + 1][1].ravel()), layer
    assert net.header["classes"] == ["a", "b", "c"]
