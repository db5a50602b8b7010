"""`adderkit table`: definitions, statistics, and small grids that are run, interrupted and gone on with."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import adderkit
from adderkit import cli, paths, tables, train
from adderkit.distill import method_type
from adderkit.tables import row_config
from adderkit.tables.results import estimate
from adderkit.train.folder import locked

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


def test_options_of_a_row_change_its_recipe(tmp_path):
    """Group by group; the recipe lies beside the table's file."""
    (tmp_path / "base.yaml").write_text("method: pkkd\nepochs: 7\npkkd: {alpha: 0.5, beta: 3.0}\n")
    rows = [
        {"name": "as it is", "recipe": "base.yaml"},
        {"name": "changed", "recipe": "base.yaml", "options": {"pkkd": {"beta": 2.0}, "lr": 0.5}},
        {"name": "impossible", "recipe": "base.yaml", "options": {"pkkd": {"beta": -1}}},
        {"name": "seeded", "recipe": "base.yaml", "options": {"seed": 4}},
        {"name": "of another method", "recipe": "base.yaml", "options": {"sp": {"weight": 4}}},
    ]
    (tmp_path / "table.yaml").write_text(json.dumps({"title": "A test", "reference": "as it is", "rows": rows}))
    plain, changed, *others = tables.load_table(str(tmp_path / "table.yaml")).rows
    assert row_config(plain).method_options() == method_type("pkkd").Options(alpha=0.5, beta=3.0)
    assert row_config(changed).method_options() == method_type("pkkd").Options(alpha=0.5, beta=2.0)
    assert (row_config(changed).epochs, row_config(changed).lr) == (7, 0.5)
    messages = (
        r"row 'impossible': .*beta",
        r"row 'seeded': `seed` \(=4\)",
        r"another method': `sp` .*`method` is pkkd",
    )
    for row, message in zip(others, messages, strict=True):
        with pytest.raises(ValueError, match=message):
            row_config(row)


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
    with open(out / "trainings.csv", newline="") as file:
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
    assert "- trained on digits: 64 training images, 50 test images, 10 classes" in text
    assert f"| alone | 90.5 | {(final['alone', 0] + final['alone', 1]) / 2:.2f} ±" in text
    mean = sum(final["taught", seed] - final["alone", seed] for seed in (0, 1)) / 2
    assert f" | {mean:+.2f} ± " in text
    assert "| broken | 90.5 |  |  |  | 0 |" in text
    assert "- differs from the recipe: `epochs` is 1, in the recipe 40" in text
    assert "broken, seed 1: failed with exit code 3" in text
    with Image.open(out / "table.png") as picture:
        assert picture.format == "PNG"
    # again, for one row and seed: what is done is left alone, and the table keeps it
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*/summary.json")}
    again = ["table", str(path), "--out", str(out), "--rows", "taught", "--seeds", "1", *TINY]
    assert cli.main(again) == 0
    assert "1 of 1 trainings are finished already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*/summary.json")} == before
    lines = [line for line in (out / "table.md").read_text().splitlines() if not line.startswith("| broken")]
    assert lines == [line for line in text.splitlines() if "broken" not in line]
    # other options: nothing counts that was trained with these
    assert cli.main([*again, "--epochs", "2"]) == 1
    told = capsys.readouterr().err
    assert "taught, seed 1: failed with exit code 2" in told and "`epochs` is 1 there and 2 here" in told
    changed = (out / "table.md").read_text()
    assert "| taught | 90.5 |  |  |  | 0 |" in changed and "alone, seed 0: left out: " in changed


def test_what_stands_in_the_way_of_one_row_does_not_stop_the_others(tmp_path, capsys):
    """A damaged summary, and a file where a row's folder should be."""
    path = write_table(tmp_path, **dict.fromkeys(("damaged", "blocked", "fine"), "method: none\nstudent: resnet8\n"))
    out = tmp_path / "out"
    (out / "damaged" / "seed-0").mkdir(parents=True)
    (out / "damaged" / "seed-0" / "summary.json").write_text('{"method": ')
    (out / "blocked").write_text("a file")
    assert cli.main(["table", str(path), "--out", str(out), "--jobs", "2", *TINY]) == 1
    assert "fine, seed 0: finished" in capsys.readouterr().err
    text = (out / "table.md").read_text()
    assert "- damaged, seed 0: failed with exit code 2: " in text and "delete the folder" in text
    assert "- blocked, seed 0: failed with exit code 74: " in text
    assert "| fine | 90.5 |" in text and (out / "fine" / "seed-0" / "summary.json").exists()


