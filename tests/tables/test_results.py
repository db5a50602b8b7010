"""What a table makes of finished trainings: pairs of seeds, intervals, what is refused, what is written."""

from __future__ import annotations

import csv
import json
import math
import shutil

import pytest
from PIL import Image

from adderkit.tables import cells, load_table, read_results, row_config, write_table
from adderkit.tables.results import estimate
from adderkit.train.config import to_yaml

FIGURES = {"a": {0: 80.0, 1: 82.0, 2: 87.0}, "b": {1: 81.0, 2: 90.0, 5: 50.0}, "c": {2: 88.0}, "d": {7: 60.0}}
IMAGES = {"train": 1000, "test": 200, "classes": 10, "digest": "0123456789ab"}


def summary(top1: float, seed: int, **others) -> dict:
    return {
        "method": "none", "dataset": "mine", "student": "resnet8", "teacher": None, "layer": "adder", "seed": seed,
        "epochs": 40, "final_top1": top1 / 100, "best_top1": (top1 + 1) / 100, "best_epoch": 39, "final_top5": 0.99,
        "teacher_final_top1": None, "teacher_best_top1": None, "seconds": 1.5, "images": IMAGES, **others,
    }  # fmt: skip


@pytest.fixture
def table(tmp_path):
    rows = [{"name": name, "recipe": "demo.yaml", "top1": 92.2} for name in FIGURES]
    path = tmp_path / "table.yaml"
    path.write_text(json.dumps({"title": "A test", "reference": "a", "rows": rows}))
    return load_table(str(path))


@pytest.fixture
def trainings(table, tmp_path):
    """A cell for each figure, its folder as a finished training leaves it."""
    found = []
    for row in table.rows:
        for cell in cells([(row, row_config(row))], FIGURES[row.name], tmp_path / "out"):
            cell.folder.mkdir(parents=True)
            (cell.folder / "config.yaml").write_text(to_yaml(cell.config))
            figures = summary(FIGURES[row.name][cell.seed], cell.seed)
            (cell.folder / "summary.json").write_text(json.dumps(figures))
            found.append(cell)
    return found


def test_differences_are_of_pairs_of_one_seed(table, trainings):
    """b - a: seed 1 -1, seed 2 +3; the quantile of Student's t at one degree of freedom is 12.706205."""
    a, b, c, d = read_results(table, trainings[::-1])
    assert a.difference is None and d.difference is None
    assert c.difference == estimate([1.0])
    assert b.difference is not None and b.difference.values == 2 and len(b.runs) == 3
    assert b.difference.mean == pytest.approx(1.0)
    assert b.difference.deviation == pytest.approx(math.sqrt(8))
    assert b.difference.half == pytest.approx(12.706205 * 2, rel=1e-6)
    assert a.last is not None and a.last.mean == pytest.approx(83) and a.last.deviation == pytest.approx(math.sqrt(13))
    assert a.best is not None and a.best.mean == pytest.approx(84)
    assert [run.seed for run in b.runs] == [1, 2, 5]


def test_what_is_written(table, trainings, tmp_path):
    results = read_results(table, trainings)
    write_table(tmp_path / "out", table.model_copy(update={"note": "Mind the gap."}), results, ["a note"])
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert (
        "| b | 92.2 | 73.67 ± 20.98 (21.54 to 125.79) | 74.67 ± 20.98 | +1.00 ± 2.83 (-24.41 to +26.41), 2 pairs | 3 |"
        in lines
    )
    assert "| c | 92.2 | 88.00 | 89.00 | +1.00 | 1 |" in lines
    assert "| d | 92.2 | 60.00 | 61.00 |  | 1 |" in lines
    below = ["- Mind the gap.", "- trained on mine: 1,000 training images, 200 test images, 10 classes", "- a note"]
    assert lines[-3:] == below
    with open(tmp_path / "out" / "table.csv", newline="") as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    assert float(rows["b"]["difference"]) == pytest.approx(1) and rows["b"]["difference_pairs"] == "2"
    assert float(rows["a"]["last_top1_low"]) == pytest.approx(83 - 4.302653 * math.sqrt(13 / 3), rel=1e-5)
    assert rows["a"]["difference"] == rows["d"]["difference"] == "" and rows["d"]["difference_pairs"] == "0"
    assert list(rows["a"])[-2:] == ["difference_to", "difference_pairs"] and rows["b"]["difference_to"] == "a"
    with open(tmp_path / "out" / "trainings.csv", newline="") as file:
        runs = [(row["row"], int(row["seed"]), float(row["last_top1"])) for row in csv.DictReader(file)]
    assert runs == [(name, seed, top1) for name, figures in FIGURES.items() for seed, top1 in figures.items()]
    with Image.open(tmp_path / "out" / "table.png") as picture:
        assert picture.format == "PNG"


