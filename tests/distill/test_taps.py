"""Taps: what is recorded, and that nothing stays behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adderkit import models
from adderkit.distill import Taps, operator_paths, stage_paths


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
