"""`adderkit bench ops` through the command line: what it writes, and what it refuses to time."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shlex
import statistics
from pathlib import Path

import pytest
import torch

from adderkit import cli, cli_bench, native
from adderkit.bench import formulations, limits, ops, record, timing
from adderkit.ops import adder2d

TINY = ["bench", "ops", "--shapes", "resnet20", "--batch", "2", "--rounds", "2", "--threads", "1"]
has_native = pytest.mark.skipif(native.library() is None, reason="needs the native library")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The memory that is copied need not be large here."""
    monkeypatch.setattr(limits, "_COPIED_BYTES", 1 << 20)


@pytest.fixture
def report(tmp_path, capsys):
    """A run on two layers, with everything that it writes."""
    names = [tmp_path / name for name in ("out.json", "out.csv", "out.png")]
    files = [
        word for option, name in zip(("--json", "--csv", "--figure"), names, strict=True) for word in (option, name)
    ]
    before = torch.get_num_threads()
    assert cli.main([*TINY, "--only", "3x3 8x8", *map(str, files)]) == 0
    assert torch.get_num_threads() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.json", "out.png"]
    found = json.loads((tmp_path / "out.json").read_text())
    found["stdout"] = capsys.readouterr().out
    found["csv"] = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    found["png"] = (tmp_path / "out.png").read_bytes()
    return found


@has_native
def test_what_is_written(report):
    rows = {(row["pass_name"], row["contestant"]): row for row in report["rows"]}
    passes = ("forward", "input_gradient", "forward+backward")
    against_conv = {(name, contestant) for name in passes for contestant in ("adder2d", "conv2d")}
    against_adder = {("forward", "cdist"), ("forward", "official"), ("forward+backward", "official")}
    assert set(rows) == against_conv | against_adder
    assert {row["layer"] for row in report["rows"]} == {"64>64 3x3 8x8"}
    operations = 2 * 64 * 64 * 3 * 3 * 8 * 8
    for name in passes:
        adder, conv = rows[name, "adder2d"], rows[name, "conv2d"]
        assert adder["ratio"] == pytest.approx(adder["median_s"] / conv["median_s"])
        assert conv["ratio"] == 1.0
        for row in (adder, conv):
            factor = 3 if name == "forward+backward" else 1
            assert row["operations_per_s"] == pytest.approx(factor * operations / row["median_s"])
            assert 0 < row["p10_s"] <= row["median_s"] <= row["p90_s"]
    floats = 2 * 64 * 8 * 8
    assert rows["forward", "conv2d"]["operations_per_byte"] == pytest.approx(
        operations / (4 * (2 * floats + 64 * 64 * 9))
    )
    assert rows["input_gradient", "adder2d"]["operations_per_byte"] == pytest.approx(
        operations / (4 * (3 * floats + 64 * 64 * 9))
    )
    (adder_errors,) = (row for row in report["errors"] if row["contestant"] == "adder2d")
    assert all(0 < adder_errors[kind] <= 1e-5 for kind in ("forward", "input_gradient", "filter_gradient"))
    offsets = (" + 1", " + 2", " + 5", " + 8", " + 10", " + 100", " + 1000", " + 10000", " + 100000", " - 100000")
    expected = [*((f"normal{o}", f"normal{o}") for o in ("", *offsets)), ("1.7", "normal"), ("0 or 0.3", "normal")]
    assert [(row["x"], row["f"]) for row in report["forward_errors"]] == expected
    assert all(0 < row["error"] <= 1e-5 for row in report["forward_errors"])
    assert report["complete"] is True
    assert {row["rounds"] for row in report["rows"] if row["over"] == "conv2d"} == {2}
    assert all(1 <= row["rounds"] <= 2 for row in report["rows"])
    assert report["machine"]["threads"] == 1
    assert all(report["machine"][key] for key in ("processor", "cores", "kernels", "torch", "python", "numpy"))
    assert set(report["limits"]) == {"multiply_add", "adder", "adder_input_gradient", "bytes_per_s"}

    assert len(report["csv"]) == len(report["rows"])
    for line, row in zip(report["csv"], report["rows"], strict=True):
        for key, value in {**row, **report["machine"], "complete": True}.items():
            assert line[key] == ("" if value is None else str(value))
    assert report["png"][:8] == b"\x89PNG\r\n\x1a\n"
    for fragment in (
        "K = 4608",
        "geometric mean",
        "64>64 3x3 8x8",
        report["machine"]["processor"],
        "ONEDNN_MAX_CPU_ISA",
    ):
        assert fragment in report["stdout"]


