import shutil
from pathlib import Path

import numpy as np
import pytest
from generated_images import CLASSES, encode, noise

from adderkit.data import DataConfig, load


def config(root: Path, **options: object) -> DataConfig:
    return DataConfig(name="imagefolder", root=root, **options)  # type: ignore[arg-type]


def test_classes_order_and_pixels(folder: Path):
    data = load(config(folder))
    assert (data.name, data.classes) == ("pets", CLASSES)
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.test.labels.tolist() == [1, 1, 2, 2]  # the test images lack a class
    pixels = next(data.train.uint8_batches(4))[0].permute(0, 2, 3, 1).numpy()
    assert np.array_equal(pixels, noise(4, (5, 6, 3), seed=0))


def test_val_serves_where_there_is_no_test(folder: Path):
    (folder / "test").rename(folder / "val")
    assert len(load(config(folder)).test) == 4


def test_other_files_and_hidden_ones_are_passed_over(folder: Path):
    (folder / "train/ant/notes.txt").write_text("x")
    (folder / "train/ant/.hidden.png").write_text("x")
    (folder / "train/.cache").mkdir()
    (folder / "train/ant/deep").mkdir()
    (folder / "train/ant/deep/5.JPG").write_bytes(encode(noise(1, (5, 6, 3))[0], "JPEG"))
    assert len(load(config(folder)).train) == 13


@pytest.mark.parametrize("limit", [64, 0])
def test_broken_file_is_named(folder: Path, limit: int):
    (folder / "train/bee/2.png").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"train/bee/2.png: not an image"):
        load(config(folder, memory_limit_mb=limit))


def test_unknown_test_class_is_refused(folder: Path):
    shutil.copytree(folder / "test/bee", folder / "test/dog")
    with pytest.raises(ValueError, match=r"test/dog: no such class in .*train, which has 3: ant, bee, cat"):
        load(config(folder))


def test_class_folder_without_images_is_refused(folder: Path):
    (folder / "train/dog").mkdir()
    with pytest.raises(ValueError, match=r"train/dog: no images; expected files \*.bmp"):
        load(config(folder))


def test_no_class_folders_are_refused(folder: Path):
    shutil.rmtree(folder / "train")
    (folder / "train").mkdir()
    with pytest.raises(ValueError, match=r"train: no class folders"):
        load(config(folder))


@pytest.mark.parametrize(("lost", "message"), [("train", "no folder train"), ("test", "no folder test or val")])
def test_missing_split_is_refused(folder: Path, lost: str, message: str):
    shutil.rmtree(folder / lost)
    with pytest.raises(ValueError, match=message):
        load(config(folder))


def test_missing_root_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"needs `data\.root`"):
        load(DataConfig(name="imagefolder"))
    with pytest.raises(ValueError, match=r"`data.root` \(=.*nowhere\) has no folder train"):
        load(config(tmp_path / "nowhere"))
