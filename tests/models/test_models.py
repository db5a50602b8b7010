"""The networks: shapes, structural facts, twins that share stem and classifier, counts against the literature."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from adderkit import models
from adderkit.models import registry
from adderkit.nn import Adder2d, adder_parameters, unnormalised

NAMES = ["resnet20", "resnet32", "resnet8", "vgg_small"]  # of small images; the others are in test_resnet_imagenet.py
LARGE = ["resnet152", "resnet18", "resnet50"]
LAYERS = ["adder", "conv"]


def test_names_are_complete_and_sorted():
    assert list(models.names()) == sorted(NAMES + LARGE)


@pytest.mark.parametrize("size", [8, 28, 32])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", NAMES)
def test_every_model_takes_small_images(name, layer, size):
    model = models.create(name, layer, num_classes=7, in_channels=1)
    x = torch.randn(2, 1, size, size)
    y = model(x)
    assert y.shape == (2, 7)
    # BatchNorm on the logits: over a batch of two, each logit is +a and -a
    torch.testing.assert_close(y.sum(0), torch.zeros(7), atol=1e-4, rtol=0)
    y.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", NAMES)
def test_structural_facts(name, layer):
    model = models.create(name, layer)
    assert (model.name, model.layer, model.num_classes, model.in_channels) == (name, layer, 10, 3)
    stem, classifier = model.get_submodule(model.stem_path), model.get_submodule(model.classifier_path)
    for module in (stem, classifier):  # multiplicative in both twins
        assert isinstance(module, nn.Conv2d)
        assert module.bias is None
    calls, shapes = [], []
    for path in model.stage_paths:
        model.get_submodule(path).register_forward_hook(lambda _, args, output: shapes.append(output.shape[1:]))
    stem.register_forward_hook(lambda *_: calls.append("stem"))
    classifier.register_forward_hook(lambda *_: calls.append("classifier"))
    model.eval()(torch.zeros(1, 3, 32, 32))
    assert calls == ["stem", "classifier"]
    expected = {
        "vgg_small": [(128, 16, 16), (256, 8, 8), (512, 4, 4)],
        "resnet": [(16, 32, 32), (32, 16, 16), (64, 8, 8)],
    }
    assert shapes == expected["vgg_small" if name == "vgg_small" else "resnet"]


@pytest.mark.parametrize("name", NAMES)
def test_twins_differ_in_the_operator_alone(name):
    built = {}
    for layer in LAYERS:
        torch.manual_seed(3)
        built[layer] = models.create(name, layer)
    adder, conv = built["adder"], built["conv"]
    shapes = [{k: v.shape for k, v in model.state_dict().items()} for model in (adder, conv)]
    assert list(shapes[0].items()) == list(shapes[1].items())  # order as well
    for path in (adder.stem_path, adder.classifier_path):
        assert torch.equal(adder.get_submodule(path).weight, conv.get_submodule(path).weight)
    kinds = [{path: type(m) for path, m in model.named_modules()} for model in (adder, conv)]
    swapped = {path: nn.Conv2d if kind is Adder2d else kind for path, kind in kinds[0].items()}
    assert swapped == kinds[1]
    operators = {path for path, kind in kinds[1].items() if kind is nn.Conv2d}
    assert {path for path, kind in kinds[0].items() if kind is nn.Conv2d} == {adder.stem_path, adder.classifier_path}
    assert len(operators) == len(adder_parameters(adder)) + 2
    assert adder_parameters(conv) == []


def test_same_seed_same_model_and_other_seed_another():
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(models.create("resnet8").state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    for key in ("conv1.weight", "layer1.0.conv1.weight", "fc.weight"):
        assert not torch.equal(states[0][key], states[2][key])


@pytest.mark.parametrize("name", NAMES)
def test_every_adder_layer_is_normalised(name):
    assert unnormalised(models.create(name), torch.zeros(1, 3, 32, 32)) == []


def test_names_in_the_state_are_those_of_the_official_code():
    keys = set(models.create("resnet20").state_dict())
    batch_norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "fc.weight"} | {f"{bn}.{k}" for bn in ("bn1", "bn2") for k in batch_norm}
    for stage in (1, 2, 3):
        for block in range(3):
            at = f"layer{stage}.{block}"
            expected |= {f"{at}.conv{i}.weight" for i in (1, 2)} | {
                f"{at}.bn{i}.{k}" for i in (1, 2) for k in batch_norm
            }
        if stage > 1:
            at = f"layer{stage}.0.downsample"
            expected |= {f"{at}.0.weight"} | {f"{at}.1.{k}" for k in batch_norm}
    assert keys == expected


def operations(model: nn.Module) -> dict[str, int]:
    """Taps per image by kind of layer, from the shapes that a run at 32x32 shows."""
    count = {"adder": 0, "conv": 0}

    def add(module, args, output):
        kind = "adder" if isinstance(module, Adder2d) else "conv"
        count[kind] += output[0].numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, (Adder2d, nn.Conv2d)):
            module.register_forward_hook(add)
    model.eval()(torch.zeros(1, 3, 32, 32))
    return count


def test_resnet20_counts():
    stage1 = 6 * 16 * 16 * 9 * 32 * 32
    stage2 = (16 * 32 * 9 + 5 * 32 * 32 * 9 + 16 * 32) * 16 * 16  # the last term is the 1x1 shortcut
    stage3 = (32 * 64 * 9 + 5 * 64 * 64 * 9 + 32 * 64) * 8 * 8
    outer = 3 * 16 * 9 * 32 * 32 + 64 * 10
    assert operations(models.create("resnet20")) == {"adder": stage1 + stage2 + stage3, "conv": outer}
    assert operations(models.create("resnet20", "conv")) == {"adder": 0, "conv": stage1 + stage2 + stage3 + outer}
    # AdderNet, Table 1: CNN 41.17 M, of which 0.45 M stay multiplicative. Its rule of counting is not given; ours
    # has the operators alone (40.81 M and 0.44 M), 0.9 % and 1.6 % less.
    assert (stage1 + stage2 + stage3 + outer) / 41.17e6 == pytest.approx(1, abs=0.01)
    assert outer / 0.45e6 == pytest.approx(1, abs=0.02)
    # He et al., Table 6: 0.27 M parameters; resnet32 has 0.46 M
    for name, millions in (("resnet20", 0.27), ("resnet32", 0.46)):
        parameters = sum(parameter.numel() for parameter in models.create(name).parameters())
        assert parameters / 1e6 == pytest.approx(millions, abs=0.01)


def test_vgg_small_counts():
    stages = [128 * 128 * 1024, (128 * 256 + 256 * 256) * 256, (256 * 512 + 512 * 512) * 64]
    outer = 3 * 128 * 9 * 1024 + 512 * 16 * 10
    assert operations(models.create("vgg_small")) == {"adder": 9 * sum(stages), "conv": outer}


@pytest.mark.parametrize("layer", LAYERS)
def test_copies_and_memory_format(layer):
    model = models.create("resnet8", layer).eval()
    x = torch.randn(2, 3, 8, 8)
    expected = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(x), expected)
        assert other.stage_paths == model.stage_paths and other.name == "resnet8"
    fresh = models.create("resnet8", layer).eval()
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(fresh(x), expected)
    last = fresh.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet2"}, r"there is no network 'resnet2'. Did you mean .*resnet20.* Known: resnet152, "),
        ({"name": "zzz"}, r"there is no network 'zzz'\. Known: resnet152, "),
        ({"name": "resnet8", "layer": "add"}, r"`layer` \(='add'\) must be one of adder, conv"),
        ({"name": "resnet8", "num_classes": 1}, r"`num_classes` \(=1\) must be an integer >= 2"),
        ({"name": "resnet8", "in_channels": 0}, r"`in_channels` \(=0\) must be an integer >= 1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.create(**arguments)


class Toy(models.Network):
    stem_path = "stem"
    classifier_path = "head"
    stage_paths = ("body",)

    def __init__(self, operator, num_classes, in_channels):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 4, 1)
        self.head = nn.Linear(4, num_classes)
        self.body = nn.Sequential(operator(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


@pytest.fixture
def own_table(monkeypatch):
    """What the test registers is gone after it."""
    models.names()
    monkeypatch.setattr(registry._builders, "_table", dict(registry._builders._table))


def test_a_family_can_come_from_outside(own_table):

    @models.register
    def toynet(operator, num_classes, in_channels):
        return Toy(operator, num_classes, in_channels)

    assert "toynet" in models.names()
    model = models.create("toynet", "adder", 3)
    assert isinstance(model.get_submodule("body.0"), Adder2d)
    assert model(torch.zeros(2, 3, 5, 5)).shape == (2, 3)
    with pytest.raises(ValueError, match="the network 'toynet' is taken by"):
        models.register(toynet)


def test_wrong_facts_are_told(own_table):

    def wrong(operator, num_classes, in_channels):
        model = Toy(operator, num_classes, in_channels)
        model.stage_paths = ("nowhere",)
        return model

    models.register(wrong)
    with pytest.raises(AttributeError, match="nowhere"):
        models.create("wrong")
