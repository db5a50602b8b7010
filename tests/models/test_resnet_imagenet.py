"""The networks for ImageNet: their facts, their twins, and torchvision's weights in the convolutional ones."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from adderkit import models
from adderkit.models import torchvision_weights
from adderkit.nn import Adder2d, unnormalised

LAYERS = ["adder", "conv"]
MAPS = {  # of an image of 64 pixels
    "resnet18": [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)],
    "resnet50": [(256, 16, 16), (512, 8, 8), (1024, 4, 4), (2048, 2, 2)],
    "resnet152": [(256, 16, 16), (512, 8, 8), (1024, 4, 4), (2048, 2, 2)],
}
# He et al., Table 1, and torchvision's documentation: layers with weights but for shortcuts, millions of parameters
COUNTS = {"resnet18": (18, 11.69), "resnet50": (50, 25.56), "resnet152": (152, 60.19)}

needs_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed"
)


@pytest.mark.parametrize(
    ("name", "layer"), [("resnet18", "adder"), ("resnet18", "conv"), ("resnet50", "adder"), ("resnet152", "conv")]
)
def test_maps_and_gradients(name, layer):
    model = models.create(name, layer, num_classes=7)
    calls, shapes = [], []
    for path in model.stage_paths:
        model.get_submodule(path).register_forward_hook(lambda _, args, output: shapes.append(tuple(output.shape[1:])))
    for path in (model.stem_path, model.classifier_path):
        model.get_submodule(path).register_forward_hook(lambda module, *_: calls.append(type(module)))
    logits = model(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 7) and logits.isfinite().all()
    assert calls == [nn.Conv2d, nn.Linear] and shapes == MAPS[name]
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", MAPS)
def test_counts(name):
    with torch.device("meta"):
        model = models.create(name, "conv", num_classes=1000)
    weighted = [path for path, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    layers, millions = COUNTS[name]
    assert len([path for path in weighted if "downsample" not in path]) == layers
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
    strides = {path: m.stride for path, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)}
    inner = "conv1" if name == "resnet18" else "conv2"  # the 3x3, as in torchvision and the official code
    expected = [f"layer{stage}.0.{part}" for stage in (2, 3, 4) for part in (inner, "downsample.0")]
    assert list(strides) == ["conv1", *expected]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_twins_differ_in_operators_and_their_sources_ends(name):
    built = {}
    for layer in LAYERS:
        torch.manual_seed(3)
        built[layer] = models.create(name, layer)
    adder, conv = built["adder"], built["conv"]
    shapes = [[(key, value.shape) for key, value in model.state_dict().items()] for model in (adder, conv)]
    assert [item for item in shapes[0] if not item[0].startswith("bn2.")] == shapes[1]
    for key in ("conv1.weight", "fc.weight", "fc.bias"):
        assert torch.equal(adder.state_dict()[key], conv.state_dict()[key])
    kinds = [{path: type(m) for path, m in model.named_modules()} for model in (adder, conv)]
    swapped = {Adder2d: nn.Conv2d, nn.BatchNorm1d: nn.Identity}  # the latter on the logits
    assert {path: swapped.get(kind, kind) for path, kind in kinds[0].items()} == kinds[1]
    assert [path for path, kind in kinds[0].items() if kind is nn.BatchNorm1d] == ["bn2"]
    convolutions = [path for path, kind in kinds[1].items() if kind is nn.Conv2d]
    assert [path for path, kind in kinds[0].items() if kind is nn.Conv2d] == ["conv1"]
    assert len(convolutions) - 1 == sum(kind is Adder2d for kind in kinds[0].values())
    assert unnormalised(adder, torch.zeros(1, 3, 32, 32)) == []
    for path in convolutions:  # He's normal distribution by the number of outputs
        weight = conv.get_submodule(path).weight
        assert weight.std().item() == pytest.approx((2 / weight[:, 0].numel()) ** 0.5, rel=0.05)


def test_the_official_resnet50_fits(monkeypatch):
    """Names, shapes, strides and the classifier: the same logits, in double."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "nn")
    from official_standin import OfficialResNet, trained

    from adderkit.nn import load_official

    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    official = trained(OfficialResNet((3, 4, 6, 3), num_classes=5), images).double()
    network = models.create("resnet50", "adder", num_classes=5).double().eval()
    (note,) = load_official(network, official.state_dict())
    assert note == "the 1x1 convolution `fc` became the linear layer `fc`"
    with torch.no_grad():
        expected = official(images.double())
        assert expected.std() > 0.1
        torch.testing.assert_close(network(images.double()), expected, rtol=1e-8, atol=1e-8)