def test_geometric_means_and_extremes(tmp_path, monkeypatch):
    """Over layers whose times are given: 1, 2, 4 ... milliseconds for adder2d, always 1 for conv2d."""
    turn = iter(range(100))

    def turns(contestants, budget):
        adder_seconds = 1e-3 * 2 ** next(turn)
        return {name: [adder_seconds if name == "adder2d" else 1e-3] * budget.most for name in contestants}

    monkeypatch.setattr(ops, "take_turns", turns)
    path = tmp_path / "out.json"
    assert cli.main([*TINY, "--only", "1x1", "--no_rivals", "--passes", "forward", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    ratios = [row["ratio"] for row in report["rows"] if row["contestant"] == "adder2d"]
    assert ratios == pytest.approx([1, 2])
    assert set(report["summary"]) == {"adder2d / conv2d"}
    summary = report["summary"]["adder2d / conv2d"]["forward"]
    assert summary["geometric_mean"] == pytest.approx(math.sqrt(2)) == pytest.approx(statistics.geometric_mean(ratios))
    assert (summary["lowest"], summary["highest"]) == pytest.approx((1, 2))
    assert summary["highest_layer"] == "resnet20 32>64 1x1/2 16x16" and summary["layers"] == 2


def test_rivals_are_compared_per_image(tmp_path, monkeypatch):
    """A rival that takes as long for one image of two as adder2d for both is twice as slow."""
    monkeypatch.setattr(formulations, "images", lambda layer, batch: 1)
    monkeypatch.setattr(ops, "take_turns", lambda calls, budget: {name: [1e-3] * budget.most for name in calls})
    path = tmp_path / "out.json"
    assert cli.main([*TINY, "--only", "1x1/2 16", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    rivals = [row for row in rows if row["contestant"] in ("cdist", "official")]
    assert len(rivals) == 3
    assert all(row["images"] == 1 and row["ratio"] == pytest.approx(2) for row in rivals)


def test_an_interrupted_run_keeps_what_was_measured(tmp_path, monkeypatch, capsys):
    """Ctrl-C in the second of two layers."""
    turn = iter(range(100))
    budgets: list[timing.Budget] = []
    seen: list[bool] = []
    json_path, csv_path = tmp_path / "out.json", tmp_path / "out.csv"

    def turns(calls, budget):
        if next(turn) == 1:
            seen.append(json.loads(json_path.read_text())["complete"])
            raise KeyboardInterrupt
        budgets.append(budget)
        return {name: [1e-3] * budget.most for name in calls}

    monkeypatch.setattr(ops, "take_turns", turns)
    words = ["--only", "1x1", "--no_rivals", "--passes", "forward", "--rounds", "7", "--seconds", "0.5"]
    assert cli.main([*TINY, *words, "--json", str(json_path), "--csv", str(csv_path)]) == 130
    assert budgets == [timing.Budget(7, 3, 0.5, 0.1)]
    report = json.loads(json_path.read_text())
    assert seen == [False] and report["complete"] is False
    assert (
        {row["layer"] for row in report["rows"]} == {"16>32 1x1/2 32x32"} == {row["layer"] for row in report["errors"]}
    )
    lines = list(csv.DictReader(csv_path.read_text().splitlines()))
    assert [(line["contestant"], line["complete"]) for line in lines] == [("adder2d", "False"), ("conv2d", "False")]
    output = capsys.readouterr()
    assert "16>32 1x1/2 32x32" in output.out and "layers are missing" in output.out
    assert "interrupted" in output.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.json"]


def test_an_interrupt_before_the_first_layer(tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ops, "take_turns", interrupt)
    assert cli.main([*TINY, "--only", "1x1", "--json", str(tmp_path / "out.json")]) == 130
    assert not list(tmp_path.iterdir()) and not capsys.readouterr().out


def scaled_gradient(*arguments):
    """Right forward, gradients 1 % too large."""
    output = adder2d(*arguments)
    return output.detach() + 1.01 * (output - output.detach())


WRONG = {
    "forward": lambda *arguments: adder2d(*arguments) * 1.0001,
    "nan": lambda *arguments: adder2d(*arguments) * torch.nan,
    "input_gradient": scaled_gradient,
    "filter_gradient": lambda x, f, *rest: adder2d(x, f.detach() + 1.01 * (f - f.detach()), *rest),
}


@pytest.mark.parametrize("which", WRONG)
def test_a_wrong_adder2d_is_not_timed(which, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ops, "adder2d", WRONG[which])
    monkeypatch.setattr(ops, "take_turns", lambda *_: pytest.fail("it was timed"))
    path = tmp_path / "out.json"
    assert cli.main([*TINY, "--only", "8x8", "--json", str(path)]) == 1
    errors = capsys.readouterr().err
    assert "adder2d, " in errors and "not timed" in errors
    assert which in errors or which in ("nan", "forward")
    assert not path.exists()


@pytest.mark.parametrize("rival", ["official", "unfold_cdist"])
def test_a_wrong_rival_is_not_timed(rival, monkeypatch, capsys):
    right = getattr(formulations, rival)
    monkeypatch.setattr(formulations, rival, lambda *arguments: right(*arguments) + 1)
    monkeypatch.setattr(ops, "take_turns", lambda *_: pytest.fail("it was timed"))
    assert cli.main([*TINY, "--only", "8x8"]) == 1
    assert rival.removeprefix("unfold_") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["ops", "--only", "5x5"], ["`only` (='5x5')", "16>16 3x3 32x32"]),
        (["ops", "--batch", "0"], ["`batch` (=0)", "greater than or equal to 1"]),
        (["ops", "--seconds", "0"], ["`seconds` (=0"]),
        (["ops", "--threads", "-1"], ["`threads` (=-1)", "greater than or equal to 0"]),
        (["ops", "--threads", "4097"], ["`threads` (=4097)", "less than or equal to 4096"]),
        (["train", "--threads", "4097"], ["`threads` (=4097)", "less than or equal to 4096"]),
        (["ops", "--json", "missing/out.json"], ["`json` (=missing/out.json)", "folder that exists"]),
        (["ops", "--csv", "."], ["`csv` (=.)", "not a folder"]),
        (["ops", "--passes", "forward+backward", "--figure", "x.png"], ["`figure` (=x.png)", "`passes`"]),
        (["train", "--network", "resnet21"], ["resnet21", "resnet20"]),
        (["train", "--steps", "0"], ["`steps` (=0)"]),
        (["step"], ["there is no command `step`", "ops, train"]),
    ],
)
def test_bad_input_is_named(arguments, fragments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", *arguments]) == 2
    errors = capsys.readouterr().err
    assert all(fragment in errors for fragment in fragments)
    assert not list(tmp_path.iterdir())


def test_help_lists_the_commands(capsys):
    assert cli.main(["bench", "--help"]) == 0
    assert "  ops" in capsys.readouterr().out
    assert cli.main(["bench"]) == 2


def documented():
    root = Path(__file__).parents[2]
    text = "\n".join((root / name).read_text() for name in ("README.md", "docs/guide.md"))
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    found = re.findall(r"^(?:[A-Z_]+=\S+ )*adderkit (bench .*)$", "\n".join(blocks), flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in found]


@pytest.mark.parametrize("arguments", documented(), ids=" ".join)
def test_documented_command_lines_parse(arguments, tmp_path, monkeypatch):
    class Reached(Exception):
        pass

    def measure(*_):
        raise Reached

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_bench, "measure_ops", measure)
    monkeypatch.setattr(cli_bench, "measure_train", measure)
    monkeypatch.setattr(cli_bench, "measure_infer", measure)
    with pytest.raises(Reached):
        cli.main(arguments)


def test_there_are_documented_command_lines():
    assert len(documented()) >= 5


def test_both_restrictions_are_stated(monkeypatch):
    for name in ("ADDERKIT_ISA", "ONEDNN_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    assert "ADDERKIT_ISA not set" in record.describe(record.machine(1))
    monkeypatch.setitem(os.environ, "ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setitem(os.environ, "ADDERKIT_ISA", "avx2")
    text = record.describe(record.machine(1))
    assert "ADDERKIT_ISA avx2" in text and "ONEDNN_MAX_CPU_ISA AVX2" in text
