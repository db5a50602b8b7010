"""Official checkpoints, written by the stand-in of `official_standin`, read into our networks."""

from __future__ import annotations

import copy
import importlib.util
import os
import re
import zipfile

import pytest
import torch
from official_standin import OfficialResNet, SlowAdder, trained
from torch import Tensor, nn

from adderkit import models
from adderkit.nn import Adder2d, convert, load_official

needs_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None and "CI" not in os.environ, reason="torchvision is not installed"
)


DAMAGED = "no file of torch.save, or damaged"


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def resnet20() -> nn.Module:
    torch.manual_seed(0)
    return trained(OfficialResNet((3, 3, 3)), images(4))


@torch.no_grad()
def logits(model: nn.Module, x: Tensor) -> Tensor:
    return model.eval()(x.to(next(model.parameters()).dtype))


def test_resnet20_gives_the_logits_of_the_official_network(resnet20, tmp_path):
    torch.save(resnet20.state_dict(), tmp_path / "official.pth")
    network = models.create("resnet20")
    assert load_official(network, tmp_path / "official.pth") == []
    x = images(2)
    expected = logits(copy.deepcopy(resnet20).double(), x)
    assert expected.std() > 0.1  # something to agree on
    torch.testing.assert_close(logits(copy.deepcopy(network).double(), x), expected, rtol=1e-9, atol=1e-9)
    # float32: sums of 576 terms, 19 layers deep
    torch.testing.assert_close(logits(network, x).double(), expected, rtol=1e-3, atol=1e-3)


@needs_torchvision
def test_bottlenecks_go_into_a_converted_torchvision_network_whose_classifier_is_linear(tmp_path):
    from torchvision.models.resnet import Bottleneck, ResNet

    torch.manual_seed(0)
    official = trained(OfficialResNet((2, 1, 1, 1), num_classes=7), images(4))
    torch.save(official.state_dict(), tmp_path / "official.pth")
    network = convert(ResNet(Bottleneck, [2, 1, 1, 1], num_classes=7))
    (note,) = load_official(network, tmp_path / "official.pth")
    assert "`fc` and its BatchNorm `bn2` were folded into the linear layer `fc`" in note
    # in double from the start: folded weights are rounded to the model's type
    wide = convert(ResNet(Bottleneck, [2, 1, 1, 1], num_classes=7)).double()
    load_official(wide, tmp_path / "official.pth")
    x = images(2)
    expected = logits(official.double(), x)
    torch.testing.assert_close(logits(wide, x), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logits(network, x).double(), expected, rtol=1e-3, atol=1e-3)


def filled(checkpoint) -> nn.Module:
    network = models.create("resnet20")
    assert load_official(network, checkpoint) == []
    return network


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "net"])
def test_checkpoints_of_data_parallel_are_unwrapped(resnet20, wrapper, tmp_path):
    prefixed = {f"module.{key}": value for key, value in resnet20.state_dict().items()}
    torch.save({wrapper: prefixed, "epoch": 400, "best": 0.918}, tmp_path / "official.pth")
    network = filled(tmp_path / "official.pth")
    assert torch.equal(network.layer3[0].downsample[0].weight, resnet20.layer3[0].downsample[0].adder)
    assert torch.equal(network.bn2.running_var, resnet20.bn2.running_var)


def test_mappings_are_taken_as_they_are_and_left_as_they_are(resnet20):
    state = resnet20.state_dict()
    keys = list(state)
    network = filled(state)
    assert list(state) == keys
    network.layer1[0].conv1.weight.data.zero_()
    assert resnet20.layer1[0].conv1.adder.any()


def test_old_files_without_counters(resnet20):
    state = {key: value for key, value in resnet20.state_dict().items() if "num_batches" not in key}
    assert len(state) < len(resnet20.state_dict())
    assert filled(state).bn1.num_batches_tracked == 0


