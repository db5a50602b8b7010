"""What a resumed run and a cached teacher are compared by: images, labels, weights, the files of the run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adderkit import train
from adderkit.train.checkpoint import load_state, save_state
from adderkit.train.config import BaseConfig, config_type

CLASSES = ("ant", "bee")


def write_set(root: Path, names: tuple[str, ...] = CLASSES) -> Path:
    """Images of two classes, 8x8; with the names swapped, the same pixels have the other label."""
    for part, count in (("train", 8), ("test", 4)):
        for label, name in enumerate(names):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i, pixels in enumerate(np.random.default_rng(label).integers(0, 256, (count, 8, 8), np.uint8)):
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def make_config(root: Path, **values: Any) -> BaseConfig:
    data = {"name": "imagefolder", "root": root, "label": "pets", "crop_padding": 0, **values.pop("data", {})}
    return config_type()(**{"method": "none", "epochs": 2, "batch_size": 4, "device": "cpu", "data": data, **values})


@pytest.mark.parametrize("data", [{}, {"memory_limit_mb": 0, "workers": 0}], ids=["memory", "stream"])
def test_a_run_does_not_go_on_with_other_labels(tmp_path, stop_after, data):
    one = write_set(tmp_path / "a")
    other = write_set(tmp_path / "b")
    for name in ("3.png", "4.png"):  # an image of each class changes places with one of the other
        first, second = (other / "train" / label / name for label in CLASSES)
        shutil.move(first, tmp_path / "x.png")
        shutil.move(second, first)
        shutil.move(tmp_path / "x.png", second)
    with pytest.raises(train.Interrupted):
        train.train(make_config(one, data=data), tmp_path / "run", display=stop_after(1))
    with pytest.raises(ValueError, match=r"of a run on other images: their (train|test)_\w+ is sha256"):
        train.train(make_config(other, data=data), tmp_path / "run", resume=True)
    train.train(make_config(one), tmp_path / "run", resume=True)  # held or streamed, they are the same


def test_checkpoint_that_knows_less_of_the_images_goes_on(tmp_path, stop_after, display):
    config = make_config(write_set(tmp_path / "a"))
    with pytest.raises(train.Interrupted):
        train.train(config, tmp_path / "run", display=stop_after(1))
    (path,) = (tmp_path / "run" / "checkpoints").glob("*.pt")
    state = load_state(path)
    known = ("name", "classes", "pixels", "mean", "std", "images", "skipped")
    save_state(path, {**state, "data": {key: state["data"][key] for key in known}})
    train.train(config, tmp_path / "run", resume=True, display=display)
    assert display.steps == 7


def test_teacher_of_other_labels_is_another(tmp_path, display, home):
    for name, classes in (("a", CLASSES), ("b", CLASSES[::-1])):
        config = make_config(write_set(tmp_path / name, classes), method="kd", epochs=1)
        train.train(config, tmp_path / f"run-{name}", display=display)
    assert len(list((home / "teachers").iterdir())) == 2
