"""`adderkit import`: an official checkpoint becomes a folder that `eval` and `load_network` read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from adderkit import cli, models, train
from adderkit.data import load
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
