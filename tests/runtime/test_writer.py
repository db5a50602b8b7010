"""What `adderkit.quant` writes is what `adderkit.runtime` reads, and both compute the same."""

from __future__ import annotations

import numpy as np
import pytest
from network_file import drawn, evaluated, tangled
from network_file import encode as encode_by_description

from adderkit import native, runtime
from adderkit.quant import IntegerLayer, IntegerNetwork, encode, read, reference, write

if native.library() is None:
    pytest.skip(f"no native library: {native.reason()}", allow_module_level=True)


def as_network(network, arrays) -> IntegerNetwork:
    layers = []
    for index, layer in enumerate(network["layers"]):
        parts = {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{index}.")}
        known = {key: tuple(value) if isinstance(value, list) else value for key, value in layer.items()}
        if layer["op"] in ("max_pool", "average_pool"):
            known["out_channels"] = None
        layers.append(IntegerLayer(**known, **parts))
    facts = {key: value for key, value in network.items() if key not in ("layers", "classes")}
    made = IntegerNetwork(
        **facts, classes=tuple(network["classes"]), layers=(), notes={"source": {"commit": "é\u2028"}}
    )
    for layer in layers:
        if layer.out_channels is None:  # pools keep their channels
            layer = IntegerLayer(**{**vars(layer), "out_channels": made.shape(layer.input)[2]})
        made = IntegerNetwork(**{**vars(made), "layers": (*made.layers, layer)})
    return made


@pytest.mark.parametrize("seed", range(4))
def test_round_trip(seed, tmp_path):
    network, arrays = drawn(seed)
    made = as_network(network, arrays)
    write(made, tmp_path / "net.adk")
    assert (tmp_path / "net.adk").read_bytes() == encode(made)
    net = runtime.load(tmp_path / "net.adk")
    assert net.classes == made.classes and net.header["source"] == {"commit": "é\u2028"}
    found = net.arrays()
    assert found.keys() == arrays.keys()
    for name in arrays:
        np.testing.assert_array_equal(found[name], arrays[name])
    images = np.random.default_rng(seed).integers(0, 256, (5, *net.shape)).astype(np.uint8)
    np.testing.assert_array_equal(net(images), reference.run(made, images))
    for index, tensor in enumerate(reference.tensors(made, images)[1:]):
        np.testing.assert_array_equal(net.layer_output(images[0], index).ravel(), np.ravel(tensor[0]))


@pytest.mark.parametrize("draw", [drawn, tangled])
@pytest.mark.parametrize("seed", range(4))
def test_files_of_others_are_read(draw, seed, tmp_path):
    """Without the keys that mean nothing, as the format allows."""
    network, arrays = draw(seed)
    path = tmp_path / "net.adk"
    path.write_bytes(encode_by_description({**network, "made by": "hand"}, arrays))
    made = read(path)
    assert made.notes == {"made by": "hand"}
    image = np.random.default_rng(seed).integers(0, 256, made.shape(0)).astype(np.uint8)
    expected = evaluated(network, arrays, image)
    for index, tensor in enumerate(reference.tensors(made, image[None])):
        assert np.array_equal(tensor[0].ravel(), expected[index].ravel()), index
    write(made, path)
    assert encode(read(path)) == path.read_bytes()
