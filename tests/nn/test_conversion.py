"""`convert`: what becomes an adder layer, what stays, and what is refused."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import adderkit
from adderkit.nn import Adder1d, Adder2d, Adder3d, AdderTranspose2d, adder_parameters, convert

X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def small() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )


def middle(conv: nn.Module, channels: int = 4) -> nn.Sequential:
    """`conv` where it is neither first nor last."""
    return nn.Sequential(nn.Conv2d(3, channels, 1), conv, nn.Flatten(), nn.LazyLinear(2))


def adders(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if isinstance(module, Adder2d)]


class Backwards(nn.Module):
    """Registers its layers in the reverse of the order they run in."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(8, 5, 1)
        self.late = nn.Conv2d(8, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.stem = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.late(self.stem(x))))


def test_first_convolution_and_linear_classifier_stay_by_default():
    model = small()
    before = copy.deepcopy(model.state_dict())
    converted = convert(model)
    assert adders(converted) == ["3", "6.0"]
    assert type(converted) is nn.Sequential
    assert adders(model) == [] and all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    kept = [k for k in before if k.split(".")[0] in ("0", "1", "4", "9")]
    assert len(kept) == 14
    for key in kept:  # the rest is copied, not shared
        value = converted.state_dict()[key]
        assert torch.equal(value, before[key])
        assert value.data_ptr() != model.state_dict()[key].data_ptr()


def test_it_is_exported_on_top():
    assert adderkit.convert is convert


@pytest.mark.parametrize("name", ["resnet8", "vgg_small"])
@pytest.mark.parametrize("with_example", [False, True])
def test_a_converted_twin_is_the_adder_network(name, with_example):
    """The classifier of these is a convolution, with a BatchNorm after it."""
    twin, expected = adderkit.models.create(name, "conv"), adderkit.models.create(name, "adder")
    converted = convert(twin, example=torch.randn(1, 3, 32, 32) if with_example else None)
    assert repr(converted) == repr(expected)
    assert converted.load_state_dict(expected.state_dict())


GEOMETRIES = [
    {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": (3, 1), "stride": (1, 2), "padding": (2, 0), "dilation": (2, 1)},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": 2, "padding": "valid", "groups": 2},
    {"kernel_size": 3, "padding": 1, "groups": 4, "padding_mode": "circular"},
]


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_geometry_is_kept(options):
    conv = nn.Conv2d(4, 8, **options)
    converted = convert(middle(conv))[1]  # type: ignore[index]
    assert type(converted) is Adder2d
    for name in ("in_channels", "out_channels", *nn.Conv2d.__constants__):
        if name not in ("output_padding", "transposed"):
            assert getattr(converted, name) == getattr(conv, name) or name == "bias"
    assert (converted.bias is None) == (conv.bias is None)
    x = torch.randn(2, 4, 9, 8)
    assert converted(x).shape == conv(x).shape


@pytest.mark.parametrize(
    ("conv", "kind", "size"),
    [
        (nn.Conv1d(4, 8, 3, padding="same", groups=2, bias=False), Adder1d, (9,)),
        (nn.Conv1d(4, 8, 4, stride=3, padding=2, padding_mode="reflect"), Adder1d, (9,)),
        (nn.Conv3d(4, 8, (1, 3, 2), stride=(1, 2, 1), padding=(0, 1, 1)), Adder3d, (3, 6, 5)),
        (nn.ConvTranspose2d(4, 8, 4, stride=2, padding=1, groups=2), AdderTranspose2d, (5, 4)),
        (nn.ConvTranspose2d(4, 8, 2, stride=(2, 3), output_padding=(1, 2), bias=False), AdderTranspose2d, (5, 4)),
    ],
    ids=str,
)
def test_other_dimensions_and_transposed_convolutions(conv, kind, size):
    stem = nn.ModuleList([nn.Conv2d(3, 4, 1), conv, nn.Linear(1, 1)])  # never run as a whole
    converted = convert(stem)[1]  # type: ignore[index]
    assert type(converted) is kind
    x = torch.randn(2, 4, *size)
    assert converted(x).shape == conv(x).shape
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
        assert getattr(converted, name) == getattr(conv, name)
    assert converted.state_dict().keys() == conv.state_dict().keys()


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d])
def test_sizes_that_numpy_computed_become_plain_ones(kind):
    one, two, four = map(np.int64, (1, 2, 4))
    conv = kind(four, four, two, stride=(two,) * 2 if "2d" in kind.__name__ else two, padding=one, groups=two)
    layer = convert(nn.Sequential(conv), keep_ends=False)[0]
    sizes = (layer.in_channels, layer.out_channels, layer.groups, *layer.kernel_size, *layer.stride, *layer.padding)
    assert {type(size) for size in sizes} == {int}
    x = torch.zeros(2, 4, *(6,) * (conv.weight.dim() - 2))
    assert layer(x).shape == conv(x).shape
    assert repr(layer) == repr(type(layer)(4, 4, 2, stride=2, padding=1, groups=2, bias=True))


