"""`adderkit quantize` as a user types it: by exit code, text and file."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from adderkit import native
from adderkit.cli import main
from adderkit.data import DataConfig, load
from adderkit.quant import pipeline
from adderkit.train import config_type, train

ROWS = {"train_rows": "0:192", "test_rows": "0:64"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An adder network and its twin, trained for one epoch of 6 steps."""
    folder = tmp_path_factory.mktemp("runs")
    for layer in ("adder", "conv"):
        config = config_type()(
            method="none", layer=layer, epochs=1, batch_size=32, device="cpu", data=DataConfig(**ROWS)
        )
        train(config, folder / layer, False)
    return folder


@pytest.fixture
def quantize(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        capsys.readouterr()
        try:
            code = main(["quantize", *map(str, arguments)])
        except SystemExit as exit:  # of tyro, at an unknown option
            code = exit.code
        return Done(code, *capsys.readouterr())

    return run


class Done(NamedTuple):
    returncode: object
    stdout: str
    stderr: str


def notes_of(path: Path):
    content = path.read_bytes()
    return json.loads(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["network"])


def test_writes_a_network_and_says_what_it_lost(quantize, runs, tmp_path):
    done = quantize(runs / "adder", "--out", "net.adk", "--vectors", "vectors", "--calibration_images", 64)
    assert done.returncode == 0, done.stderr
    assert "64 test images of digits" in done.stdout and "points" in done.stdout and "net.adk" in done.stdout
    notes = notes_of(tmp_path / "net.adk")
    assert notes["source"]["calibration_images"] == 64 and notes["source"]["finetune_epochs"] == 0
    weights = (runs / "adder" / "last.safetensors").read_bytes()
    assert notes["source"]["weights_sha256"] == hashlib.sha256(weights).hexdigest() and notes["test_images"] == 64
    assert ROWS.items() <= notes["source"].items() and notes["source"]["data"] == "digits"
    assert notes["source"]["train_images"] == 192 and "not finished" not in done.stderr
    summary = json.loads((runs / "adder" / "summary.json").read_text())
    assert notes["float_top1"] == pytest.approx(summary["final_top1"])
    assert abs(notes["integer_top1"] - notes["float_top1"]) <= 0.1
    assert (notes["bits"], notes["multiplier_free"], notes["dataset"]) == (8, False, "digits")
    manifest = json.loads((tmp_path / "vectors" / "manifest.json").read_text())
    image = np.load(tmp_path / "vectors" / "tensor0.npy")
    assert np.array_equal(image[0], next(load(DataConfig(**ROWS)).test.uint8_batches(1))[0][0].permute(1, 2, 0).numpy())
    assert [layer["op"] for layer in manifest["layers"]][-2:] == ["average_pool", "classifier"]

    again = quantize(runs / "adder", "--out", "net.adk")
    assert again.returncode == 2 and "`out` (=net.adk) exists" in again.stderr and "--overwrite" in again.stderr
    options = ["--bits", 4, "--multiplier_free", "--finetune_epochs", 1, "--calibration_images", 64, "--overwrite"]
    done = quantize(runs / "adder", "--out", "net.adk", *options)
    assert done.returncode == 0, done.stderr
    assert "4, powers of two" in done.stdout
    notes = notes_of(tmp_path / "net.adk")
    assert (notes["bits"], notes["multiplier_free"], notes["source"]["finetune_epochs"]) == (4, True, 1)


def test_an_unfinished_run_is_named(quantize, runs, tmp_path):
    shutil.copytree(runs / "adder", tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    done = quantize("run", "--out", "net.adk", "--calibration_images", 32)
    assert done.returncode == 0 and "the run run is not finished" in done.stderr


def test_weights_that_change_while_they_are_read(quantize, runs, tmp_path, monkeypatch):
    shutil.copytree(runs / "adder", tmp_path / "run")
    real = pipeline.train.load_network

    def load_network(path):
        found = real(path)
        path.write_bytes(path.read_bytes() + b"x")
        return found

    monkeypatch.setattr(pipeline.train, "load_network", load_network)
    done = quantize("run", "--out", "net.adk")
    assert done.returncode == 2 and "changed while they were read" in done.stderr
    assert not (tmp_path / "net.adk").exists()


@pytest.mark.skipif(native.library() is None, reason=native.reason())
def test_without_the_native_library_the_reference_scores_alike(quantize, runs, tmp_path, monkeypatch):
    scores = []
    for name in ("native", "reference"):
        done = quantize(runs / "adder", "--out", f"{name}.adk", "--calibration_images", 32)
        assert done.returncode == 0, done.stderr
        scores.append(notes_of(tmp_path / f"{name}.adk")["integer_top1"])
        monkeypatch.setattr(pipeline, "native", SimpleNamespace(library=lambda: None))
    assert scores[0] == scores[1]
    assert (tmp_path / "native.adk").read_bytes() == (tmp_path / "reference.adk").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["RUN/adder"], ["--out"]),
        (["RUN/adder", "--out", "x.adk", "--bits", "9"], ["`bits` (=9)", "less than or equal to 8"]),
        (["RUN/adder", "--out", "x.adk", "--bits", "1"], ["`bits` (=1)", "greater than or equal to 2"]),
        (["RUN/adder", "--out", "x.adk", "--calibration_images", "1"], ["`calibration_images` (=1)"]),
        (["RUN/adder", "--out", "x.adk", "--finetune_epochs", "-1"], ["`finetune_epochs` (=-1)"]),
        (["RUN/adder", "--out", "missing/x.adk"], ["`out` (=missing/x.adk)", "there is no folder `missing`"]),
        (["RUN/adder", "--out", "."], ["`out` (=.) must be a file"]),
        (["RUN/adder", "--out", "x.adk", "--vectors", "full"], ["`vectors` (=full)", "empty folder"]),
        (["RUN/adder", "--out", "x.adk", "--vectors", "full/file/v"], ["`vectors` (=full/file/v)", "no folder can"]),
        (["RUN/adder", "--out", "x.adk", "--vectors", "x.adk"], ["`vectors` (=x.adk) must not be `out`"]),
        (
            ["RUN/adder", "--out", "x.adk", "--data.train_rows", "0:40", "--finetune_epochs", "1"],
            ["`finetune_epochs` (=1)"],
        ),
        (["RUN/conv", "--out", "x.adk"], ["`resnet8`", "no adder layer"]),
        (["nowhere", "--out", "x.adk"], ["`run` (=nowhere) holds no run"]),
        (["RUN/adder", "--out", "x.adk", "--data.image_size", "12"], ["does not fit the data", "height"]),
    ],
)
def test_refused(quantize, runs, tmp_path, arguments, fragments):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    done = quantize(*(word.replace("RUN", str(runs)) for word in arguments))
    assert done.returncode == 2, done.stderr
    for fragment in fragments:
        assert fragment in done.stderr, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["full"]
