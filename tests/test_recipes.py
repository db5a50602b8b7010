"""Every shipped recipe is valid, says what to expect of it, and trains: an epoch on a few small images."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adderkit.data import load
from adderkit.distill import TeacherNeed
from adderkit.train import config_type, load_recipe, run, to_yaml
from adderkit.train.config import to_values
from adderkit.train.distributed import ALONE
from adderkit.train.loop import Trainer

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(path for path in FOLDER.rglob("*.yaml") if path.parent.name != "tables")
IMAGENET = [path for path in RECIPES if path.parent.name == "imagenet"]
SMALL = [path for path in RECIPES if path.parent.name != "imagenet"]
WIDTHS = {  # of the last operator of each stage
    "resnet18": (64, 128, 256, 512),
    "resnet50": (256, 512, 1024, 2048),
    "resnet152": (256, 512, 1024, 2048),
}


def name(path: Path) -> str:
    return path.relative_to(FOLDER).with_suffix("").as_posix()


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_loads_and_round_trips(path, tmp_path):
    config = load_recipe(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(to_yaml(config))
    assert load_recipe(copy) == config
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("# "))
    assert path.read_text().startswith(head) and all(len(line) <= 120 for line in head.splitlines())
    if path.parent.name in ("cifar10", "cifar100", "imagenet"):
        assert re.search(r"\d\d\.\d+ %.*\(.*paper|\d\d\.\d+ %.*supplementary|No published figure", head, re.DOTALL)


def test_there_are_recipes_for_every_row_of_the_papers_tables():
    names = {name(path) for path in RECIPES}
    for data in ("cifar10", "cifar100"):
        for network in ("vgg_small", "resnet20", "resnet32"):
            assert {f"{data}/{network}-{row}" for row in ("cnn", "none", "pkkd")} <= names
    assert {f"cifar10/resnet20-{method}" for method in ("dropout", "snapshot", "sp", "fsp", "at", "kd")} <= names
    assert {f"imagenet/resnet18-{row}" for row in ("cnn", "none", "pkkd", "cnn-kd", "cnn-pkkd")} <= names
    ablation = ("cnn", "none", "pkkd", "pkkd-k-p", "pkkd-nk-p", "pkkd-k-np", "pkkd-nk-np")
    assert {f"imagenet/resnet50-{row}" for row in ablation} <= names


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_recipe_is_what_its_name_says(path):
    config = load_recipe(path)
    student, _, row = path.stem.partition("-")
    if path.stem == "demo":
        return
    assert config.student == student and config.data.name == {"imagenet": "imagefolder"}.get(
        path.parent.name, path.parent.name
    )
    assert config.layer == ("conv" if "cnn" in row else "adder")
    assert config.method == {"cnn": "none"}.get(row, row.removeprefix("cnn-").partition("-")[0])
    assert config.teacher == ("resnet152" if row.startswith("cnn-") else None)
    if config.method == "pkkd":
        options = config.method_options()
        is_progressive = {"p", "paper"} & set(row.split("-"))
        assert (options.kernel, options.progressive) == ("nk" not in row.split("-"), bool(is_progressive))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder: four JPEGs of two classes in train, two in val, 80x64 pixels and 64x80."""
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2)):
        for i in range(count):
            file = root / part / "ab"[i % 2] / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            blocks = generator.integers(0, 256, (8, 10, 3) if i % 3 else (10, 8, 3), dtype=np.uint8)
            Image.fromarray(blocks.repeat(8, axis=0).repeat(8, axis=1)).save(file, quality=95)
    return root


@pytest.fixture
def trained(tmp_path, monkeypatch, display):
    """Trains a recipe for as few epochs as it can have, of two steps each; gives the trainer and its batches."""
    monkeypatch.setattr(Trainer, "_save_state", lambda trainer: None)
    monkeypatch.setattr("adderkit.train.loop.save_network", lambda *_: None)

    def train(path: Path, data: dict[str, object]):
        values = to_values(load_recipe(path))
        epochs = {"snapshot": 4, "fsp": 2}.get(values["method"], 1)  # two parts that can't be in one epoch
        config = config_type()(**{**values, "epochs": epochs, "batch_size": 2, "device": "cpu", "data": data})
        cpu = torch.device("cpu")
        trainer = run._trainer(config, load(config.data, cpu), tmp_path, display, cpu, ALONE)
        batches = []
        losses = trainer.method.losses
        monkeypatch.setattr(trainer.method, "losses", lambda batch: batches.append(batch) or losses(batch))
        before = {key: value.clone() for key, value in trainer.student.network.state_dict().items()}
        rows = trainer.fit().rows
        assert len(batches) == 2 * epochs
        assert all(math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))
        after = trainer.student.network.state_dict()
        moved = [key for key in ("conv1.weight", "fc.weight") if key in before]
        assert all(not torch.equal(before[key], after[key]) for key in moved)
        return trainer, batches, rows

    return train


@pytest.mark.parametrize("path", SMALL, ids=name)
def test_a_small_recipe_trains(path, trained):
    trainer, batches, _ = trained(path, {"name": "digits", "train_rows": "0:4", "test_rows": "0:2"})
    need = trainer.method.teacher_need
    assert (trainer.teacher is None) == (need is TeacherNeed.NONE)
    assert batches[0].images.shape == (2, 1, 8, 8)


@pytest.mark.parametrize("path", IMAGENET, ids=name)
def test_an_imagenet_recipe_trains(path, trained, pictures):
    recipe = load_recipe(path)
    assert recipe.data.image_size == 224
    side = 224 if path.stem == "resnet18-pkkd" else 64  # the smaller one to save time
    data = recipe.data.model_dump() | {"root": pictures, "image_size": side, "memory_limit_mb": 0, "workers": 1}
    trainer, batches, rows = trained(path, data)
    assert batches[0].images.shape == (2, 3, side, side) and batches[0].student.logits.shape == (2, 2)
    assert trainer.data.mean == (0.485, 0.456, 0.406)
    assert all(row["test_top5"] == 1.0 and 0 <= row["test_top1"] <= 1 for row in rows)  # two classes
    if trainer.teacher is None:
        assert recipe.method == "none" and not batches[0].student.taps
        return
    teacher = trainer.teacher.network
    assert (teacher.name, teacher.layer) == (recipe.teacher_network, "conv")
    assert trainer.is_progressive == (trainer.method.teacher_need is TeacherNeed.PROGRESSIVE)
    if recipe.method == "pkkd":  # matched by stage; rho maps widths
        maps = [(side // shrink, side // shrink) for shrink in (4, 8, 16, 32)]
        for net, output in ((recipe.student, batches[0].student), (teacher.name, batches[0].taught)):
            expected = [(2, width, *size) for width, size in zip(WIDTHS[net], maps, strict=True)]
            assert [tuple(tap.shape) for tap in output.taps.values()] == expected
        rhos = [getattr(branch.rho, "weight", None) for branch in trainer.method.student_branches]
        widths = list(zip(WIDTHS[teacher.name], WIDTHS[recipe.student], strict=True))
        expected = [(*pair, 1, 1) if pair[0] != pair[1] else None for pair in widths]
        assert [None if rho is None else tuple(rho.shape) for rho in rhos] == expected
        (epoch,) = (row for row in rows if "loss.mid" in row)  # behind a head start, the second one
        assert epoch["loss.mid"] > 0 and epoch["epoch"] == trainer.schedule.epochs


def test_an_empty_recipe_is_the_default(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    assert load_recipe(tmp_path / "empty.yaml") == config_type()()
