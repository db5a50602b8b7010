"""`adderkit import`: weights from elsewhere become a folder that `eval`, `load_network` and `teacher_run` read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from adderkit import cli, models, train
from adderkit.data import load
from adderkit.models import torchvision_weights
from adderkit.nn import Adder2d

DIGITS = ["--network", "resnet8", "--data.name", "digits"]


@pytest.fixture
def trained() -> torch.nn.Module:
    """An adder network whose BatchNorms have statistics."""
    torch.manual_seed(0)
    network = models.create("resnet8", "adder", in_channels=1)
    network(torch.randn(16, 1, 8, 8))
    return network.eval()


@pytest.fixture
def checkpoint(trained, tmp_path) -> Path:
    """Its weights under the official names."""
    adders = {path for path, module in trained.named_modules() if isinstance(module, Adder2d)}
    state = {}
    for key, value in trained.state_dict().items():
        path = key.rpartition(".")[0]
        state[f"module.{path}.adder" if path in adders else f"module.{key}"] = value
    torch.save(state, tmp_path / "official.pth")
    return tmp_path / "official.pth"


def test_imported_weights_are_evaluated_as_a_run(checkpoint, trained, tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(["import", str(checkpoint), *DIGITS, "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    network, info = train.load_network(out / "last.safetensors")
    assert (info.network, info.layer, info.dataset, len(info.classes)) == ("resnet8", "adder", "digits", 10)
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(network(x), trained(x))
    assert cli.main(["eval", str(out), "--device", "cpu"]) == 0
    scores = train.evaluate(trained, load(train.load_recipe(out / "config.yaml").data, torch.device("cpu")).test)
    assert f"{100 * scores.top1:.2f} %" in capsys.readouterr().out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_folder_says_where_its_weights_are_from_and_claims_no_training(checkpoint, tmp_path):
    out = tmp_path / "run"
    assert cli.main(["import", str(checkpoint), *DIGITS, "--out", str(out)]) == 0
    source = json.loads((out / "imported.json").read_text())
    assert source["imported_from"] == str(checkpoint)
    assert source["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    text = (out / "config.yaml").read_text()
    assert "student: resnet8" in text and "name: digits" in text
    assert not any(key in text for key in ("epochs", "lr:", "method"))


@pytest.mark.parametrize("is_recipe_named", [True, False])
@pytest.mark.parametrize("resume", [["--resume"], []])
def test_imported_weights_are_never_trained_over(checkpoint, tmp_path, capsys, is_recipe_named, resume):
    out = tmp_path / "run"
    assert cli.main(["import", str(checkpoint), *DIGITS, "--out", str(out)]) == 0
    before = contents(out)
    recipe = [str(out / "config.yaml")] if is_recipe_named else []
    assert cli.main(["train", *recipe, "--out", str(out), "--epochs", "1", *resume]) == 2
    message = capsys.readouterr().err
    assert "holds imported weights (imported.json" in message and "--resume" not in message
    assert contents(out) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "resnet20", "--data.name", "digits"], "missing from the checkpoint: layer1.1.conv1.adder, "),
        (["--network", "resnet9"], "`network` (='resnet9'): must be one of resnet152"),
        ([*DIGITS, "--data.root", "x"], "not used by `name` (=digits)"),
        ([*DIGITS, "--torchvision", "resnet18"], "`torchvision` (='resnet18'): goes without `network` (=resnet8)"),
        (["--torchvision", "resnet17"], "`torchvision` (='resnet17'): must be one of resnet152"),
        (["--torchvision", "resnet18", *DIGITS[2:]], "`data.normalisation` (=own) must be imagenet: torchvision's"),
    ],
)
def test_what_does_not_fit_writes_nothing(checkpoint, tmp_path, capsys, arguments, message):
    assert cli.main(["import", str(checkpoint), *arguments, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_with_files_is_left_alone(checkpoint, tmp_path, capsys):
    assert cli.main(["import", str(checkpoint), *DIGITS, "--out", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "is not empty: choose another folder" in message and "--resume" not in message
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["official.pth"]


def test_a_missing_file_is_named(tmp_path, capsys):
    assert cli.main(["import", str(tmp_path / "none.pth"), *DIGITS, "--out", str(tmp_path / "run")]) == 2
    assert "none.pth) can't be read: " in capsys.readouterr().err


def test_a_file_or_a_network_of_torchvision_must_be_named(tmp_path, capsys):
    assert cli.main(["import", *DIGITS, "--out", str(tmp_path / "run")]) == 2
    assert "`file` is required" in capsys.readouterr().err


@pytest.fixture
def pictures(tmp_path) -> list[str]:
    """Options of an image folder: eight pictures of two classes to train, four to test."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for i in range(count):
            file = tmp_path / "pictures" / part / "ab"[i % 2] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(file)
    options = {"name": "imagefolder", "root": tmp_path / "pictures", "image_size": 32, "normalisation": "imagenet"}
    return [word for key, value in options.items() for word in (f"--data.{key}", str(value))]