def test_biases_are_read_from_b():
    official = nn.Sequential(SlowAdder(3, 4, 3, bias=True), nn.BatchNorm2d(4))
    model = nn.Sequential(Adder2d(3, 4, 3, bias=True), nn.BatchNorm2d(4))
    load_official(model, official.state_dict())
    assert torch.equal(model[0].bias, official[0].b)
    with pytest.raises(ValueError, match=r"not in the model: 0\.b$"):
        load_official(nn.Sequential(Adder2d(3, 4, 3), nn.BatchNorm2d(4)), official.state_dict())


def changed(state: dict[str, Tensor], removed: tuple[str, ...] = (), **added: Tensor) -> dict[str, Tensor]:
    kept = {key: value for key, value in state.items() if key not in removed}
    return {**kept, **{key.replace("__", "."): value for key, value in added.items()}}


def test_every_fault_is_listed_and_nothing_is_loaded(resnet20):
    broken = changed(
        resnet20.state_dict(),
        ("layer1.0.conv1.adder", "bn1.running_mean", "layer2.1.conv2.adder"),
        layer2__1__conv2__weight=torch.zeros(32, 32, 3, 3),
        extra__adder=torch.zeros(1),
        layer3__0__conv1__adder=torch.zeros(64, 32, 1, 1),
        bn1__weight=torch.zeros(16, dtype=torch.int64),
    )
    network = models.create("resnet20")
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError) as caught:
        load_official(network, broken)
    lines = str(caught.value).splitlines()
    assert lines[0] == "`checkpoint` (=given) does not fit ResNetCifar:"
    assert set(lines[1:]) == {
        "  `layer2.1.conv2` is an adder layer in the model, but a convolution or linear layer in the checkpoint",
        "  missing from the checkpoint: bn1.running_mean, layer1.0.conv1.adder",
        "  not in the model: extra.adder",
        "  `layer3.0.conv1.adder` has the shape (64, 32, 1, 1), in the model (64, 32, 3, 3)",
        "  `bn1.weight` has the dtype torch.int64, in the model torch.float32",
    }
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_an_adder_layer_never_fills_a_convolution(resnet20):
    """The shapes agree: only the names tell."""
    with pytest.raises(ValueError, match=r"`layer1\.0\.conv1` is a convolution .*in the model, but an adder layer in"):
        load_official(models.create("resnet20", "conv"), resnet20.state_dict())


class Headed(nn.Module):
    """The official end of a network with another kind of classifier."""

    def __init__(self, fc: nn.Module, bn2: nn.Module | None = None) -> None:
        super().__init__()
        self.fc = fc
        if bn2 is not None:
            self.bn2 = bn2

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        return self.bn2(x) if hasattr(self, "bn2") else x


def test_folding_is_exact_and_only_where_it_is_needed():
    torch.manual_seed(0)
    x = torch.randn(8, 5, 1, 1)
    official = trained(Headed(nn.Conv2d(5, 3, 1), nn.BatchNorm2d(3)), x)
    expected = logits(copy.deepcopy(official).double(), x).flatten(1)
    folded = Headed(nn.Linear(5, 3)).double()
    assert len(load_official(folded, official.state_dict())) == 1
    torch.testing.assert_close(logits(folded, x.flatten(1)), expected, rtol=1e-12, atol=1e-12)
    own_norm = Headed(nn.Linear(5, 3), nn.BatchNorm1d(3)).double()
    (note,) = load_official(own_norm, official.state_dict())
    assert "became the linear layer" in note
    torch.testing.assert_close(logits(own_norm, x.flatten(1)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (Headed(nn.Linear(5, 3, bias=False)), {}, r"not in the model: fc\.bias, bn2\.weight, bn2\.bias, "),
        (Headed(nn.Linear(5, 3)), {"removed": ("bn2.running_var",)}, r"not in the model: bn2\.weight, "),
        (Headed(nn.Linear(5, 3)), {"bn2__running_var": torch.ones(4)}, r"not in the model: bn2\.weight, "),
        (Headed(nn.Linear(4, 3)), {}, r"`fc\.weight` has the shape \(3, 5\), in the model \(3, 4\)"),
        (
            Headed(nn.Linear(5, 3)),
            {"fc__weight": torch.zeros(3, 5, 2, 2)},
            r"`fc\.weight` has the shape \(3, 5, 2, 2\)",
        ),
    ],
)
def test_what_cannot_be_folded_is_refused(model, change, message):
    official = Headed(nn.Conv2d(5, 3, 1), nn.BatchNorm2d(3))
    with pytest.raises(ValueError, match=message):
        load_official(model, changed(official.state_dict(), **change))


