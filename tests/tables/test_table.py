"""`adderkit table`: definitions, statistics, and small grids that are run, interrupted and gone on with."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import adderkit
from adderkit import cli, paths, tables
from adderkit.distill import method_type
from adderkit.tables.definition import row_config
from adderkit.tables.grid import slug
from adderkit.tables.results import estimate

TINY = ["--data.train_rows", "0:64", "--data.test_rows", "0:50", "--epochs", "1", "--device", "cpu"]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(Path(adderkit.__file__).parents[1]))
    monkeypatch.setenv("ADDERKIT_HOME", str(tmp_path / "home"))


def write_table(folder: Path, **recipes: str) -> Path:
    """A table whose rows have these recipes; the first is the reference and stands at 90.5 in the source."""
    rows = []
    for name, text in recipes.items():
        (folder / f"{name}.yaml").write_text(text)
        rows.append({"name": name, "recipe": str(folder / f"{name}.yaml"), "top1": 90.5})
    path = folder / "table.yaml"
    path.write_text(json.dumps({"title": "A test", "reference": next(iter(recipes)), "rows": rows}))
    return path


@pytest.mark.parametrize("name", tables.table_names())
def test_every_shipped_table_is_whole(name):
    table = tables.load_table(name)
    for row in table.rows:
        row_config(row)
        assert row.top1 is None or 50 < row.top1 < 100, row.name
    assert len({slug(row.name) for row in table.rows}) == len(table.rows)


def test_options_of_a_row_change_its_recipe(tmp_path):
    """Group by group; the recipe lies beside the table's file."""
    (tmp_path / "base.yaml").write_text("method: pkkd\nepochs: 7\npkkd: {alpha: 0.5, beta: 3.0}\n")
    rows = [
        {"name": "as it is", "recipe": "base.yaml"},
        {"name": "changed", "recipe": "base.yaml", "options": {"pkkd": {"beta": 2.0}, "seed": 4}},
        {"name": "impossible", "recipe": "base.yaml", "options": {"pkkd": {"beta": -1}}},
    ]
    (tmp_path / "table.yaml").write_text(json.dumps({"title": "A test", "reference": "as it is", "rows": rows}))
    plain, changed, impossible = tables.load_table(str(tmp_path / "table.yaml")).rows
    assert row_config(plain).method_options() == method_type("pkkd").Options(alpha=0.5, beta=3.0)
    assert row_config(changed).method_options() == method_type("pkkd").Options(alpha=0.5, beta=2.0)
    assert (row_config(changed).epochs, row_config(changed).seed) == (7, 4)
    with pytest.raises(ValueError, match=r"the options of the row 'impossible': .*beta"):
        row_config(impossible)


def test_the_papers_tables_are_shipped():
    assert {"table1", "table2", "table3", "cifar", "imagenet", "ablation"} <= set(tables.table_names())
    assert (paths.recipes() / "demo.yaml").is_file()


def test_estimates_are_students():
    """Of 1, 2, 4: by hand, with the quantile 4.302653 of Student's t at two degrees of freedom."""
    found = estimate([1.0, 2.0, 4.0])
    assert found is not None and found.mean == pytest.approx(7 / 3)
    assert found.deviation == pytest.approx((7 / 3) ** 0.5)
    assert found.half == pytest.approx(4.302653 * (7 / 9) ** 0.5, rel=1e-6)
    assert estimate([5.0]) == (5.0, None, None, 1)
    assert estimate([]) is None


def test_a_table_with_a_failing_row_then_again(tmp_path, capsys):
    path = write_table(
        tmp_path,
        alone="method: none\nstudent: resnet8\n",
        taught="method: kd\nstudent: resnet8\nkd: {progressive: true}\n",
        broken="method: none\nstudent: resnet8\nlr: 1.0e+30\n",
    )
    out = tmp_path / "out"
    command = ["table", str(path), "--out", str(out), "--seeds", "0", "1", "--jobs", "2", *TINY]
    assert cli.main(command) == 1
    seen = capsys.readouterr()
    assert "broken, seed 0: failed with exit code 3" in seen.err
    with open(out / "table.csv", newline="") as file:
        rows = {(row["row"], int(row["seed"])): row for row in csv.DictReader(file)}
    assert set(rows) == {("alone", 0), ("alone", 1), ("taught", 0), ("taught", 1)}
    final = {}
    for (row, seed), line in rows.items():
        summary = json.loads((out / row / f"seed-{seed}" / "summary.json").read_text())
        assert (summary["seed"], summary["epochs"]) == (seed, 1)
        final[row, seed] = 100 * summary["final_top1"]
        assert float(line["last_top1"]) == pytest.approx(final[row, seed], rel=1e-5)
        assert bool(line["teacher_top1"]) == (row == "taught")
    text = (out / "table.md").read_text()
    assert f"| alone | 90.5 | {(final['alone', 0] + final['alone', 1]) / 2:.2f} ±" in text
    mean = sum(final["taught", seed] - final["alone", seed] for seed in (0, 1)) / 2
    assert f" | {mean:+.2f} ± " in text
    assert "| broken | 90.5 |  |  |  | 0 |" in text
    assert "- differs from the recipe: `epochs` is 1, in the recipe 40" in text
    assert "broken, seed 1: failed with exit code 3" in text
    with Image.open(out / "table.png") as picture:
        assert picture.format == "PNG"
    # again: what is done is left alone, what failed is tried again
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*/summary.json")}
    assert cli.main([*command, "--rows", "alone", "taught"]) == 0
    assert "4 of 4 trainings are finished already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*/summary.json")} == before


def test_a_stopped_table_goes_on(tmp_path):
    path = write_table(tmp_path, alone="method: none\nstudent: resnet8\n")
    run = tmp_path / "out" / "alone" / "seed-0"
    longer = [*TINY[:4], "--epochs", "200", "--device", "cpu", "--checkpoint_minutes", "0.0005"]
    command = [sys.executable, "-m", "adderkit", "table", str(path), "--out", str(tmp_path / "out"), *longer]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 250
    while not (run / "checkpoints" / "newest").exists() and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    errors = process.communicate(timeout=250)[1]
    assert process.returncode == 75 and "Traceback" not in errors
    assert "every training has saved its state" in errors
    newest = (run / "checkpoints" / "newest").read_text()
    assert (run / "checkpoints" / newest.split()[0]).exists()
    assert "stopped" in run.with_suffix(".log").read_text()
    assert not (run / "summary.json").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nothing"], "`table` (=nothing)"),
        (["table1", "--rows", "nobody"], "`rows` (=nobody)"),
        (["table1", "--seeds", "1", "1"], "`seeds`"),
        (["table1", "--jobs", "0"], "jobs"),
        (["table1", "--epochs", "0"], "epochs"),
        (["table1", "--data.name", "nowhere"], "data.name"),
    ],
)
def test_what_can_not_be_is_refused(words, named, tmp_path, capsys):
    assert cli.main(["table", *words, "--out", str(tmp_path / "out")]) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[1, 2]", "mapping"),
        ('{"title": "a", "reference": "b", "rows": []}', "rows"),
        ('{"title": "a", "reference": "b", "rows": [{"name": "c", "recipe": "demo.yaml"}]}', "`reference` (=b)"),
        ('{"title": "a", "reference": "b", "rows": [{"name": "b", "recipe": "none.yaml"}]}', "none.yaml"),
    ],
)
def test_files_that_are_no_tables(text, named, tmp_path, capsys):
    (tmp_path / "t.yaml").write_text(text)
    assert cli.main(["table", str(tmp_path / "t.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert named in capsys.readouterr().err