def test_a_teacher_is_for_the_rows_that_can_have_it(tmp_path, capsys):
    path = write_table(
        tmp_path,
        alone="method: none\nlayer: conv\n",
        taught="method: kd\n",
        beside="method: kd\nkd: {progressive: true}\n",
    )
    out = tmp_path / "out"
    assert cli.main(["table", str(path), "--out", str(out), "--rows", "alone", *TINY]) == 0
    run = out / "alone" / "seed-0"
    assert cli.main(["table", str(path), "--out", str(tmp_path / "more"), "--teacher_run", str(run), *TINY]) == 0
    stored = {
        name: train.load_recipe(tmp_path / "more" / name / "seed-0" / "config.yaml") for name in ("alone", "taught")
    }
    assert stored["taught"].teacher_run == run and stored["alone"].teacher_run is None
    text = (tmp_path / "more" / "table.md").read_text()
    assert f"differs from the recipe (taught): `teacher_run` is {run}" in text
    words = ["--rows", "alone", "beside", "--start", "teacher", *TINY]
    assert cli.main(["table", str(path), "--out", str(tmp_path / "started"), *words]) == 0
    starts = [
        train.load_recipe(tmp_path / "started" / name / "seed-0" / "config.yaml").start for name in ("alone", "beside")
    ]
    assert starts == ["own", "teacher"]
    capsys.readouterr()
    alone = ["table", str(path), "--out", str(out), "--rows", "alone", "--teacher", "resnet20", *TINY]
    assert cli.main(alone) == 2
    assert "`teacher` (=resnet20): none of the rows has a teacher" in capsys.readouterr().err


def test_a_cnn_that_teaches_is_trained_once(tmp_path, capsys):
    """Its row is the fixed teacher of the others, whichever comes first."""
    path = write_table(tmp_path, taught="method: kd\n", alone="method: none\nlayer: conv\neta: 0.1\n")
    out = tmp_path / "out"
    assert cli.main(["table", str(path), "--out", str(out), "--jobs", "1", *TINY]) == 0
    (teacher,) = (tmp_path / "home" / "teachers").iterdir()
    assert f"taken from the fixed teacher that is trained in {teacher}" in (out / "alone" / "seed-0.log").read_text()
    files = [folder / "last.safetensors" for folder in (teacher, out / "alone" / "seed-0")]
    assert files[0].read_bytes() == files[1].read_bytes()
    summaries = [json.loads((out / row / "seed-0" / "summary.json").read_text()) for row in ("alone", "taught")]
    assert summaries[0]["final_top1"] == summaries[1]["teacher_final_top1"]


def test_a_table_that_can_not_be_written_does_not_stop_the_trainings(tmp_path, capsys):
    path = write_table(tmp_path, **{name: f"method: none\neta: 0.{name[-1]}\n" for name in ("row1", "row2")})
    out = tmp_path / "out"
    (out / "table.md").mkdir(parents=True)  # as a full disk does, it refuses the file
    assert cli.main(["table", str(path), "--out", str(out), "--jobs", "1", *TINY]) == 2
    told = capsys.readouterr().err
    assert told.count("the table is not brought up to date: ") == 2 and told.count(": finished") == 2
    (out / "table.md").rmdir()
    assert cli.main(["table", str(path), "--out", str(out), *TINY]) == 0
    assert "2 of 2 trainings are finished already" in capsys.readouterr().err


def test_two_tables_do_not_share_a_folder(tmp_path, capsys):
    path = write_table(tmp_path, alone="method: none\n")
    with locked(tmp_path / "out"):
        assert cli.main(["table", str(path), "--out", str(tmp_path / "out"), *TINY]) == 2
    assert "is in use" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_table_saves_and_remembers_failures(number, tmp_path):
    path = write_table(tmp_path, broken="method: none\nlr: 1.0e+30\n", alone="method: none\nstudent: resnet8\n")
    process = start_long_table(path, tmp_path / "out")
    os.kill(process.pid, number)
    errors = process.communicate(timeout=250)[1]
    assert process.returncode == 75 and "Traceback" not in errors
    assert "every other training has saved its state" in errors
    run = tmp_path / "out" / "alone" / "seed-0"
    newest = (run / "checkpoints" / "newest").read_text()
    assert (run / "checkpoints" / newest.split()[0]).exists()
    assert "stopped" in run.with_suffix(".log").read_text()
    assert not (run / "summary.json").exists()
    assert "- broken, seed 0: failed with exit code 3" in (tmp_path / "out" / "table.md").read_text()


