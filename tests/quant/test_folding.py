"""Folding: filters outside the range lose nothing, and every layer's integers are the rounded real numbers."""

from __future__ import annotations

from dataclasses import replace

import nets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from adderkit import native, runtime
from adderkit.quant import calibrate, encode, fuse, reference, to_integers
from adderkit.quant.graph import FusedLayer, FusedNetwork
from adderkit.quant.simulation import Simulation


@given(
    x=st.floats(0, 1, width=32),
    f=st.floats(-1e6, 1e6, width=32),
    low=st.floats(-2, 0, width=32),
    high=st.floats(1, 3, width=32),
)
def test_a_filter_outside_the_range_is_a_constant(x, f, low, high):
    x, f, low, high = (np.float64(value) for value in (x, f, low, high))
    near = np.clip(f, low, high)
    assert abs(abs(x - f) - (abs(x - near) + abs(f - near))) <= 1e-9 * max(1, abs(f))


def one_layer(op, weight, scale, bias, relu, residual, zero, bits=8, powers=False):
    """A network of stem, shortcut, and the layer in question, of which only that one is looked at."""
    channels = weight.shape[1]
    stem = FusedLayer("convolution", "stem", 0, (channels, 5, 4), weight=torch.ones(channels, 1, 1, 1).double(),
                      scale=torch.ones(channels).double(), bias=torch.zeros(channels).double(),
                      relu=zero == 0)  # fmt: skip
    shape = (len(weight), 5, 4)
    shortcut = replace(stem, name="shortcut", shape=shape, relu=False,
                       weight=torch.ones(len(weight), 1, 1, 1).double(), scale=torch.ones(len(weight)).double(),
                       bias=torch.zeros(len(weight)).double())  # fmt: skip
    layer = FusedLayer(op, "layer", 1, shape, 2 if residual else -1, (3, 3), (1, 1), (1, 1), weight, scale, bias, relu)
    pool = FusedLayer("average_pool", "pool", 3, (len(weight), 1, 1))
    classifier = FusedLayer("classifier", "fc", 4, (2, 1, 1), weight=torch.ones(2, len(weight), 1, 1).double(),
                            scale=torch.ones(2).double(), bias=torch.zeros(2).double())  # fmt: skip
    network = FusedNetwork((1, 5, 4), (stem, shortcut, layer, pool, classifier))
    simulation = Simulation(network, (0.5,), (0.25,), bits, powers).eval()
    simulation.step.copy_(torch.tensor([1, 0.05, 0.07, 0.11, 0.001, 1]))
    simulation.zero[1], simulation.zero[2] = zero, 117
    simulation.zero[3] = 0 if relu else 90
    return simulation


INFO = nets.info(nets.models.create("resnet8", num_classes=2, in_channels=1), 5)


