"""The reference against loops over Python's integers, which neither overflow nor round by themselves."""

from __future__ import annotations

from dataclasses import replace

import nets
import numpy as np
import pytest

from adderkit.quant import reference


def by_loops(network, image):
    """Every tensor as nested loops, from the description of the arithmetic alone."""
    made = [image.astype(object)]
    for layer in network.layers:
        x = made[layer.input]
        height, width, channels = x.shape
        kernel = (height, width) if layer.op in ("average_pool", "classifier") else layer.kernel
        rows = (height + 2 * layer.padding[0] - kernel[0]) // layer.stride[0] + 1
        columns = (width + 2 * layer.padding[1] - kernel[1]) // layer.stride[1] + 1
        out = np.zeros((rows, columns, layer.out_channels), object)
        for y, z, o in np.ndindex(out.shape):
            taps = []
            for i, j in np.ndindex(*kernel):
                v, h = y * layer.stride[0] - layer.padding[0] + i, z * layer.stride[1] - layer.padding[1] + j
                inside = 0 <= v < height and 0 <= h < width
                for c in range(channels):
                    if layer.op in ("max_pool", "average_pool"):
                        if inside and c == o:
                            taps.append(int(x[v, h, c]))
                        continue
                    value = int(x[v, h, c]) if inside else int(layer.pad[c])
                    weight = int(layer.weight[o, i, j, c])
                    taps.append(abs(value - weight) if layer.op == "adder" else value * weight)
            if layer.op == "max_pool":
                out[y, z, o] = max(taps)
                continue
            one = 0 if layer.op == "average_pool" else o
            total = int(layer.multiplier[one]) * sum(taps) + int(layer.offset[one])
            if layer.residual >= 0:
                total += layer.residual_multiplier * int(made[layer.residual][y, z, o])
            low, high = (-(2**24) + 1, 2**24 - 1) if layer.op == "classifier" else (layer.low, layer.high)
            out[y, z, o] = min(max(total >> layer.shift, low), high)
        made.append(out)
    return made


@pytest.mark.parametrize("seed", range(4))
def test_equals_loops_over_python_integers(seed):
    network = nets.integer_network(seed)
    images = np.random.default_rng(seed).integers(0, 256, (3, 7, 6, 3)).astype(np.uint8)
    found = reference.tensors(network, images)
    assert [tensor.dtype.name for tensor in found] == ["uint8"] * 5 + ["uint16", "int32"]
    for k, image in enumerate(images):
        expected = by_loops(network, image)
        assert len(expected) == len(found)
        for tensor, wanted in enumerate(expected):
            assert np.array_equal(found[tensor][k], wanted.astype(np.int64)), f"tensor {tensor}"
            assert found[tensor][k].shape == network.shape(tensor)
    spread = [len(np.unique(tensor)) for tensor in found]
    assert min(spread[:5]) > 3, f"saturated everywhere: {spread}"


def test_logits_are_exact_and_do_not_depend_on_the_batch():
    network = nets.integer_network()
    images = np.random.default_rng(0).integers(0, 256, (19, 7, 6, 3)).astype(np.uint8)  # more than a chunk
    logits = reference.run(network, images)
    assert logits.dtype == np.float32 and logits.shape == (19, 3)
    assert np.array_equal(logits, np.concatenate([reference.run(network, images[k : k + 1]) for k in range(19)]))
    fixed = reference.tensors(network, images)[-1].reshape(19, 3)
    assert np.array_equal(logits.astype(np.float64) * 2**network.logit_shift, fixed)
    assert reference.run(network, images[:0]).shape == (0, 3)


def test_sums_beyond_16_bits():
    """576 taps of 255 against 0: 146,880, in parts that 16 bits hold."""
    network = nets.integer_network()
    layer = replace(
        network.layers[3], out_channels=2, residual=-1, residual_multiplier=0, pad=np.zeros(64, np.uint8),
        weight=np.zeros((2, 3, 3, 64), np.uint8), multiplier=np.array([1, -1], np.int32),
        offset=np.array([-146_880, 146_880]), shift=0, low=0, high=255,
    )  # fmt: skip
    out = reference.apply(layer, np.full((1, 3, 3, 64), 255, np.uint8))
    assert out[0, 1, 1].tolist() == [0, 0] and out[0, 0, 0].tolist() == [0, 255]


@pytest.mark.parametrize("images", [np.zeros((1, 7, 6, 3), np.int64), np.zeros((1, 6, 7, 3), np.uint8)])
def test_refuses_other_images(images):
    with pytest.raises(ValueError, match="`images`"):
        reference.run(nets.integer_network(), images)