def test_a_training_that_only_begins_is_no_failure(tmp_path):
    """It has no handler for the signal yet, and nothing to save."""
    path = write_table(tmp_path, alone="method: none\nstudent: resnet8\n")
    process = subprocess.Popen(long_table(path, tmp_path / "out"), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stderr is not None and process.stderr.readline() == b"alone, seed 0: training\n"
    process.terminate()
    errors = process.communicate(timeout=250)[1]
    assert process.returncode == 75 and b"failed" not in errors
    assert "failed" not in (tmp_path / "out" / "table.md").read_text()


def test_a_table_under_nohup_outlives_its_terminal(tmp_path):
    path = write_table(tmp_path, alone="method: none\nstudent: resnet8\n")
    command = ["table", str(path), "--out", str(tmp_path / "out"), *TINY]
    process = subprocess.Popen(
        ["nohup", sys.executable, "-m", "adderkit", *command],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    wait_for(lambda: process.stderr.readline() == "alone, seed 0: training\n", "a training begins")
    process.send_signal(signal.SIGHUP)
    assert "alone, seed 0: finished" in process.communicate(timeout=250)[1] and process.returncode == 0


def test_the_same_table_waits_for_trainings_of_a_killed_one(tmp_path):
    """They save and end by themselves."""
    path = write_table(tmp_path, alone="method: none\nstudent: resnet8\n")
    process = start_long_table(path, tmp_path / "out")
    process.kill()
    process.communicate(timeout=250)
    log = tmp_path / "out" / "alone" / "seed-0.log"
    again = subprocess.Popen(long_table(path, tmp_path / "out"), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    wait_for(lambda: "stopped" in log.read_text() and "going on after" in log.read_text(), "the training goes on")
    again.terminate()
    assert b"failed" not in again.communicate(timeout=250)[1] and again.returncode == 75


def long_table(path: Path, out: Path) -> list[str]:
    """A command whose trainings take minutes and save often."""
    longer = [*TINY[:4], "--epochs", "200", "--device", "cpu", "--checkpoint_minutes", "0.0005", "--jobs", "1"]
    return [sys.executable, "-m", "adderkit", "table", str(path), "--out", str(out), *longer]


def start_long_table(path: Path, out: Path) -> subprocess.Popen[str]:
    """A table in a process of its own, when the training `alone` has saved a first checkpoint."""
    process = subprocess.Popen(
        long_table(path, out),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # tests under nohup hand it down ignored
    )
    newest = out / "alone" / "seed-0" / "checkpoints" / "newest"
    wait_for(lambda: newest.exists() or process.poll() is not None, "a checkpoint is written")
    assert process.poll() is None
    return process


def wait_for(happens: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 250
    while not happens():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nothing"], "`table` (=nothing)"),
        (["table1", "--rows", "nobody"], "`rows` (=nobody)"),
        (["table1", "--seeds", "1", "1"], "`seeds`"),
        (["table1", "--jobs", "0"], "jobs"),
        (["table1", "--epochs", "0"], "epochs"),
        (["table1", "--seed", "5"], "`seed` (=5): a table's trainings have the seeds of `--seeds`"),
        (
            ["imagenet", "--teacher_run", "r", "--data.root", "x"],
            "the rows' teachers are resnet18 and resnet50: choose",
        ),
        (["--epochs", "1", "table1"], "the table comes first"),
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
        ('{"title": "a", "reference": "b", "rows": []}', "`rows` must hold at least one row"),
        (
            '{"title": "a", "reference": "a", "rows": [{"name": "a", "recipe": "demo.yaml"},'
            ' {"name": "a", "recipe": "demo.yaml"}]}',
            "the rows 'a' and 'a' would share the folder `a`",
        ),
        (
            '{"title": "a", "reference": "K + P", "rows": [{"name": "K + P", "recipe": "demo.yaml"},'
            ' {"name": "K - P", "recipe": "demo.yaml"}]}',
            "the rows 'K + P' and 'K - P' would share the folder `k-p`",
        ),
        ('{"title": "a", "reference": "b", "rows": [{"name": "c", "recipe": "demo.yaml"}]}', "`reference` (=b)"),
        (
            '{"title": "a", "reference": "c", "rows": [{"name": "c", "recipe": "demo.yaml", "reference": "d"}]}',
            "`reference` (=d)",
        ),
        ('{"title": "a", "reference": "b", "rows": [{"name": "b", "recipe": "none.yaml"}]}', "none.yaml"),
    ],
)
def test_files_that_are_no_tables(text, named, tmp_path, capsys):
    (tmp_path / "t.yaml").write_text(text)
    assert cli.main(["table", str(tmp_path / "t.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert named in capsys.readouterr().err
