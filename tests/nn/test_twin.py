"""Adder networks that begin with their convolutional twin's weights, against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from adderkit import convert, models
from adderkit.nn import Adder2d, start_from_twin


@pytest.mark.parametrize("name", ["resnet8", "vgg_small", "resnet18", "resnet50"])
def test_filters_are_the_twins_standardised_and_the_rest_is_as_it_is(name):
    torch.manual_seed(1)
    teacher = models.create(name, "conv", 10)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.normal_(0.3, 0.02)
    student = models.create(name, "adder", 10)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    start_from_twin(student, teacher)
    twins = teacher.state_dict()
    adders = {f"{path}.weight" for path, module in student.named_modules() if isinstance(module, Adder2d)}
    assert len(adders) > 3
    copied = {key for key, _ in student.named_parameters()} & twins.keys()
    for key, value in student.state_dict().items():
        if key in adders:
            filters = twins[key].double().numpy()
            expected = (filters - np.mean(filters)) / np.sqrt(np.mean((filters - np.mean(filters)) ** 2))
            np.testing.assert_allclose(value.numpy(), expected, atol=2e-5)
        elif key in copied:
            assert torch.equal(value, twins[key]), key
        else:  # running statistics, and a normalisation that the adder network has alone
            assert torch.equal(value, before[key]), key


def test_all_alike_filters_become_zero():
    student, teacher = (models.create("resnet8", layer, 10) for layer in ("adder", "conv"))
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.fill_(0.5)
    start_from_twin(student, teacher)
    layer = next(module for module in student.modules() if isinstance(module, Adder2d))
    assert torch.equal(layer.weight, torch.zeros_like(layer.weight))


@pytest.mark.parametrize("value", [0.0, 0.3, 0.5, -7.1])
def test_filters_that_are_all_alike_become_nearly_zero(value):
    student, teacher = (models.create("resnet8", layer, 10) for layer in ("adder", "conv"))
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.fill_(value)
    start_from_twin(student, teacher)
    layer = next(module for module in student.modules() if isinstance(module, Adder2d))
    assert layer.weight.abs().max() < 0.05


def test_converted_model_begins_with_its_own_convolutions():
    """Groups, dilation, another operator than the models have; what stays multiplicative is the same already."""
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, 3, groups=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.Conv1d(6, 4, 3, dilation=2, padding="same", bias=False),
        nn.BatchNorm1d(4),
        nn.Linear(4, 10),
    )
    adder = convert(model)
    start_from_twin(adder, model)
    for path in ("1", "3", "5"):
        filters = model.get_parameter(f"{path}.weight").detach().double().numpy()
        ours = adder.get_parameter(f"{path}.weight").detach().numpy()
        np.testing.assert_allclose(ours, (filters - filters.mean()) / filters.std(), atol=2e-5)
    assert torch.equal(adder.get_parameter("0.weight"), model.get_parameter("0.weight"))


def conv(**values) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, **{"padding": 1, "bias": False, **values}))


NO_TWINS = {
    "stride": (conv(stride=2), "its `1` is not the convolution of that layer"),
    "padding": (conv(padding=0), "its `1` is not the convolution of that layer"),
    "filters": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1, padding=1)), "its `1` is not the convolution"),
    "norm": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm((4, 4, 3, 3))), "its `1` is not the convolution"),
    "bias": (conv(bias=True), "`1.bias` is \\(4,\\) there, missing here"),
    "deeper": (nn.Sequential(*conv(), nn.Conv2d(4, 4, 3)), "`2.weight` is .* there, missing here"),
    "stem": (
        nn.Sequential(nn.Conv2d(1, 4, 3), conv()[1]),
        "`0.weight` is \\(4, 1, 3, 3\\) there, \\(4, 3, 3, 3\\) here",
    ),
}


@pytest.mark.parametrize("case", NO_TWINS)
def test_what_is_no_twin_is_refused_and_nothing_is_changed(case):
    teacher, message = NO_TWINS[case]
    student = nn.Sequential(nn.Conv2d(3, 4, 3), Adder2d(4, 4, 3, padding=1))
    before = {name: parameter.clone() for name, parameter in student.named_parameters()}
    with pytest.raises(ValueError, match="is not the student's twin: " + message):
        start_from_twin(student, teacher)
    assert all(torch.equal(parameter, before[name]) for name, parameter in student.named_parameters())


def test_a_convolutional_student_is_refused():
    with pytest.raises(ValueError, match="the student has no adder layers"):
        start_from_twin(conv(), conv())
