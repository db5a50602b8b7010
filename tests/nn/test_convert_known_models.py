"""Networks of torchvision and timm as adder networks: one training step each."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adderkit.nn import Adder2d, AdderLinear, adder_parameters, convert
from adderkit.train import AdaptiveLocalRate


def needs(package: str) -> pytest.MarkDecorator:
    """Skips where the package is missing, but never in CI: the extras `test` and `vision` bring both."""
    is_missing = importlib.util.find_spec(package) is None and "CI" not in os.environ
    return pytest.mark.skipif(is_missing, reason=f"{package} is not installed")


def torchvision_model(name: str) -> nn.Module:
    import torchvision

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # init_weights of some constructors
        return getattr(torchvision.models, name)(weights=None, num_classes=5)


def timm_model(name: str, **options: object) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated corners of what timm imports
        import timm

        return timm.create_model(name, pretrained=False, num_classes=5, **options)


def step(model: nn.Module, size: int, still: Sequence[Tensor] = ()) -> None:
    """A training step that moves every filter as the adaptive rate says, but those in `still` not at all."""
    filters = adder_parameters(model)
    before = [tensor.detach().clone() for tensor in filters]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    AdaptiveLocalRate(model, eta=0.2).attach(optimizer)
    loss = F.cross_entropy(model.train()(torch.randn(4, 3, size, size)), torch.tensor([0, 1, 2, 3]))
    assert loss.isfinite()
    loss.backward()
    optimizer.step()
    for tensor, old in zip(filters, before, strict=True):
        moved = (tensor.detach() - old).norm().item() / tensor.numel() ** 0.5
        is_still = any(tensor is other for other in still)
        assert moved == (0 if is_still else pytest.approx(0.1 * 0.2, rel=1e-3))


def kinds(model: nn.Module) -> tuple[int, list[str]]:
    """The number of adder layers, and what is still a convolution."""
    convolutions = [path for path, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    return sum(isinstance(module, Adder2d) for module in model.modules()), convolutions


@needs("torchvision")
@pytest.mark.parametrize(
    ("name", "stem", "layers"),
    [
        ("resnet18", "conv1", 19),
        ("mobilenet_v2", "features.0.0", 51),  # 17 of them depthwise
        ("densenet121", "features.conv0", 119),
    ],
)
def test_torchvision_models_train(name, stem, layers):
    torch.manual_seed(0)
    model = convert(torchvision_model(name))
    assert kinds(model) == (layers, [stem])
    assert not any(isinstance(module, AdderLinear) for module in model.modules())
    step(model, size=64)  # at 32, maps of one pixel leave DenseNet gradients below 1e-12, the floor of the rate


@needs("torchvision")
def test_a_convolution_as_classifier_stays():
    """SqueezeNet's classifier is a 1x1 convolution; it has no normalisation, which an example brings to light."""
    model = torchvision_model("squeezenet1_1")
    assert kinds(convert(model)) == (24, ["features.0", "classifier.1"])
    with pytest.warns(UserWarning, match="no normalisation receives the output of features.3.squeeze, "):
        convert(model, example=torch.zeros(1, 3, 64, 64))


@needs("torchvision")
def test_the_run_and_the_registration_agree_on_torchvision_models():
    example = torch.zeros(1, 3, 64, 64)
    for name in ("resnet18", "mobilenet_v2"):
        model = torchvision_model(name)
        assert repr(convert(model, example=example)) == repr(convert(model))


@needs("timm")
def test_timm_models_train():
    torch.manual_seed(0)
    inverted = convert(timm_model("mobilenetv4_conv_small"))
    assert kinds(inverted) == (45, ["conv_stem"])
    step(inverted, size=64)


@needs("timm")
@pytest.mark.parametrize("is_branch_silent", [False, True])
def test_timm_resnets_train(is_branch_silent):
    """As timm creates them, the last BatchNorm of a block scales by 0: its branch learns from the second step on."""
    torch.manual_seed(0)
    options = {} if is_branch_silent else {"zero_init_last": False}
    model = convert(timm_model("resnet10t", **options), example=torch.zeros(1, 3, 64, 64))
    assert kinds(model) == (13, ["conv1.0"])
    branch = [
        layer.weight
        for path, layer in model.named_modules()
        if isinstance(layer, Adder2d) and path.endswith(("conv1", "conv2"))
    ]
    assert len(branch) == 8
    step(model, size=64, still=branch if is_branch_silent else [])
    step(model, size=64)


@needs("timm")
def test_squeeze_and_excitation_is_warned_of_and_can_stay():
    """Its convolutions feed a gate without normalisation: as adder layers they would shut it."""
    model, example = timm_model("mobilenetv3_small_050"), torch.zeros(1, 3, 64, 64)
    with pytest.warns(UserWarning, match=r"no normalisation .* blocks\.0\.0\.se\.conv_reduce, .*name such layers"):
        convert(model, example=example)
    torch.manual_seed(0)
    model = convert(model, skip=["*.se", "conv_head"], example=example)
    assert {path.split(".")[-2] for path in kinds(model)[1][1:-1]} == {"se"}
    step(model, size=64)


@needs("timm")
@pytest.mark.parametrize(
    ("name", "kind", "path"),
    [
        ("tf_efficientnet_lite0", "conv2d_same.Conv2dSame", r"blocks\.1\.0\.conv_dw"),
        ("test_nfnet", "std_conv.ScaledStdConv2d", r"stem\.conv2"),
    ],
)
def test_timm_convolutions_that_compute_in_their_own_way_are_refused_by_name(name, kind, path):
    model = timm_model(name)
    with pytest.raises(ValueError, match=rf"{path}: timm\.layers\.{kind} computes in a way of its own"):
        convert(model)
    plain = convert(model, skip=lambda _, module: type(module) is not nn.Conv2d) if "lite" in name else None
    assert plain is None or kinds(plain)[0] > 40