def with_statistics(network: nn.Module) -> nn.Module:
    """Running statistics and scales of their own, so that no BatchNorm is an identity."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 96, 96))
    return network.eval()


@needs_torchvision
@pytest.mark.parametrize(("name", "kind"), [("resnet18", "mapping"), ("resnet18", "safetensors"), ("resnet50", "pth")])
def test_torchvisions_weights_give_torchvisions_logits(name, kind, tmp_path):
    import torchvision

    torch.manual_seed(0)
    reference = with_statistics(getattr(torchvision.models, name)())
    state = reference.state_dict()
    if kind == "pth":
        torch.save(state, tmp_path / "weights.pth")
    elif kind == "safetensors":
        save_file(state, tmp_path / "weights.safetensors")
    network = models.create(name, "conv", num_classes=1000).eval()
    assert models.load_torchvision(network, state if kind == "mapping" else tmp_path / f"weights.{kind}") == []
    with torch.no_grad():
        images = torch.randn(2, 3, 224, 224)
        expected = reference(images)
        assert expected.std() > 0.1
        torch.testing.assert_close(network(images), expected, rtol=1e-5, atol=1e-5)


@needs_torchvision
@pytest.mark.parametrize("name", MAPS)
def test_names_and_shapes_are_torchvisions(name):
    import torchvision

    with torch.device("meta"):
        reference = getattr(torchvision.models, name)().state_dict()
        network = models.create(name, "conv", num_classes=1000).state_dict()
    assert [(key, value.shape) for key, value in network.items()] == [(k, v.shape) for k, v in reference.items()]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch's cache in the test's folder, and downloads that never reach a network: they write `served`."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    served: dict[str, bytes] = {}
    asked: list[str] = []

    def fetch(url: str, path: str, hash_prefix: str | None = None, progress: bool = True) -> None:
        asked.append(url)
        if url not in served:
            raise OSError("no route to host")
        found = hashlib.sha256(served[url]).hexdigest()
        if not found.startswith(hash_prefix or "-"):
            raise RuntimeError(f'invalid hash value (expected "{hash_prefix}", got "{found}")')
        Path(path).write_bytes(served[url])

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    return served, asked, tmp_path / "hub" / "checkpoints"


@pytest.fixture
def entry(monkeypatch):
    """torchvision's weights IMAGENET1K_V1 of ResNet-18 become a file of ours; gives (address, content)."""
    pytest.importorskip("torchvision")
    torch.manual_seed(1)
    state = models.create("resnet18", "conv", num_classes=1000).state_dict()
    stream = io.BytesIO()
    torch.save(state, stream)
    url = f"https://example.org/resnet18-{hashlib.sha256(stream.getvalue()).hexdigest()[:8]}.pth"
    found = torchvision_weights._entry

    def ours(network: str, weights: str):
        value = found(network, weights)
        return value if weights != "IMAGENET1K_V1" else type(value)(url=url, transforms=value.transforms, meta={})

    monkeypatch.setattr(torchvision_weights, "_entry", ours)
    return url, stream.getvalue()


def test_weights_are_fetched_once_and_checked(hub, entry):
    served, asked, cache = hub
    url, content = entry
    network = models.create("resnet18", "conv", num_classes=1000)
    with pytest.raises(
        ValueError, match=r"example.org/resnet18-.*can't be fetched \(no route to host\); fetch it by oth"
    ):
        models.load_torchvision(network)
    served[url] = content[:-1]
    with pytest.raises(ValueError, match=r"can't be fetched .*invalid hash"):
        models.load_torchvision(network)
    assert list(cache.iterdir()) == []
    served[url] = content
    for _ in range(2):
        assert models.load_torchvision(network) == []
    assert len(asked) == 3  # the last time it came from the cache
    (file,) = cache.iterdir()
    file.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"is damaged: its SHA-256 begins with .*; delete it"):
        models.load_torchvision(network)


@needs_torchvision
@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet18", "V7", r"`weights` \(=V7\): torchvision has IMAGENET1K_V1, DEFAULT for resnet18"),
        ("resnet20", "IMAGENET1K_V1", r"`network` \(=resnet20\): torchvision has no such network"),
    ],
)
def test_what_torchvision_does_not_have(hub, name, weights, message):
    with pytest.raises(ValueError, match=message):
        models.load_torchvision(models.create(name, "conv"), weights)


def test_what_does_not_fit_is_told(tmp_path):
    state = models.create("resnet18", "conv", num_classes=10).state_dict()
    with pytest.raises(ValueError, match=r"`network` \(=resnet18\) is an adder network: weights of torchvision are of"):
        models.load_torchvision(models.create("resnet18", "adder"), state)
    with pytest.raises(ValueError, match=r"`fc.weight` has the shape \(10, 512\), in the model \(7, 512\)"):
        models.load_torchvision(models.create("resnet18", "conv", num_classes=7), state)
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"x.safetensors` can't be read"):
        models.load_torchvision(models.create("resnet18", "conv"), tmp_path / "x.safetensors")


def test_missing_torchvision_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match=r'need it: pip install "adderkit\[vision\]"'):
        models.load_torchvision(models.create("resnet18", "conv", num_classes=1000))
