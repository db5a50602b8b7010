"""Pictures and tables of a run, from its files alone."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from rich.console import Console

from adderkit.report import draw_curves, run_table
from adderkit.train.record import Record


@pytest.fixture
def rows():
    return [
        {"epoch": 1, "net": "student", "train_loss": 2.0, "loss.ce": 1.5, "loss.mid": 0.5, "test_top1": 0.3},
        {"epoch": 1, "net": "teacher", "test_top1": 0.9},
        {"epoch": 2, "net": "student", "train_loss": 1.0, "loss.ce": 0.8, "loss.mid": 0.2, "test_top1": 0.4},
        {"epoch": 2, "net": "teacher", "test_top1": 0.9},
    ]


def test_curves_of_both_nets(rows, tmp_path):
    """The fixed teacher has no loss of its own, and the picture says so by having no line for it."""
    record = Record(tmp_path, rows)
    record.write()
    path = draw_curves(tmp_path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 10  # something is drawn
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == ["curves.png", "metrics.csv"]


def test_metrics_have_every_column(rows, tmp_path):
    Record(tmp_path, rows).write()
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "epoch,net,train_loss,loss.ce,loss.mid,test_top1"
    assert lines[2] == "1,teacher,,,,0.9"


@pytest.mark.parametrize("teacher", ["resnet20", None])
def test_table_shows_the_nets_that_there_were(teacher):
    summary = {
        "method": "pkkd", "dataset": "digits", "epochs": 40, "student": "resnet8", "layer": "adder",
        "final_top1": 0.975, "best_top1": 0.9811, "best_epoch": 37, "teacher": teacher,
        "teacher_final_top1": 0.99, "teacher_best_top1": 0.995,
    }  # fmt: skip
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(run_table(summary))
    text = console.export_text()
    assert "97.50 %" in text and "98.11 % (epoch 37)" in text
    assert ("99.00 %" in text) == (teacher is not None)