@pytest.fixture
def twin() -> torch.nn.Module:
    """A convolutional ResNet-18 of two classes, whose names are torchvision's."""
    torch.manual_seed(0)
    return models.create("resnet18", "conv", num_classes=2).eval()


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_weights_of_torchvision_are_a_fixed_teacher(twin, pictures, tmp_path, capsys, kind):
    file, out = tmp_path / f"weights.{kind}", tmp_path / "teacher"
    torch.save(twin.state_dict(), file) if kind == "pth" else save_file(twin.state_dict(), file)
    assert cli.main(["import", str(file), "--torchvision", "resnet18", *pictures, "--out", str(out)]) == 0
    network, info = train.load_network(out / "last.safetensors")
    assert (info.network, info.layer, info.classes, info.height) == ("resnet18", "conv", ("a", "b"), 32)
    assert info.mean == (0.485, 0.456, 0.406)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(images), twin(images))
    assert json.loads((out / "imported.json").read_text())["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert cli.main(["eval", str(out), "--device", "cpu"]) == 0
    if kind == "pth":
        return
    options = ["--method", "kd", "--student", "resnet8", "--layer", "conv", "--epochs", "1", "--batch_size", "4"]
    given = [*options, "--device", "cpu", "--teacher_run", str(out), *pictures, "--data.augmentation", "resized_crop"]
    assert cli.main(["train", "--out", str(tmp_path / "run"), *given]) == 0
    taught = train.load_network(tmp_path / "run" / "teacher.safetensors")[0]
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in taught.state_dict().items())
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["teacher"] == "resnet18"


def test_without_a_file_torchvisions_own_weights_are_taken(twin, pictures, tmp_path, monkeypatch):
    asked = []

    def download(network: str, weights: str) -> Path:
        asked.append((network, weights))
        torch.save(twin.state_dict(), tmp_path / "resnet18-01234567.pth")
        return tmp_path / "resnet18-01234567.pth"

    monkeypatch.setattr(torchvision_weights, "download", download)
    out = tmp_path / "teacher"
    assert cli.main(["import", "--torchvision", "resnet18", *pictures, "--out", str(out)]) == 0
    assert asked == [("resnet18", "IMAGENET1K_V1")]
    assert json.loads((out / "imported.json").read_text())["imported_from"].endswith("resnet18-01234567.pth")
    other = [*pictures, "--weights", "IMAGENET1K_V2", "--out", str(tmp_path / "other")]
    assert cli.main(["import", "--torchvision", "resnet18", *other]) == 0
    assert asked[1:] == [("resnet18", "IMAGENET1K_V2")]


def test_weights_of_other_classes_are_refused(twin, pictures, tmp_path, capsys):
    torch.save(models.create("resnet18", "conv", num_classes=1000).state_dict(), tmp_path / "weights.pth")
    given = ["import", str(tmp_path / "weights.pth"), "--torchvision", "resnet18", *pictures]
    assert cli.main([*given, "--out", str(tmp_path / "run")]) == 2
    assert "`fc.weight` has the shape (1000, 512), in the model (2, 512)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
