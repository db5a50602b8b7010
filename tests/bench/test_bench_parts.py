"""What both benches are made of: shapes, formulations, turns, limits, the busy core."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from adderkit import models, native
from adderkit.bench import busy, formulations, limits, shapes, timing


def hooked(net: nn.Module, image: torch.Tensor, skip: set[str]) -> set[tuple[int, ...]]:
    """(channels in, out, filter, stride, size) of the convolutions that a forward pass meets."""
    found: set[tuple[int, ...]] = set()

    def see(module, inputs, output):
        assert module.padding == (module.kernel_size[0] // 2,) * 2
        sizes = (module.in_channels, module.out_channels, module.kernel_size[0], module.stride[0])
        found.add((*sizes, inputs[0].shape[-1]))

    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and name not in skip:
            module.register_forward_hook(see)
    with torch.no_grad():
        net.eval()(image)
    return found


def test_resnet20_layers_are_those_of_the_convolutional_twin():
    net = models.create("resnet20", "conv")
    expected = hooked(net, torch.zeros(1, 3, 32, 32), {net.stem_path, net.classifier_path})
    found = shapes.resnet20()
    assert {layer[1:] for layer in found} == expected
    assert len(found) == len(expected) == 7


def test_resnet50_layers():
    found = shapes.resnet50()
    assert len(set(found)) == len(found) == 22
    assert {layer.size for layer in found} == {56, 28, 14, 7}
    assert sum(layer.stride == 2 for layer in found) == 6  # a 3x3 layer and a shortcut in each of three stages


@pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None and "CI" not in os.environ, reason="torchvision is not installed"
)
def test_resnet50_layers_are_torchvisions():
    import torchvision

    with torch.device("meta"):
        net, image = torchvision.models.resnet50(), torch.empty(1, 3, 224, 224)
        assert {layer[1:] for layer in shapes.resnet50()} == hooked(net, image, {"conv1"})


def test_operations_and_bytes_of_a_layer():
    layer = shapes.Layer("resnet50", 4, 6, 1, 2, 8)
    assert layer.name == "4>6 1x1/2 8x8" and layer.out_size == 4 and layer.padding == 0
    assert layer.operations == 6 * 4 * 4 * 4
    moved = 4 * (3 * 4 * 16 + 3 * 6 * 16 + 6 * 4)  # of 8x8 pixels it sees 16
    assert layer.operations_per_byte(3, False) == pytest.approx(3 * layer.operations / moved)
    moved += 4 * 3 * 4 * 64  # but the gradient has all 64
    assert layer.operations_per_byte(3, True) == pytest.approx(3 * layer.operations / moved)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 2, 0)])
def test_formulations_compute_the_formula(kernel, stride, padding):
    rng = np.random.default_rng(0)
    x, f = rng.standard_normal((2, 3, 6, 6)), rng.standard_normal((4, 3, kernel, kernel))
    padded = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    out = (6 + 2 * padding - kernel) // stride + 1
    y, g = np.zeros((2, 4, out, out)), rng.standard_normal((2, 4, out, out))
    grad_padded, grad_f = np.zeros_like(padded), np.zeros_like(f)
    for n, o, h, w in np.ndindex(y.shape):
        where = np.s_[n, :, h * stride : h * stride + kernel, w * stride : w * stride + kernel]
        y[n, o, h, w] = -np.abs(padded[where] - f[o]).sum()
        grad_padded[where] += g[n, o, h, w] * np.clip(f[o] - padded[where], -1, 1)
        grad_f[o] += g[n, o, h, w] * (padded[where] - f[o])
    grad_x = grad_padded[:, :, padding : padding + 6, padding : padding + 6]

    leaf_x, leaf_f = torch.tensor(x, requires_grad=True), torch.tensor(f, requires_grad=True)
    output = formulations.official(leaf_x, leaf_f, stride, padding)
    grads = torch.autograd.grad(output, (leaf_x, leaf_f), torch.tensor(g))
    for found, expected in zip((output, *grads), (y, grad_x, grad_f), strict=True):
        np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-12)
    found = formulations.unfold_cdist(torch.tensor(x), torch.tensor(f), stride, padding)
    np.testing.assert_allclose(found.numpy(), y, atol=1e-12)


def test_part_of_the_batch_for_older_formulations():
    layers = {layer.name: layer for layer in shapes.select("all", "")}
    for layer in layers.values():
        images = formulations.images(layer, 128)
        assert 1 <= images <= 128
        assert images == 1 or 3 * 4 * layer.operations * images <= 4e9
        assert (images == 128) == (layer.network == "resnet20")
        assert 1 <= formulations.part(layer, 128) <= images
        assert formulations.part(layer, 128) == 1 or layer.operations * formulations.part(layer, 128) <= 1e8
    assert formulations.images(layers["512>512 3x3 7x7"], 128) == 1


def test_contestants_take_turns_after_a_call_that_warms_up():
    calls: list[str] = []
    contestants = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = timing.take_turns(contestants, timing.Budget(3))
    assert "".join(calls) == 3 * "aabb"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        # a takes 0.25 s and is timed at once, b 0.0625 s and is timed after a call that warms up: 0.375 s a round
        (timing.Budget(9, 3, 2.0, 0.1), 5 * "abb"),
        (timing.Budget(4, 3, 2.0, 0.1), 4 * "abb"),
        (timing.Budget(9, 3, 0.5, 0.1), 3 * "abb"),
        (timing.Budget(9, 1, 0.75, 0.1), 2 * "abb"),
        (timing.Budget(9, 1, 0.1), "aabb"),
    ],
)
def test_turns_keep_to_their_time(budget, expected, monkeypatch):
    now = 0.0
    calls: list[str] = []

    def call(name, seconds):
        nonlocal now
        now += seconds
        calls.append(name)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    seconds = timing.take_turns({"a": lambda: call("a", 0.25), "b": lambda: call("b", 0.0625)}, budget)
    assert "".join(calls) == expected
    rounds = expected.count("bb")
    assert seconds == {"a": rounds * [0.25], "b": rounds * [0.0625]}


def test_thread_counts():
    before = torch.get_num_threads()
    with timing.thread_count(None) as threads:
        assert threads == before == torch.get_num_threads()
    with timing.thread_count(0) as threads:
        assert 1 <= threads == torch.get_num_threads() <= (os.cpu_count() or 1)
    with timing.thread_count(3) as threads:
        assert threads == 3 == torch.get_num_threads()
    assert torch.get_num_threads() == before


def test_spread():
    assert timing.spread([float(value) for value in range(11)]) == (5.0, 1.0, 9.0)
    assert timing.spread([2.0]) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("isa", [isa.name for isa in native.isas() if not isa.reason])
def test_peaks_are_those_of_a_processor(isa):
    """At most two vectors a cycle at 8 GHz (NEON: four of half the size), and an adder holds a multiply-add.

    A loop that the compiler had shortened would be faster. Other work on the machine slows single figures.
    """
    most = 2 * (16 if isa == "avx512" else 8) * 8e9
    speeds: dict[str, float] = {}
    for attempt in range(5):
        with native.forced_isa(isa):
            speeds = {kind: limits.peak(kind, 1) for kind in limits.KINDS}
        assert all(1e6 < speed < most for speed in speeds.values()), attempt
        if max(speeds.values()) <= 1.05 * speeds["multiply_add"]:
            return
    pytest.fail(f"faster than a multiply-add: {speeds}")


@pytest.mark.skipif(native.library() is None, reason="needs the native library")
def test_bad_peaks_are_refused():
    with pytest.raises(ValueError, match=r"`kind` \(='division'\)"):
        limits.peak("division", 1)
    for threads in (-1, 4097, 2**32):
        with pytest.raises(ValueError, match=rf"`threads` \(={threads}\) must be from 0 to 4096"):
            limits.peak("adder", threads)


def test_the_best_limits_count():
    a, b = limits.Limits(1, 5, 3, 7), limits.Limits(2, 4, 3, 8)
    assert limits.faster(a, b) == limits.Limits(2, 5, 3, 8)
    assert limits.faster(None, None) is None


def test_busy_core_ends_with_its_block(monkeypatch):
    started: list[subprocess.Popen[Any]] = []
    start = subprocess.Popen

    def remember(*arguments, **options):
        started.append(start(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", remember)
    with pytest.raises(KeyboardInterrupt), busy.busy_core():
        assert started[0].poll() is None
        raise KeyboardInterrupt
    assert started[0].poll() is not None
