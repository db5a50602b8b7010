"""`on_bad_image`: what is left out, that it is listed, and that nothing else depends on it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from generated_images import CLASSES, encode, noise, write_parquet

from adderkit import cli, train
from adderkit.data import DataConfig, ImageData, load

MEMORY, STREAM = {"memory_limit_mb": 64}, {"memory_limit_mb": 0, "workers": 0}
BAD = {"train/ant/1.png": b"text", "train/cat/0.png": b"", "test/bee/1.png": encode(noise(1, (5, 6, 3))[0])[:60]}


@pytest.fixture
def spoilt(folder: Path) -> Path:
    for name, content in BAD.items():
        (folder / name).write_bytes(content)
    return folder


def loaded(root: Path, **options: object) -> ImageData:
    return load(DataConfig(name="imagefolder", root=root, on_bad_image="skip", **options))  # type: ignore[arg-type]


def images(data: ImageData) -> list[torch.Tensor]:
    return [images for images, _ in data.train.batches(3, seed=5, epoch=2)]


@pytest.mark.parametrize("limit", [MEMORY, STREAM], ids=["memory", "stream"])
def test_what_is_left_is_a_set_without_the_bad_images(spoilt: Path, limit: dict[str, object]):
    """Rows, statistics, order and augmentation are those of a folder that never held the bad images."""
    data = loaded(spoilt, **limit)
    for name in BAD:
        (spoilt / name).unlink()
    clean = loaded(spoilt, **limit)
    assert (len(data.train), len(data.test), len(clean.skipped)) == (10, 3, 0)
    assert data.train.labels.tolist() == clean.train.labels.tolist()
    assert (data.mean, data.std) == (clean.mean, clean.std)
    for one, other in zip(images(data), images(clean), strict=True):
        assert torch.equal(one, other)


def test_memory_and_stream_skip_the_same(spoilt: Path):
    memory, stream = loaded(spoilt, **MEMORY), loaded(spoilt, **STREAM)
    assert memory.skipped == stream.skipped
    here, there = memory.facts(), stream.facts()
    assert all(here[key] == there[key] for key in here.keys() & there.keys())
    assert [(item.split, item.row, Path(item.image).parent.name) for item in memory.skipped] == [
        ("train", 1, "ant"),
        ("train", 8, "cat"),
        ("test", 1, "bee"),
    ]
    assert "not an image" in memory.skipped[0].reason and "broken" in memory.skipped[2].reason


def test_rows_are_chosen_before_bad_ones_are_skipped(spoilt: Path):
    data = loaded(spoilt, train_rows="0:5")
    assert len(data.train) == 4
    assert [item.row for item in data.skipped] == [1, 1]


def test_parquet_rows_are_skipped_too(tmp_path: Path):
    pictures = [encode(one) for one in noise(6, (5, 6, 3))]
    for name in ("train", "test"):
        write_parquet(tmp_path / f"{name}.parquet", [pictures[0], None, *pictures[2:]], [0, 1, 2, 0, 1, 2])
    data = load(DataConfig(name="parquet", root=tmp_path, on_bad_image="skip"))
    assert data.train.labels.tolist() == [0, 2, 0, 1, 2]
    assert [item.image for item in data.skipped] == [f"{tmp_path}/{name}.parquet:1" for name in ("train", "test")]


def test_good_images_are_all_kept(folder: Path):
    assert loaded(folder).facts() == load(DataConfig(name="imagefolder", root=folder)).facts()


def test_what_the_system_can_not_read_is_never_skipped(folder: Path):
    """A disk that fails for a while would change the set from one sitting to the next."""
    (folder / "train/ant/link.png").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"link.png: can't be read \(No such file"):
        loaded(folder)


def test_a_run_lists_what_it_skipped(tmp_path: Path, capsys):
    root = tmp_path / "pets"
    for split, count in (("train", 8), ("test", 4)):
        for k, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i, pixels in enumerate(noise(count, (8, 8, 3), seed=k)):
                (root / split / name / f"{i}.png").write_bytes(encode(pixels))
    (root / "train/ant/7.png").write_bytes(b"text")
    words = ["train", "--data.name", "imagefolder", "--data.root", str(root), "--method", "none", "--device", "cpu"]
    words += ["--epochs", "1", "--batch_size", "4", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 2
    assert "or set `data.on_bad_image` to skip" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert cli.main([*words, "--data.on_bad_image", "skip"]) == 0
    shown = capsys.readouterr()
    assert "skipped 1 train images that can't be used; the first is" in (shown.out + shown.err).replace("\n", " ")
    (line,) = csv.DictReader((tmp_path / "run" / "skipped.csv").read_text().splitlines())
    assert (line["split"], line["row"], Path(line["image"]).name) == ("train", "7", "7.png")
    assert cli.main(["eval", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert "skipped 1 train images" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["skipped_images"] == 1


def test_resuming_on_other_images_is_refused(tmp_path: Path, spoilt: Path, stop_after):
    """A picture that is mended between two sittings changes the order of all: the run must not go on."""
    values = {"name": "imagefolder", "root": spoilt, "on_bad_image": "skip", "image_size": 8}
    config = train.config_type()(method="none", epochs=3, batch_size=2, device="cpu", data=values)
    with pytest.raises(train.Interrupted):
        train.train(config, tmp_path / "run", display=stop_after(2))
    shutil.copy(spoilt / "train/ant/0.png", spoilt / "train/ant/1.png")
    with pytest.raises(ValueError, match="of a run on other images"):
        train.train(config, tmp_path / "run", resume=True)


def test_workers_do_not_change_what_is_skipped(spoilt: Path):
    assert loaded(spoilt, workers=0).skipped == loaded(spoilt, workers=3).skipped
    assert np.isfinite(loaded(spoilt).mean).all()
