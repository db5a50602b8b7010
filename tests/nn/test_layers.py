"""Adder2d and AdderLinear against sums written out in NumPy, and against Conv2d's manners."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from adderkit.nn import Adder2d, AdderLinear, adder_parameters

NUMPY_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def adder2d_numpy(x, f, stride=(1, 1), margins=((0, 0), (0, 0)), dilation=(1, 1), groups=1, mode="constant"):
    """-sum |x - f|, tap by tap, in float64; `margins` are ((top, bottom), (left, right))."""
    x, f = np.asarray(x, np.float64), np.asarray(f, np.float64)
    x = np.pad(x, ((0, 0), (0, 0), *margins), mode=mode)
    filters, channels, kernel_height, kernel_width = f.shape
    height = (x.shape[2] - dilation[0] * (kernel_height - 1) - 1) // stride[0] + 1
    width = (x.shape[3] - dilation[1] * (kernel_width - 1) - 1) // stride[1] + 1
    y = np.zeros((x.shape[0], filters, height, width))
    for o in range(filters):
        first = o // (filters // groups) * channels
        for h in range(height):
            for w in range(width):
                rows = slice(h * stride[0], h * stride[0] + dilation[0] * (kernel_height - 1) + 1, dilation[0])
                columns = slice(w * stride[1], w * stride[1] + dilation[1] * (kernel_width - 1) + 1, dilation[1])
                patch = x[:, first : first + channels, rows, columns]
                y[:, o, h, w] = -np.abs(patch - f[o]).sum((1, 2, 3))
    return y


CASES = [
    ({"kernel_size": 3}, ((0, 0), (0, 0))),
    ({"kernel_size": 3, "stride": 2, "padding": 1}, ((1, 1), (1, 1))),
    ({"kernel_size": (3, 2), "stride": (1, 2), "padding": (2, 1), "dilation": (2, 1)}, ((2, 2), (1, 1))),
    ({"kernel_size": 3, "padding": 1, "groups": 2}, ((1, 1), (1, 1))),
    ({"kernel_size": 2, "padding": "same"}, ((0, 1), (0, 1))),
    ({"kernel_size": (4, 3), "padding": "same", "dilation": (1, 2)}, ((1, 2), (2, 2))),
    ({"kernel_size": 3, "padding": "valid"}, ((0, 0), (0, 0))),
    ({"kernel_size": 2, "padding": "valid", "padding_mode": "reflect"}, ((0, 0), (0, 0))),
    ({"kernel_size": (4, 3), "padding": "same", "padding_mode": "circular"}, ((1, 2), (1, 1))),
    ({"kernel_size": 3, "padding": (2, 1), "padding_mode": "replicate"}, ((2, 2), (1, 1))),
    ({"kernel_size": 3, "padding": (1, 2), "padding_mode": "reflect", "stride": 2}, ((1, 1), (2, 2))),
]


@pytest.mark.parametrize(("options", "margins"), CASES, ids=lambda value: str(value)[:60])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # Conv2d's
def test_adder2d_is_the_written_sum(options, margins):
    torch.manual_seed(0)
    layer = Adder2d(4, 6, **options, dtype=torch.float64)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    mode = NUMPY_MODES[layer.padding_mode]
    expected = adder2d_numpy(x, layer.weight.detach(), layer.stride, margins, layer.dilation, layer.groups, mode)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-12)
    assert layer(x).shape == nn.Conv2d(4, 6, **options, dtype=torch.float64)(x).shape


def test_bias_starts_at_zero_and_is_added():
    layer = Adder2d(2, 3, 1, bias=True)
    x = torch.randn(1, 2, 4, 4)
    before = layer(x)
    assert layer.bias is not None
    torch.testing.assert_close(layer.bias, torch.zeros(3), check_dtype=False)
    layer.bias.data = torch.tensor([1.0, -2.0, 3.0])
    torch.testing.assert_close(layer(x) - before, layer.bias.view(1, 3, 1, 1).expand(1, 3, 4, 4))
    assert Adder2d(2, 3, 1).bias is None


def test_unbatched_input_is_one_image():
    layer = Adder2d(2, 3, 3, padding=1)
    x = torch.randn(2, 5, 5)
    assert torch.equal(layer(x), layer(x[None])[0])


def test_filters_start_as_standard_normal():
    torch.manual_seed(1)
    weight = Adder2d(64, 64, 3).weight  # 36,864 numbers: the mean's deviation is 0.005, the variance's 0.007
    assert abs(weight.mean().item()) < 0.025
    assert abs(weight.var().item() - 1) < 0.04
    assert abs(weight.pow(4).mean().item() - 3) < 0.3  # kurtosis of a normal, 1.8 of a uniform distribution
    torch.manual_seed(1)
    assert torch.equal(weight, Adder2d(64, 64, 3).weight)


def test_linear_is_the_written_sum_for_any_leading_dimensions():
    torch.manual_seed(0)
    layer = AdderLinear(5, 4, bias=True, dtype=torch.float64)
    assert layer.bias is not None
    nn.init.normal_(layer.bias)
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    for shape in [(5,), (3, 5), (2, 3, 5), (2, 1, 3, 5), (0, 5)]:
        x = torch.randn(shape, dtype=torch.float64)
        y = layer(x).detach().numpy()
        assert y.shape == (*shape[:-1], 4)
        for index in np.ndindex(*shape[:-1]):
            expected = -np.abs(x.numpy()[index] - weight).sum(1) + bias
            np.testing.assert_allclose(y[index], expected, rtol=1e-12)


def test_linear_takes_an_empty_batch_through_backward():
    layer = AdderLinear(5, 4)
    layer(torch.empty(0, 5)).sum().backward()
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, torch.zeros(4, 5))


def test_linear_gradients_are_the_surrogates():
    torch.manual_seed(0)
    layer = AdderLinear(5, 4, dtype=torch.float64)
    x = (3 * torch.randn(7, 5, dtype=torch.float64)).requires_grad_()
    g = torch.randn(7, 4, dtype=torch.float64)
    layer(x).backward(g)
    difference = x.detach().numpy()[:, None] - layer.weight.detach().numpy()[None]  # (7, 4, 5)
    assert x.grad is not None and layer.weight.grad is not None
    np.testing.assert_allclose(layer.weight.grad, (g.numpy()[..., None] * difference).sum(0), rtol=1e-10)
    clamped = np.clip(-difference, -1, 1)
    np.testing.assert_allclose(x.grad, (g.numpy()[..., None] * clamped).sum(1), rtol=1e-10)


@pytest.mark.parametrize("name", ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation"])
def test_attributes_are_those_of_conv2d(name):
    arguments = {"stride": 2, "padding": (1, 2), "dilation": 3, "groups": 2, "bias": True}
    ours, theirs = Adder2d(4, 6, (3, 1), **arguments), nn.Conv2d(4, 6, (3, 1), **arguments)
    assert getattr(ours, name) == getattr(theirs, name)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.weight, theirs.weight)


def test_repr_names_what_differs_from_the_defaults():
    assert repr(Adder2d(3, 8, 3)) == "Adder2d(3, 8, kernel_size=(3, 3), stride=(1, 1))"
    text = repr(Adder2d(4, 8, 3, padding="same", groups=2, bias=True, padding_mode="reflect"))
    assert text == (
        "Adder2d(4, 8, kernel_size=(3, 3), stride=(1, 1), padding='same', groups=2, padding_mode='reflect', bias=True)"
    )
    assert repr(AdderLinear(3, 8)) == "AdderLinear(3, 8, bias=False)"


@pytest.mark.parametrize("layer", [Adder2d(2, 3, 3, bias=True), AdderLinear(2, 3)], ids=["2d", "linear"])
def test_copies_are_equal_and_independent(layer):
    saved = io.BytesIO()
    torch.save(layer, saved)
    saved.seek(0)
    copies = [
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(saved, weights_only=False),
    ]
    for other in copies:
        assert repr(other) == repr(layer)
        assert torch.equal(other.weight, layer.weight)
        other.weight.data += 1
        assert not torch.equal(other.weight, layer.weight)


def test_channels_last_comes_out_as_it_went_in():
    layer = Adder2d(4, 6, 3, padding=1)
    x = torch.randn(2, 4, 8, 8)
    y = layer(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, layer(x))


def test_compiles_without_a_break():
    model = nn.Sequential(Adder2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), AdderLinear(100, 5))
    x = torch.randn(2, 3, 5, 5)
    expected = model.eval()(x)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected)
    model.train()
    compiled(x).sum().backward()
    assert model[0].weight.grad is not None


def test_dtype_and_device_reach_the_parameters():
    layer = Adder2d(2, 3, 1, bias=True, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.bfloat16)}


def test_first_training_step_leaves_no_trace():
    layer = nn.Sequential(Adder2d(2, 3, 3), nn.BatchNorm2d(3))
    before = copy.deepcopy(layer.state_dict())
    layer(torch.randn(4, 2, 5, 5)).sum().backward()
    assert layer.state_dict().keys() == before.keys()
    assert torch.equal(layer[0].weight, before["0.weight"])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Adder2d(0, 3, 1), r"`in_channels` \(=0\) must be an integer >= 1"),
        (lambda: Adder2d(3, 2.0, 1), r"`out_channels` \(=2.0\) must be an integer >= 1"),  # type: ignore[arg-type]
        (lambda: Adder2d(3, 3, 0), r"`kernel_size` \(=0\) must be >= 1"),
        (lambda: Adder2d(3, 3, 1, stride=0), r"`stride` \(=0\) must be >= 1"),
        (lambda: Adder2d(3, 3, 1, padding=-1), r"`padding` \(=-1\) must be >= 0"),
        (lambda: Adder2d(3, 3, 1, padding="full"), r"`padding` \(='full'\)"),
        (lambda: Adder2d(3, 3, 1, stride=2, padding="same"), r"`stride` \(=\(2, 2\)\) must be 1"),
        (lambda: Adder2d(3, 3, 1, dilation=0), r"`dilation` \(=0\) must be >= 1"),
        (lambda: Adder2d(3, 4, 1, groups=2), r"`in_channels` \(=3\) must be divisible by `groups` \(=2\)"),
        (lambda: Adder2d(4, 3, 1, groups=2), r"`out_channels` \(=3\) must be divisible by `groups` \(=2\)"),
        (lambda: Adder2d(4, 3, 1, groups=0), r"`groups` \(=0\) must be an integer >= 1"),
        (lambda: Adder2d(3, 3, 1, padding_mode="wrap"), r"`padding_mode` \(='wrap'\) must be one of zeros"),
        (lambda: AdderLinear(0, 3), r"`in_features` \(=0\)"),
        (lambda: AdderLinear(3, 3)(torch.zeros(2, 4)), r"`input` \(shape \(2, 4\)\) must have 3 features"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_adder_parameters_come_once_and_in_order():
    shared = Adder2d(4, 4, 1)
    tied = Adder2d(4, 4, 1)
    tied.weight = shared.weight
    linear = AdderLinear(4, 2, bias=True)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), shared, nn.BatchNorm2d(4), shared, tied, nn.Flatten(), linear)
    found = adder_parameters(model)
    assert [id(p) for p in found] == [id(shared.weight), id(linear.weight)]
    assert adder_parameters(nn.Conv2d(3, 4, 1)) == []
    assert adder_parameters(linear)[0] is linear.weight