@settings(max_examples=60, deadline=None)
@given(
    op=st.sampled_from(["adder", "convolution"]),
    relu=st.booleans(),
    residual=st.booleans(),
    zero=st.sampled_from([0, 9]),
    bits=st.sampled_from([8, 5, 4]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_layer_is_the_rounded_real_layer(op, relu, residual, zero, bits, seed):
    """BatchNorm, residual, zero points, ReLU and far filters: integers within half a step of the real numbers."""
    rng = np.random.default_rng(seed)
    channels, outputs = int(rng.integers(1, 6)), int(rng.integers(1, 6))
    weight = rng.normal(0, 4, (outputs, channels, 3, 3))
    scale, bias = rng.normal(0, 0.2, outputs), rng.normal(5, 5, outputs)
    tensors = [torch.from_numpy(array) for array in (weight, scale, bias)]
    with torch.no_grad():
        simulation = one_layer(op, *tensors, relu, residual, zero, bits)
        network = to_integers(simulation, replace(INFO, width=4), 1.0, {})
    x = rng.integers(0, simulation.high[1] + 1, (2, 5, 4, channels)).astype(np.uint8)
    added = rng.integers(0, 256, (2, 5, 4, outputs)).astype(np.uint8) if residual else None
    found = reference.apply(network.layers[2], x, added).astype(np.float64)

    # The same in real numbers, with the filters that integers can be: rounded to the grid inside the range only.
    real = 0.05 * (x.astype(np.float64) - zero)
    if op == "adder":
        grid = weight / 0.05 + zero
        inside = np.clip(grid, 0, simulation.high[1])
        filters = (np.floor(inside + 0.5) - zero) * 0.05
        rest = np.abs(grid - inside) * 0.05
    else:
        steps = np.abs(weight).max((1, 2, 3), keepdims=True) / 127
        filters, rest = np.floor(weight / steps + 0.5) * steps, None
    padded = np.pad(real, ((0, 0), (1, 1), (1, 1), (0, 0)))  # a real zero
    sums = np.zeros((2, 5, 4, outputs))
    for o, c, i, j in np.ndindex(*weight.shape):
        tap = padded[:, i : i + 5, j : j + 4, c]
        if op == "adder":
            sums[..., o] -= np.abs(tap - filters[o, c, i, j]) + rest[o, c, i, j]
        else:
            sums[..., o] += tap * filters[o, c, i, j]
    y = sums * np.float32(scale) + np.float32(bias)
    if residual:
        y += 0.07 * (added.astype(np.float64) - 117)
    y = np.maximum(y, 0) if relu else y
    expected = np.clip(y / 0.11 + simulation.zero[3], 0, simulation.high[3])
    # half a step, and what float32 parameters and 22-bit multipliers leave of sums up to 2,000 steps
    assert np.abs(found - expected).max() <= 0.5 + 2e-3


def quantised(name="resnet8", size=8, bits=8, powers=False, count=32):
    network = nets.settled(name, size)
    fused = fuse(network, size, size)
    calibration = nets.images(count, size, 3, seed=2)
    simulation, largest = calibrate(fused, calibration, nets.MEAN, nets.STD, bits, powers)
    return network, simulation, to_integers(simulation, nets.info(network, size), largest, {})


@pytest.mark.parametrize(("bits", "powers"), [(8, False), (6, False), (4, False), (8, True), (2, True)])
def test_the_simulation_gives_the_integers_of_the_reference(bits, powers):
    _, simulation, network = quantised(bits=bits, powers=powers)
    pixels = nets.images(8, 8, 3, seed=3)
    made = reference.tensors(network, pixels.permute(0, 2, 3, 1).contiguous().numpy())
    seen = {}
    with torch.no_grad():
        logits = simulation(pixels, seen.__setitem__)
        for index, layer in enumerate(network.layers[:-1]):  # each from the reference's own inputs
            x, added = (
                None if tensor < 0 else torch.from_numpy(made[tensor].astype(np.float32)).permute(0, 3, 1, 2)
                for tensor in (layer.input, layer.residual)
            )
            found = simulation.quantised(index + 1, simulation.real(index, x, added)).permute(0, 2, 3, 1).numpy()
            difference = np.abs(found - made[index + 1])
            # at a tie the last bit of float32 decides; an average pool has 15 bits
            limit, share = (2, 1.0) if layer.op == "average_pool" else (1, 5e-3)
            assert difference.max() <= limit and (difference > 0).mean() <= share, f"layer {index}"
            assert sorted(seen) == list(range(len(network.layers)))
    assert np.abs(logits.numpy() - reference.run(network, pixels.permute(0, 2, 3, 1).contiguous().numpy())).max() < 0.05


def test_sums_of_the_simulation_are_exact():
    _, simulation, network = quantised()
    made = reference.tensors(network, nets.images(4, 8, 3).permute(0, 2, 3, 1).contiguous().numpy())
    for index, layer in enumerate(network.layers):
        if layer.op != "adder":
            continue
        fused = simulation.network.layers[index]
        x = torch.from_numpy(made[layer.input].astype(np.float32)).permute(0, 3, 1, 2)
        plain = replace(layer, multiplier=np.ones(layer.out_channels, np.int32), residual=-1, shift=0, high=2**31,
                        offset=np.zeros(layer.out_channels, np.int64))  # fmt: skip
        columns = F.unfold(x.double(), layer.kernel, padding=layer.padding, stride=layer.stride)
        filters = torch.from_numpy(layer.weight.astype(np.float64)).permute(0, 3, 1, 2).flatten(1)
        expected = torch.cdist(columns.transpose(1, 2), filters, p=1)
        found = reference.epilogue(plain, reference._distances(plain, made[layer.input]))
        assert np.array_equal(found.reshape(expected.shape), expected.numpy())
        step = simulation.step[fused.input].item()
        with torch.no_grad():
            sums = simulation.sums(index, x).permute(0, 2, 3, 1).reshape(expected.shape).double() / step
        # but for a constant per channel, that of the filters outside
        rest = (-sums - expected).flatten(0, 1)
        assert (rest - rest.mean(0)).abs().max() < 0.1  # float32 of a few thousand steps


class Pooled(nets.models.Network):
    """What ImageNet's networks begin with, a shortcut that is a max pool, and a linear classifier with a bias."""

    stem_path, classifier_path, stage_paths = "stem", "fc", ()

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 6, 7, stride=2, padding=3)
        self.bn = torch.nn.BatchNorm2d(6)
        self.pool = torch.nn.MaxPool2d(3, stride=2, padding=1)
        self.body = nets.models.LAYERS["adder"](6, 6, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(6)
        self.fc = torch.nn.Linear(6 * 4 * 4, 5)
        self.name, self.layer, self.num_classes, self.in_channels = "pooled", "adder", 5, 3

    def forward(self, x):
        x = self.pool(self.bn(self.stem(x)).relu())
        return self.fc((self.norm(self.body(x)) + x).relu().flatten(1))


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "pooled"])
def test_eight_bits_agree_with_the_float_network(name, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(nets.models, "create", lambda *a, **k: Pooled()) if name == "pooled" else None
    size = 16 if name == "pooled" else 8
    network, _, integers = quantised(name, size)
    pixels = nets.images(4, size, 3, seed=5)
    with torch.no_grad():
        expected = network(nets.normalised(pixels)).numpy()
    found = reference.run(integers, pixels.permute(0, 2, 3, 1).contiguous().numpy())
    assert np.sqrt(np.square(found - expected).mean()) < 0.15 * expected.std()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99


@pytest.mark.skipif(native.library() is None, reason=native.reason())
@pytest.mark.parametrize(("bits", "powers"), [(8, False), (4, False), (3, True)])
@pytest.mark.parametrize("name", ["resnet8", "pooled"])
def test_the_runtime_takes_what_comes_out(name, bits, powers, monkeypatch):
    monkeypatch.setattr(nets.models, "create", lambda *a, **k: Pooled()) if name == "pooled" else None
    size = 16 if name == "pooled" else 12
    _, _, integers = quantised(name, size, bits, powers)
    pixels = nets.images(5, size, 3, seed=5).permute(0, 2, 3, 1).contiguous().numpy()
    assert np.array_equal(runtime.parse(encode(integers))(pixels), reference.run(integers, pixels))


def test_fewer_bits_lose_more_and_two_still_follow():
    errors = []
    for bits in (8, 6, 4, 2):
        network, _, integers = quantised(bits=bits)
        pixels = nets.images(16, 8, 3, seed=5)
        with torch.no_grad():
            expected = network(nets.normalised(pixels)).numpy()
        found = reference.run(integers, pixels.permute(0, 2, 3, 1).contiguous().numpy())
        errors.append(np.sqrt(np.square(found - expected).mean()) / expected.std())
        highest = max(layer.weight.max() for layer in integers.layers if layer.op == "adder")
        assert highest <= 2**bits - 1 and integers.bits == bits
        readers = {layer.input for layer in integers.layers if layer.op == "adder"}
        for tensor, layer in enumerate(integers.layers, 1):
            if layer.op in ("adder", "convolution"):
                assert layer.high == (2**bits - 1 if tensor in readers else 255)
    assert errors == sorted(errors) and errors[-1] < 1.2, errors


@pytest.mark.parametrize("size", [8, 12])  # maps of 2x2 and 3x3 under the average: 9 is no power of two
def test_powers_of_two(size):
    network, simulation, integers = quantised(size=size, powers=True)
    assert integers.multiplier_free
    for layer in integers.layers:
        found = [] if layer.multiplier is None else [abs(int(value)) for value in layer.multiplier]
        found += [layer.residual_multiplier] if layer.residual >= 0 else []
        assert all(value > 0 and value & (value - 1) == 0 for value in found), layer.name
    pixels = nets.images(16, size, 3, seed=5)
    with torch.no_grad():
        expected = network(nets.normalised(pixels)).numpy()
    found = reference.run(integers, pixels.permute(0, 2, 3, 1).contiguous().numpy())
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.8
    with torch.no_grad():
        simulated = simulation(pixels).numpy()
    assert np.sqrt(np.square(found - simulated).mean()) < 0.05 * simulated.std()


def test_numbers_keep_within_the_formats_bounds():
    for bits, powers in ((8, False), (4, True)):
        _, _, integers = quantised(bits=bits, powers=powers)
        for layer in integers.layers:
            if layer.multiplier is None:
                continue
            assert 0 <= layer.shift <= 62
            high = 32767 if layer.op == "classifier" else 255
            taps = 64 if layer.weight is None else layer.weight[0].size
            bound = np.abs(layer.multiplier.astype(object)) * taps * high * (127 if layer.op != "adder" else 1)
            if layer.op == "average_pool":
                bound = bound // 127
            total = bound + np.abs(layer.offset.astype(object)) + 255 * abs(layer.residual_multiplier)
            assert max(total) < 2**62
            if not powers:  # as long a shift as 31 bits allow
                assert max(np.abs(layer.multiplier).max(), abs(layer.residual_multiplier)) >= 2**29
        assert integers.logit_shift >= 12
        fixed = reference.tensors(integers, np.full((1, 8, 8, 3), 255, np.uint8))[-1]
        assert np.abs(fixed).max() < 2**23


def test_a_constant_channel_and_a_filter_far_away():
    """gamma = 0, as weight decay may leave it, and a filter thousands of steps outside."""
    network = nets.settled("resnet8", 8)
    with torch.no_grad():
        network.get_submodule("layer1.0.bn1").weight[3] = 0
        network.get_submodule("layer1.0.conv1").weight[2, 1, 1, 1] = 5000
        network.get_submodule("layer1.0.bn1").running_mean[2] -= 5000
    fused = fuse(network, 8, 8)
    for powers in (False, True):
        simulation, largest = calibrate(fused, nets.images(32, 8, 3), nets.MEAN, nets.STD, 8, powers)
        integers = to_integers(simulation, nets.info(network, 8), largest, {})
        pixels = nets.images(8, 8, 3, seed=5)
        with torch.no_grad():
            expected = network(nets.normalised(pixels)).numpy()
        found = reference.run(integers, pixels.permute(0, 2, 3, 1).contiguous().numpy())
        assert np.isfinite(found).all()
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > (0.4 if powers else 0.99)