def test_device_dtype_layout_flags_are_kept():
    conv = nn.Conv2d(4, 8, 3, dtype=torch.bfloat16).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    conv.weight.requires_grad_(False)
    converted = convert(middle(conv))[1]  # type: ignore[index]
    assert converted.weight.dtype == converted.bias.dtype == torch.bfloat16
    assert converted.weight.is_contiguous(memory_format=torch.channels_last)
    assert not converted.weight.is_contiguous()
    assert not converted.training
    assert not converted.weight.requires_grad and converted.bias.requires_grad
    on_meta = convert(middle(nn.Conv2d(4, 8, 3, device="meta")))[1]  # type: ignore[index]
    assert on_meta.weight.is_meta


def test_filters_are_new_and_follow_the_seed():
    model = middle(nn.Conv2d(64, 64, 3), channels=64)
    torch.manual_seed(3)
    first = convert(model)[1]  # type: ignore[index]
    torch.manual_seed(3)
    again = convert(model)[1]  # type: ignore[index]
    assert torch.equal(first.weight, again.weight)
    # 36,864 numbers: the mean's deviation is 0.005, that of the variance 0.007; a convolution's variance is 0.0006
    assert abs(first.weight.mean().item()) < 0.025 and abs(first.weight.var().item() - 1) < 0.04
    assert torch.equal(first.bias, torch.zeros(64))


def test_the_run_decides_what_is_first_and_last():
    assert adders(convert(Backwards(), example=X)) == ["late"]


def test_without_a_run_a_wrong_order_of_registration_is_suspected():
    with pytest.warns(UserWarning, match="head is registered first .* stem reads fewer channels: give an") as caught:
        assert adders(convert(Backwards())) == ["late"]  # stem passes for the classifier
    assert [warning.filename for warning in caught] == [__file__]


def test_ends_can_be_converted_too():
    assert adders(convert(small(), keep_ends=False)) == ["0", "3", "6.0"]
    alone = convert(nn.Conv2d(3, 4, 3), keep_ends=False)
    assert type(alone) is Adder2d


def test_example_of_several_inputs():
    class TwoInputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Backwards()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.model(a + b)

    assert adders(convert(TwoInputs(), example=(X, X))) == ["model.late"]


@pytest.mark.parametrize(
    ("skip", "expected"),
    [
        ("3", ["6.0"]),
        (["3"], ["6.0"]),
        ("6", ["3"]),
        ("6.*", ["3"]),
        (["0", "9"], ["3", "6.0"]),  # they stay anyway
        ("*.0", ["3"]),
        (lambda path, module: module.kernel_size == (1, 1), ["3"]),
        (lambda path, module: path == "3", ["6.0"]),
        ((), ["3", "6.0"]),
    ],
    ids=lambda value: "function" if callable(value) else str(value),  # a function's text differs between processes
)
def test_skip(skip, expected):
    assert adders(convert(small(), skip)) == expected


@pytest.mark.parametrize(
    ("skip", "message"),
    [
        ("layr3", r"`skip` \(='layr3'\): the model has no such module. Did you mean .*layer3"),
        (["conv1", "layer9.*"], r"`skip` \(='layer9.\*'\): the model has no such module"),
        ("", r"`skip` \(=''\)"),
        ([3], r"`skip` \(holds 3\) must be module paths"),
    ],
)
def test_unknown_names_in_skip(skip, message):
    with pytest.raises(ValueError, match=message):
        convert(adderkit.models.create("resnet8", "conv"), skip)


def test_a_shared_convolution_becomes_one_layer():
    shared = nn.Conv2d(8, 8, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), shared, nn.BatchNorm2d(8), shared, nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    converted = convert(model)
    assert type(converted[1]) is Adder2d and converted[1] is converted[3]  # type: ignore[index]
    with pytest.raises(ValueError, match="has no convolution to convert"):  # both or neither
        convert(model, "3")


def test_shared_filters_stay_shared():
    model = middle(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)))
    model[1][2].weight = model[1][0].weight  # type: ignore[index]
    converted = convert(model)[1]  # type: ignore[index]
    assert converted[0].weight is converted[2].weight and converted[0].bias is not converted[2].bias
    assert len(adder_parameters(converted)) == 1
    with pytest.raises(ValueError, match=r"1\.2: its parameters are those of `1\.0` too, which stays as it is"):
        convert(model, "1.0")


def test_plain_lists_see_the_new_layers():
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.head = nn.Conv2d(4, 2, 1)
            self.blocks = [self.a, self.b]  # no ModuleList

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    converted = convert(Listed())
    assert converted.blocks[0] is converted.a and type(converted.a) is Adder2d