def test_a_pickled_module_is_refused_with_the_way_out(resnet20, tmp_path):
    path = tmp_path / "addernet"
    torch.save(resnet20, path)
    with pytest.raises(ValueError) as caught:
        load_official(models.create("resnet20"), path)
    message = str(caught.value)
    assert "holds pickled Python objects (official_standin." in message
    way_out = re.findall(r"^  (.*)$", message, re.MULTILINE)
    assert len(way_out) == 2
    exec("\n".join(way_out).replace("'weights.pth'", "target"), {"torch": torch, "target": tmp_path / "weights.pth"})
    filled(tmp_path / "weights.pth")


class Exploding:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}, "args": Exploding()}, "bad.pth")
    with pytest.raises(ValueError, match=r"`checkpoint` \(=bad.pth\) holds pickled Python objects \(.*mkdir\)"):
        load_official(models.create("resnet8"), "bad.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "must hold a state dict, but holds a Tensor"),
        ({}, "must hold a state dict, but holds an empty dict"),
        ([1], "but holds a list"),
        (None, "but holds a NoneType"),
        (
            {"state_dict": {"a.adder": 3, "b.adder": torch.zeros(1)}},
            "must hold named tensors only, but has 'a.adder': a int",
        ),
        ({"epoch": 3, "weights": {}}, "tensors only, but has 'epoch': a int, 'weights': an empty dict"),
        ({0: torch.zeros(1)}, "named tensors only, but has 0: a Tensor"),
    ],
)
def test_other_contents_are_described(content, message, tmp_path):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=message):
        load_official(models.create("resnet8"), tmp_path / "x.pth")


@pytest.mark.parametrize("content", [b"", b"no weights at all", None, "folder"])
def test_unreadable_files_are_named(content, tmp_path):
    path = tmp_path / "x.pth"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    why = {None: "No such file or directory", "folder": "Is a directory"}.get(content, DAMAGED)
    with pytest.raises(ValueError) as caught:
        load_official(models.create("resnet8"), path)
    assert str(caught.value) == f"`checkpoint` (={path}) can't be read: {why}"


def test_damaged_files_are_named(resnet20, tmp_path):
    """In words of ours: torch's recommend to switch off what keeps a file from running code."""
    path = tmp_path / "x.pth"
    torch.save(resnet20.state_dict(), path)
    whole = path.read_bytes()
    torch.save(resnet20.state_dict(), path, _use_new_zipfile_serialization=False)
    legacy = path.read_bytes()
    for content in (whole[:-2000], whole[:100], legacy[:100], legacy[:-2000], b"\x80\x02" + whole):
        path.write_bytes(content)
        with pytest.raises(ValueError) as caught:
            load_official(models.create("resnet20"), path)
        assert str(caught.value) == f"`checkpoint` (={path}) can't be read: {DAMAGED}"


def test_a_compressed_archive_is_refused(resnet20, tmp_path):
    torch.save(resnet20.state_dict(), tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as plain, zipfile.ZipFile(tmp_path / "y.pth", "w") as packed:
        for entry in plain.infolist():
            packed.writestr(entry, plain.read(entry), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"y\.pth\) can't be read: it is compressed"):
        load_official(models.create("resnet20"), tmp_path / "y.pth")


def test_a_model_without_memory_is_refused(resnet20):
    with torch.device("meta"):
        model = models.create("resnet20")
    with pytest.raises(ValueError, match="`model` has parameters on the meta device"):
        load_official(model, resnet20.state_dict())


def test_weights_take_the_types_of_the_model(resnet20):
    model = models.create("resnet20").to(torch.bfloat16)
    load_official(model, resnet20.state_dict())
    expected = resnet20.layer1[0].conv1.adder.to(torch.bfloat16)
    assert torch.equal(model.layer1[0].conv1.weight, expected)  # type: ignore[union-attr]
