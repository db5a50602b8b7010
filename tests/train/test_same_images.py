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
    with pytest.raises(ValueError, match=r"metrics.csv` holds results, .*: put them back, or choose"):
        train.train(config, folder, resume=True, display=display)
    assert {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()} == before
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    shutil.move(tmp_path / "away", folder / "checkpoints")
    steps = display.steps
    train.train(config, folder, resume=True, display=display)
    assert display.steps == steps


def test_sweeps_over_eta_share_a_teacher(tmp_path, stop_after, display, home):
    """Also one that is not yet trained to its end."""
    root = write_set(tmp_path / "a")
    with pytest.raises(train.Interrupted):
        train.train(make_config(root, method="kd", eta=0.1), tmp_path / "one", display=stop_after(1))
    train.train(make_config(root, method="kd", eta=0.3), tmp_path / "two", display=display)
    assert display.steps == 7 + 8
    assert len(list((home / "teachers").iterdir())) == 1


STREAM = {"memory_limit_mb": 0, "workers": 0}


def truncate(path: Path) -> bytes:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return content


def test_broken_streamed_test_image_is_found_before_anything_is_written(tmp_path, display, capsys):
    root = write_set(tmp_path / "a")
    truncate(root / "test" / "bee" / "3.png")
    with pytest.raises(ValueError, match=r"test/bee/3.png: broken image"):
        train.train(make_config(root, data=STREAM), tmp_path / "run", display=display)
    assert display.steps == 0
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_is_due_at_the_last_step_does_not_wait_for_the_evaluation(tmp_path, display):
    values = {"checkpoint_minutes": 1e-9, "keep_checkpoints": 99, "epochs": 1}
    train.train(make_config(write_set(tmp_path / "a"), **values), tmp_path / "run", display=display)
    names = sorted(path.stem for path in (tmp_path / "run" / "checkpoints").glob("*.pt"))
    assert names == [*(f"epoch-0000-step-{step:06d}" for step in (1, 2, 3, 4)), "epoch-0001-step-000000"]


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_image_that_breaks_in_the_middle_of_a_run_is_mended_and_the_run_goes_on(tmp_path, display, part, accumulate):
    root = write_set(tmp_path / "a")
    config = make_config(root, data=STREAM, method="kd", accumulate=accumulate)
    train.train(config, tmp_path / "whole", display=display)
    bad, kept = root / part / "ant" / "3.png", {}

    def spoil(*_: object) -> None:
        kept.setdefault("content", truncate(bad) if not kept else b"")

    display.steps, count = 0, display.step
    display.step = lambda *arguments: (count(*arguments), spoil())
    with pytest.raises(ValueError, match=rf"{part}/ant/3.png: broken image .*a run under way needs it mended"):
        train.train(config, tmp_path / "run", display=display)
    display.step = count
    assert not (tmp_path / "run" / "skipped.csv").exists()
    with pytest.raises(ValueError, match="broken image"):  # not yet mended: nothing is lost
        train.train(config, tmp_path / "run", resume=True, display=display)
    skipping = make_config(root, data={**STREAM, "on_bad_image": "skip"}, method="kd", accumulate=accumulate)
    display.notes.clear()
    with pytest.raises(ValueError, match=r"`data\.on_bad_image` is 'stop' there and 'skip' here"):
        train.train(skipping, tmp_path / "run", resume=True, display=display)
    assert not any("skipped.csv" in note for note in display.notes)
    bad.write_bytes(kept["content"])
    train.train(config, tmp_path / "run", resume=True, display=display)
    if part == "test" or accumulate == 1:
        assert display.steps == 8  # none twice
    for name in ("last", "teacher"):
        path = f"{name}.safetensors"
        assert (tmp_path / "run" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()
