"""`adderkit bench infer`: what is counted, what is checked, what comes out. Times are not judged here."""

from __future__ import annotations

import csv
import json
from collections import Counter

import numpy
import pytest
import torch
from PIL import Image

from adderkit import cli, models
from adderkit.bench import inference, operations, timing
from adderkit.bench.config import InferOptions
from adderkit.bench.verify import WrongResult
from adderkit.quant import reference

WHO = {inference.OWN, inference.TORCH, inference.FLOAT, inference.INT8}


@pytest.fixture(scope="module")
def report():
    options = InferOptions(net="resnet8", batches=(1, 3), rounds=2)
    return inference.measure_infer(options, lambda line: None)


def resnet8_by_hand() -> tuple[int, int, int]:
    """(terms of the stages, products of stem and classifier, outputs), written down from the architecture."""
    terms, outputs = 0, 16 * 32 * 32
    for wide_in, wide, size in ((16, 16, 32), (16, 32, 16), (32, 64, 8)):
        terms += size * size * wide * 9 * (wide_in + wide)
        outputs += 2 * size * size * wide
        if wide_in != wide:
            terms += size * size * wide * wide_in
            outputs += size * size * wide
    return terms, 32 * 32 * 16 * 3 * 9 + 64 * 10, outputs + 10


def test_operations_are_those_of_the_architecture():
    terms, products, outputs = resnet8_by_hand()
    image = torch.zeros(1, 3, 32, 32)
    network = models.create("resnet8", "adder").train()
    assert operations.count(network, image) == (terms, products, outputs)
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
    assert operations.count(models.create("resnet8", "conv"), image) == (0, terms + products, outputs)


def test_energy_by_hand():
    found = operations.microjoules(operations.Operations(adder=1_000_000, multiply=10_000, outputs=1_000), "int8")
    assert found["arithmetic"] == pytest.approx(1.0 * 2 * 0.03 + 0.01 * 0.23)
    assert found["scaling"] == pytest.approx(0.001 * 3.2)
    free = operations.microjoules(operations.Operations(0, 0, 1_000), "int8", multiplier_free=True)
    assert free["scaling"] == pytest.approx(0.001 * 0.1)
    assert operations.microjoules(operations.Operations(1_000_000, 0, 0), "float32")["arithmetic"] == pytest.approx(1.8)


def test_turns_alternate_and_give_a_median_a_round():
    calls: list[str] = []
    seconds = timing.short_turns({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    turns = [name for name, before in zip(calls, ["", *calls], strict=False) if name != before]
    assert turns == ["a", "b"] * 3
    assert min(Counter(calls).values()) >= 3 * 3


def test_report_is_whole(report):
    assert json.loads(json.dumps(report))["settings"]["network"] == "resnet8"
    rows = {(row["batch"], row["contestant"]): row for row in report["rows"]}
    assert set(rows) == {(batch, name) for batch in (1, 3) for name in WHO}
    for (batch, name), row in rows.items():
        assert row["p10_s"] <= row["median_s"] <= row["p90_s"]
        assert row["images_per_s"] == pytest.approx(batch / row["median_s"])
        assert report["summary"][f"batch {batch}"][name] == row["ratio"]
    assert rows[1, inference.OWN]["ratio"] == 1
    parameters = sum(p.numel() for p in models.create("resnet8", "adder").parameters())
    assert parameters < report["bytes"][inference.OWN] < 2 * parameters
    assert report["bytes"][inference.FLOAT] > 4 * parameters
    assert report["operations"][inference.OWN]["adder"] == resnet8_by_hand()[0]


def test_integers_that_differ_are_not_timed(monkeypatch):
    right = reference.run
    monkeypatch.setattr(reference, "run", lambda *given: numpy.nextafter(right(*given), numpy.inf))
    with pytest.raises(WrongResult, match="reference"):
        inference.measure_infer(InferOptions(net="resnet8", rounds=1, onnxruntime=False), lambda line: None)


def test_command_writes_what_it_prints(tmp_path, capsys):
    files = {kind: tmp_path / f"infer.{kind}" for kind in ("json", "csv", "png")}
    arguments = ["--net", "resnet8", "--batches", "2", "--rounds", "1", "--no_onnxruntime"]
    outputs = ["--json", str(files["json"]), "--csv", str(files["csv"]), "--figure", str(files["png"])]
    assert cli.main(["bench", "infer", *arguments, *outputs]) == 0
    written = json.loads(files["json"].read_text())
    with open(files["csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["contestant"] for row in rows] == [inference.OWN, inference.TORCH]
    assert [float(row["median_s"]) for row in rows] == [row["median_s"] for row in written["rows"]]
    with Image.open(files["png"]) as picture:
        assert picture.width > 400
    shown = capsys.readouterr().out
    assert f"{1e3 * written['rows'][0]['median_s']:.3f}" in shown and "45 nm" in shown


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--net", "resnet9"], "`net` (=resnet9)"),
        (["--batches", "0"], "batches"),
        (["--json", "nowhere/a.json"], "`json`"),
        (["--rounds", "0"], "rounds"),
    ],
)
def test_what_can_not_be_is_refused(arguments, named, capsys):
    assert cli.main(["bench", "infer", "--no_onnxruntime", *arguments]) == 2
    assert named in capsys.readouterr().err
