"""Taps: what is recorded, and that nothing stays behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adderkit import models
from adderkit.distill import Taps, method_type, operator_paths, stage_paths


def test_raw_output_of_a_module_by_path():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    images = torch.randn(2, 3, 8, 8)
    with Taps(net, ["0"]) as taps:
        net(images)
        recorded = taps.take()
    assert list(recorded) == ["0"]
    torch.testing.assert_close(recorded["0"], net[0](images))


def test_hooks_are_gone_afterwards():
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    with Taps(net, ["0"]):
        assert len(net[0]._forward_hooks) == 1
    assert len(net[0]._forward_hooks) == 0


def test_taking_twice_needs_a_forward_between():
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    with Taps(net, ["0"]) as taps:
        net(torch.randn(1, 3, 8, 8))
        taps.take()
        with pytest.raises(ValueError, match="did not run the tapped modules 0"):
            taps.take()


def test_unknown_path_is_named():
    with pytest.raises(ValueError, match="tap `layer9` is no module of Sequential"):
        Taps(nn.Sequential(nn.ReLU()), ["layer9"])


@pytest.mark.parametrize("layer", ["adder", "conv"])
def test_operators_leave_out_stem_and_classifier(layer):
    net = models.create("resnet20", layer)
    # 18 in the blocks and the 2 shortcuts where the width changes
    assert len(operator_paths(net)) == 20
    assert net.stem_path not in operator_paths(net)
    assert net.classifier_path not in operator_paths(net)


def test_twins_have_the_same_operators():
    assert operator_paths(models.create("resnet8", "adder")) == operator_paths(models.create("resnet8", "conv"))


@pytest.mark.parametrize("name", ["resnet8", "resnet20"])
def test_stages_are_one_map_per_resolution(name):
    net = models.create(name, "conv")
    paths = stage_paths(net)
    with Taps(net, paths) as taps:
        net(torch.randn(2, 3, 32, 32))
        shapes = [tuple(tap.shape[1:]) for tap in taps.take().values()]
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_stages_need_the_models_word():
    with pytest.raises(ValueError, match="stage_paths"):
        stage_paths(nn.Sequential(nn.Conv2d(3, 4, 3)))


# What each method compares, by hand from the networks' definitions: twins have the same names.
LAST = {  # the last operator of each stage
    "resnet8": ["layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2"],
    "resnet20": ["layer1.2.conv2", "layer2.2.conv2", "layer3.2.conv2"],
    "vgg_small": ["layer1.conv2", "layer2.conv2", "layer3.conv2"],
    "resnet18": ["layer1.1.conv2", "layer2.1.conv2", "layer3.1.conv2", "layer4.1.conv2"],
    "resnet50": ["layer1.2.conv3", "layer2.3.conv3", "layer3.5.conv3", "layer4.2.conv3"],
    "resnet152": ["layer1.2.conv3", "layer2.7.conv3", "layer3.35.conv3", "layer4.2.conv3"],
}


@pytest.mark.parametrize("name", LAST)
def test_what_each_method_compares(name):
    with torch.device("meta"):
        nets = models.create(name, "adder"), models.create(name, "conv")
    stages = [path[: len("layer1")] for path in LAST[name]]
    firsts = [f"{stage}.bn1" if name == "vgg_small" else f"{stage}.0.bn1" for stage in stages]
    expected = {"pkkd": LAST[name], "at": stages, "sp": stages[-1:], "fsp": [*firsts, *stages]}
    for method, paths in expected.items():
        kind = method_type(method)
        pairs = kind(kind.Options()).tap_pairs(*nets)
        assert [list(side) for side in pairs] == [paths, paths], method