def test_other_images_are_told(table, trainings, tmp_path):
    """Row b: another slice of the same set; row c: a version that did not say."""
    for name, change in (("b", {"images": IMAGES | {"train": 500, "digest": "ba9876543210"}}), ("c", {"images": None})):
        for cell in trainings:
            if cell.row.name == name:
                (cell.folder / "summary.json").write_text(json.dumps(summary(50, cell.seed, **change)))
    write_table(tmp_path / "out", table, read_results(table, trainings), [])
    text = (tmp_path / "out" / "table.md").read_text()
    assert "- trained on mine: 1,000 training images, 200 test images, 10 classes, digest 0123456789ab (a, d)" in text
    assert "- trained on mine: 500 training images, 200 test images, 10 classes, digest ba9876543210 (b)" in text
    assert "- trained on mine, digest not recorded (c)" in text


def test_paper_figures_have_the_digits_of_their_source(table, trainings, tmp_path):
    """92.20 beside 92.33."""
    rows = [
        row.model_copy(update={"top1": top1}) for row, top1 in zip(table.rows, (92.2, 92.33, 92.0, 90.0), strict=True)
    ]
    table = table.model_copy(update={"rows": tuple(rows)})
    write_table(tmp_path / "out", table, read_results(table, trainings), [])
    assert "| a | 92.20 | 83.00" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "summary.json").write_text('{"method": '), "can't be read: .*delete the folder"),
        (lambda folder: (folder / "summary.json").write_text('{"method": "none"}'), "lacks dataset"),
        (
            lambda folder: (folder / "summary.json").write_text(json.dumps(summary(1, 0, final_top1=None))),
            "its final_top1 is None, no finite number",
        ),
        (
            lambda folder: (folder / "summary.json").write_text(json.dumps(summary(1, 0, final_top1=math.nan))),
            "its final_top1 is nan, no finite number",
        ),
        (
            lambda folder: (folder / "summary.json").write_text(json.dumps(summary(1, 0, seconds="long"))),
            "its seconds is 'long', no finite number",
        ),
        (
            lambda folder: (folder / "config.yaml").write_text("epochs: 3\n"),
            "holds a training of other options: `epochs` is 3 there and 40 here",
        ),
        (lambda folder: (folder / "config.yaml").unlink(), "config.yaml` can't be read"),
    ],
)  # fmt: skip
def test_a_damaged_training_is_named(damage, message, trainings):
    damage(trainings[0].folder)
    with pytest.raises(ValueError, match=message):
        trainings[0].summary()


def test_an_unfinished_training_has_no_summary(trainings):
    shutil.rmtree(trainings[0].folder)
    assert trainings[0].summary() is None
    assert trainings[1].summary() is not None


def test_rows_of_another_group_have_a_reference_of_their_own(table, trainings, tmp_path):
    """b and c are compared with b, the others with the table's; where that is not shown, with none."""
    references = {"b": "b", "c": "b", "d": "a"}
    rows = tuple(row.model_copy(update={"reference": references.get(row.name)}) for row in table.rows)
    table = table.model_copy(update={"rows": rows})
    a, b, c, d = read_results(table, trainings)
    assert a.difference is None and b.difference is None and d.difference is None
    assert c.difference == estimate([88.0 - 90.0])
    write_table(tmp_path / "out", table, [a, b, c, d], [])
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| less the reference |" in text and "| c | 92.2 | 88.00 | 89.00 | -2.00 | 1 |" in text
    assert "- compared with a: d\n" in text and "- compared with b: c\n" in text
    with open(tmp_path / "out" / "table.csv", newline="") as file:
        assert [row["difference_to"] for row in csv.DictReader(file)] == ["a", "b", "b", "a"]
    alone = table.chosen(("c", "d"))
    (c, d) = read_results(alone, [cell for cell in trainings if cell.row.name in "cd"])
    assert (c.reference, c.difference, d.reference, d.difference) == (None,) * 4
    write_table(tmp_path / "out", alone, [c, d], [])
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| less" not in text and "compared with" not in text


def test_rows_that_share_a_teacher_come_last(tmp_path):
    """The first trains it; the others come when the rest of the seed has begun. What a teacher depends on tells."""
    recipes = {
        "none": "method: none\n",
        "kd": "method: kd\n",
        "sp": "method: sp\nsp: {weight: 5}\neta: 0.1\nseed: 9\n",
        "beside": "method: kd\nkd: {progressive: true}\n",
        "slower": "method: at\nlr: 0.05\n",
        "cnn": "method: none\nlayer: conv\neta: 0.1\n",
        "of a run": f"method: at\nteacher_run: {tmp_path}\n",
        "at": "method: at\n",
    }
    rows = []
    for name, text in recipes.items():
        (tmp_path / f"{name}.yaml").write_text(text)
        rows.append({"name": name, "recipe": f"{name}.yaml"})
    (tmp_path / "table.yaml").write_text(json.dumps({"title": "A test", "reference": "kd", "rows": rows}))
    table = load_table(str(tmp_path / "table.yaml"))
    found = cells([(row, row_config(row)) for row in table.rows], (3, 4), tmp_path / "out")
    order = ["kd", "slower", "none", "beside", "of a run", "sp", "cnn", "at"]
    assert [(cell.row.name, cell.seed) for cell in found] == [(name, seed) for seed in (3, 4) for name in order]
