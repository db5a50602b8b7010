"""The record in docs/results/study: trainings have the configuration of their rows, and the tables show them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from adderkit import cli, tables, train
from adderkit.tables.definition import row_config
from adderkit.train.folder import decisive

STUDY = Path(__file__).parents[1] / "docs" / "results" / "study"
PLANS = sorted(path for path in STUDY.glob("*.yaml") if "\nrows:" in path.read_text())
# Of the shipped tables, as the study's page has it.
PROTOCOL = [
    *("--student", "resnet8", "--epochs", "30", "--batch_size", "128", "--test_every", "30", "--device", "cpu"),
    *("--data.name", "parquet", "--data.label", "cifar10-jpeg75", "--data.train_rows", "0:10000"),
    *("--data.train", "cifar10-jpeg75-train.parquet", "--data.test", "cifar10-jpeg75-test.parquet"),
]
BEGUN = [plan for plan in PLANS if (STUDY / "trainings" / plan.stem).exists()]


@pytest.mark.parametrize("plan", PLANS, ids=lambda path: path.stem)
def test_every_training_is_what_its_row_says(plan):
    folder = STUDY / "trainings" / plan.stem
    rows = {row.folder: row for row in tables.load_table(str(plan)).rows}
    configs = {name: row_config(row) for name, row in rows.items()}  # of rows without a training too
    finished = {path.name for path in folder.iterdir() if path.is_dir()} if folder.exists() else set()
    assert finished <= rows.keys()
    for name in sorted(finished):
        for run in folder.joinpath(name).glob("seed-*"):
            wanted = configs[name].model_copy(update={"seed": int(run.name.removeprefix("seed-"))})
            text = (run / "config.yaml").read_text()
            assert not re.search(r"^  (root|train|test): .*/", text, re.MULTILINE), f"{run}: a path of some machine"
            assert decisive(train.load_recipe(run / "config.yaml")) == decisive(wanted), run
            summary = json.loads((run / "summary.json").read_text())
            assert (summary["seed"], summary["epochs"]) == (wanted.seed, wanted.epochs)


@pytest.mark.parametrize("plan", BEGUN, ids=lambda path: path.stem)
def test_the_tables_are_those_of_the_trainings(plan, tmp_path):
    """Made again: everything is finished, so nothing is trained."""
    stored, made = STUDY / "trainings" / plan.stem, tmp_path / "made"
    shutil.copytree(stored, made, ignore=shutil.ignore_patterns("table.*", "trainings.csv"))
    _make_again(str(plan), made)
    _assert_same_tables(made, stored)


@pytest.mark.parametrize("name", sorted(path.name for path in (STUDY / "shipped").iterdir()))
def test_shipped_tables_show_what_final_trained_by_the_same_configuration(name, tmp_path):
    trained = {run: train.load_recipe(run / "config.yaml") for run in (STUDY / "trainings" / "final").glob("*/seed-*")}
    made = tmp_path / "made"
    for row in tables.load_table(name).rows:
        stated = row_config(row)
        for run, config in trained.items():
            protocol = {key: getattr(config, key) for key in ("seed", "student", "epochs", "batch_size", "data")}
            if decisive(stated.model_copy(update=protocol)) == decisive(config):
                shutil.copytree(run, made / row.folder / run.name)
    _make_again(name, made, *PROTOCOL)
    _assert_same_tables(made, STUDY / "shipped" / name)


def _make_again(table: str, made: Path, *options: str) -> None:
    """Runs a table's command in the folder for a training that is finished there; it shows the others too."""
    seeds = {row.name: tables.finished_seeds(row, made) for row in tables.load_table(table).rows}
    row, seed = next((name, found[0]) for name, found in seeds.items() if found)
    assert cli.main(["table", table, "--out", str(made), "--rows", row, "--seeds", str(seed), *options]) == 0


def _assert_same_tables(made: Path, stored: Path) -> None:
    for name in ("table.md", "table.csv", "trainings.csv"):
        assert (made / name).read_text() == (stored / name).read_text(), name
