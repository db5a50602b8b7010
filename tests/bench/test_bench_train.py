"""`adderkit bench train` through the command line."""

from __future__ import annotations

import csv
import json
from contextlib import contextmanager

import pytest

from adderkit import cli
from adderkit.bench import memory, training

TINY = ["bench", "train", "--network", "resnet8", "--batch", "2", "--steps", "2", "--threads", "1"]


def test_quiet_and_busy(tmp_path, monkeypatch, capsys):
    entered: list[str] = []

    @contextmanager
    def pretend():
        entered.append("busy")
        yield

    monkeypatch.setattr(training, "busy_core", pretend)
    json_path, csv_path = tmp_path / "out.json", tmp_path / "out.csv"
    assert cli.main([*TINY, "--busy", "--no_memory", "--json", str(json_path), "--csv", str(csv_path)]) == 0
    assert entered == ["busy"]
    report = json.loads(json_path.read_text())
    rows = {(row["condition"], row["layer"]): row for row in report["rows"]}
    assert list(rows) == [(condition, layer) for condition in ("quiet", "busy") for layer in ("adder", "conv")]
    for (condition, _), row in rows.items():
        assert row["ratio"] == pytest.approx(row["median_s"] / rows[condition, "conv"]["median_s"])
        assert row["peak_mib"] is None and row["steps"] == 2 and row["batch"] == 2
    summary = report["summary"]
    assert summary["time_ratio"] == rows["quiet", "adder"]["ratio"]
    assert summary["busy_time_ratio"] == rows["busy", "adder"]["ratio"]
    slowdown = rows["busy", "conv"]["median_s"] / rows["quiet", "conv"]["median_s"]
    assert summary["conv_busy_slowdown"] == pytest.approx(slowdown)
    assert summary["memory_ratio"] is None
    lines = list(csv.DictReader(csv_path.read_text().splitlines()))
    assert [(line["condition"], line["layer"]) for line in lines] == list(rows)
    assert all(line["processor"] == report["machine"]["processor"] for line in lines)
    assert "one core busy" in capsys.readouterr().out


@pytest.mark.skipif(not memory.is_available(), reason="this system does not tell a process its peak memory")
def test_memory_is_that_of_processes_of_their_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "_MEMORY_REPEATS", 1)
    path = tmp_path / "out.json"
    assert cli.main([*TINY, "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    peaks = {row["layer"]: row["peak_mib"] for row in report["rows"]}
    # two images of 3x32x32 and some 80 000 weights with momentum: more than they, less than torch itself
    assert all(0.5 < peak < 300 for peak in peaks.values())
    assert report["peaks_mib"] == {layer: [peak] for layer, peak in peaks.items()}
    assert report["summary"]["memory_ratio"] == pytest.approx(peaks["adder"] / peaks["conv"])
    assert report["summary"]["busy_time_ratio"] is None
    assert "peak memory" in capsys.readouterr().out


def test_a_process_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(memory, "_SCRIPT", "import sys; sys.exit('out of memory')")
    with pytest.raises(ChildProcessError, match="out of memory"):
        memory.peak_in_own_process(memory.Request("resnet8", "adder", 2, 1))