def test_the_model_is_left_as_it_was():
    model = small()
    model[4].eval()
    flags = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    convert(model, example=X)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Squared(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) ** 2


class Padded(nn.Conv2d):
    """Only its constructor differs."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)


def hooked(register: str) -> nn.Module:
    conv = nn.Conv2d(4, 4, 1)
    getattr(conv, register)(lambda *_: None)
    return conv


def patched() -> nn.Module:
    conv = nn.Conv2d(4, 4, 1)
    conv.forward = lambda x: x  # type: ignore[assignment, method-assign]
    return conv


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Conv2d(4, 4, 1))


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.nn import qat
        from torch.ao.quantization import get_default_qat_qconfig

        return qat.Conv2d(4, 4, 1, qconfig=get_default_qat_qconfig("x86"))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Squared(4, 4, 1), r"Squared computes in a way of its own \(it defines `forward`\)"),
        (patched, r"computes in a way of its own"),
        (lambda: parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), "parametrised; .*remove_parametrizations"),
        (lambda: parametrizations.spectral_norm(nn.Conv2d(4, 4, 1)), "parametrised"),
        (old_weight_norm, "it holds weight_g, weight_v: undo weight normalisation"),
        (lambda: nn.utils.spectral_norm(nn.Conv2d(4, 4, 1)), "it holds .*weight_orig"),
        (lambda: prune.random_unstructured(nn.Conv2d(4, 4, 1), "weight", 0.5), "weight_mask.*pruning"),
        (lambda: hooked("register_forward_hook"), r"hooks \(_forward_hooks\)"),
        (lambda: hooked("register_forward_pre_hook"), r"hooks \(_forward_pre_hooks\)"),
        (lambda: hooked("register_full_backward_hook"), r"hooks \(_backward_hooks\)"),
        (lambda: nn.LazyConv2d(4, 1), "no shape yet; run the model once"),
        (quantised, "it is quantised"),
        (lambda: nn.Conv2d(4, 4, 1, dtype=torch.complex64), "no plain real tensor"),
        (lambda: nn.ConvTranspose3d(4, 4, 1), "there is no adder layer for ConvTranspose3d"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_path_unless_it_is_skipped(build, message):
    model = middle(nn.Sequential(build(), nn.Conv2d(4, 4, 1)))
    with pytest.raises(ValueError, match=rf"(?s)name it in `skip`\):\n  1\.0: .*{message}"):
        convert(model)
    if "weight" in dict(model[1][0].named_parameters()):  # torch does not copy the others  # type: ignore[index]
        assert adders(convert(model, "1.0")) == ["1.1"]


def test_all_obstacles_are_listed_at_once():
    with pytest.raises(ValueError, match=r"(?s)1\.0: .*Squared.*1\.1: .*hooks"):
        convert(middle(nn.Sequential(Squared(4, 4, 1), hooked("register_forward_hook"))))


def test_a_subclass_that_computes_as_conv2d_is_converted():
    assert repr(convert(middle(Padded(4)))[1]) == repr(Adder2d(4, 4, 3, padding=1, bias=True))  # type: ignore[index]


def test_parametrisations_removed_as_told():
    model = middle(parametrizations.weight_norm(nn.Conv2d(4, 4, 1)))
    parametrize.remove_parametrizations(model[1], "weight")
    assert adders(convert(model)) == ["1"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(2, 2), r"\(Linear\) has no convolution to convert; those that stay: it holds none"),
        (nn.Conv2d(3, 4, 1), "those that stay: the model itself"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)), "those that stay: 0, 1"),
        ("resnet18", r"`model` \(a str\) must be a torch.nn.Module"),
    ],
)
def test_nothing_to_convert_is_an_error(model, message):
    with pytest.raises(ValueError, match=message):
        convert(model)


def test_a_model_that_copies_itself_in_its_own_way_is_refused():
    class Own(nn.Sequential):
        def __deepcopy__(self, memo):
            return Own(*(copy.deepcopy(module) for module in self))

    with pytest.raises(ValueError, match=r"\(Own\): a `__deepcopy__` of its own keeps `1` as it is"):
        convert(Own(*middle(nn.Conv2d(4, 4, 1))))


def test_an_example_that_reaches_no_convolution():
    class Bypass(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = small()

        def forward(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(ValueError, match="`example`: the model calls none"):
        convert(Bypass(), example=X)


def test_a_missing_normalisation_is_warned_of_at_once_with_an_example():
    bare = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
    )
    with pytest.warns(UserWarning, match=r"no normalisation receives the output of 1 itself") as caught:
        convert(bare, example=X)
    assert [warning.filename for warning in caught] == [__file__]
    convert(small(), example=X)  # warnings are errors here


def test_a_missing_normalisation_is_warned_of_in_training_without_one():
    converted = convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    with pytest.warns(UserWarning, match="feeds ReLU directly"):
        converted(X)
