"""What a resumed run and a cached teacher are compared by: images, labels, weights, the files of the run."""

from __future__ import annotations

import json
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


def flip(path: Path, count: int = 100) -> None:
    """Spoils that many bytes in the second half, which are all numbers."""
    content = bytearray(path.read_bytes())
    for at in np.linspace(len(content) // 2, len(content) - 1, count).astype(int):
        content[at] ^= 1
    path.write_bytes(content)


DAMAGE = {"flipped": flip, "a bit of the header": lambda path: change_mean(path), "removed": Path.unlink}
SAYS = {"removed": "can't be read"}


def change_mean(path: Path) -> None:
    content = path.read_bytes()
    at = content.index(b'\\"mean\\":[0.') + len(b'\\"mean\\":[0.')
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_teacher_of_the_cache_is_named_with_the_remedy(tmp_path, display, home, damage):
    config = make_config(write_set(tmp_path / "a"), method="kd", epochs=1)
    train.train(config, tmp_path / "first", display=display)
    (folder,) = (home / "teachers").iterdir()
    DAMAGE[damage](folder / "last.safetensors")
    says = rf"{folder}/last.safetensors` {SAYS.get(damage, 'are damaged')}.*; delete the folder `{folder}`, and it is"
    with pytest.raises(ValueError, match=says):
        train.train(config, tmp_path / "second", display=display)
    shutil.rmtree(folder)
    train.train(config, tmp_path / "second", resume=True, display=display)
    whole = [(tmp_path / name / "last.safetensors").read_bytes() for name in ("first", "second")]
    assert whole[0] == whole[1]


def test_weights_of_older_versions_have_no_checksum(tmp_path, display):
    train.train(make_config(write_set(tmp_path / "a"), epochs=1), tmp_path / "run", display=display)
    path = tmp_path / "run" / "last.safetensors"
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    assert len(header["__metadata__"].pop("sha256")) == 64
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])
    assert train.load_network(path)[1].dataset == "pets"


@pytest.mark.parametrize("left", [[], ["epoch-0001-step-000000.pt.damaged"]], ids=["no folder", "damaged ones"])
def test_results_without_a_checkpoint_are_not_overwritten(tmp_path, display, left):
    config = make_config(write_set(tmp_path / "a"))
    folder = tmp_path / "run"
    train.train(config, folder, display=display)
    (folder / "summary.json").unlink()
    shutil.move(folder / "checkpoints", tmp_path / "away")
    for name in left:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / name).write_bytes(b"x")
    before = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    with pytest.raises(
        ValueError, match=r"metrics.csv` holds results, but there is no checkpoint .*: put them back, or"
    ):
        train.train(config, folder, resume=True, display=display)
    assert {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()} == before
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    shutil.move(tmp_path / "away", folder / "checkpoints")
    steps = display.steps
    train.train(config, folder, resume=True, display=display)
    assert display.steps == steps
