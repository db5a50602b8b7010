"""What `load` refuses, for sets in memory and for streamed ones, and the options that choose and shape images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from generated_images import encode, noise, write_parquet

from adderkit.data import DataConfig, load

Pair = Callable[..., dict[str, Path]]


@pytest.fixture(params=[64, 0], ids=["memory", "stream"])
def limit(request: pytest.FixtureRequest) -> dict[str, int]:
    return {"memory_limit_mb": request.param}


def pngs(count: int, **options: object) -> list[bytes]:
    return [encode(image) for image in noise(count, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("row", [0, 6])
def test_no_image_is_refused(pair: Pair, limit: dict[str, int], row: int):
    images = pngs(8)
    images[row] = b"this is text"
    with pytest.raises(ValueError, match=rf"flowers-train.parquet:{row}: not an image"):
        load(DataConfig(name="parquet", **pair(images, pngs(3)), **limit))


def test_truncated_image_is_refused(pair: Pair):
    images = pngs(8, shape=(40, 40, 3))
    with pytest.raises(ValueError, match=r"flowers-test.parquet:2: broken image"):
        load(DataConfig(name="parquet", **pair(images, [*images[:2], images[2][:2000]])))


def test_mixed_sizes_name_two_files_and_the_way_out(pair: Pair, limit: dict[str, int]):
    images = pngs(5) + pngs(1, shape=(6, 4, 3))
    files = pair(images, pngs(3))
    message = r"train.parquet:0 is 7x9, .*train.parquet:5 is 4x6 \(width x height\); set `data.image_size`"
    with pytest.raises(ValueError, match=message):
        load(DataConfig(name="parquet", **files, **limit))
    data = load(DataConfig(name="parquet", **files, image_size=8, **limit))
    assert (data.height, data.width) == (8, 8)
    assert next(data.train.batches(6, seed=0))[0].shape == (6, 3, 8, 8)


def test_train_and_test_of_different_sizes_are_refused(pair: Pair, limit: dict[str, int]):
    with pytest.raises(ValueError, match=r"train.parquet:0 is 7x9, .*test.parquet:0 is 4x6"):
        load(DataConfig(name="parquet", **pair(pngs(5), pngs(3, shape=(6, 4, 3))), **limit))


@pytest.mark.parametrize("grey_split", ["train", "test", "train rows"])
def test_grey_and_colour_together_become_rgb(pair: Pair, limit: dict[str, int], grey_split: str):
    grey, colour = pngs(6, shape=(9, 7)), pngs(6)
    splits = {"train": (grey, colour), "test": (colour, grey), "train rows": (grey[:4] + colour[:2], grey)}
    data = load(DataConfig(name="parquet", **pair(*splits[grey_split]), crop_padding=0, flip=False, **limit))
    assert data.channels == 3 == len(data.mean)
    split = data.test if grey_split == "test" else data.train
    images = next(split.uint8_batches(6))[0].numpy()
    assert np.array_equal(images[0], np.repeat(noise(6, (9, 7))[0][None], 3, axis=0))


def test_grey_stays_one_channel(pair: Pair, limit: dict[str, int]):
    data = load(DataConfig(name="parquet", **pair(pngs(6, shape=(9, 7))), **limit))
    assert data.channels == 1 == len(data.mean) == len(data.std)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_outside_the_classes_are_refused(tmp_path: Path, pair: Pair, label: int):
    files = pair(pngs(5))
    write_parquet(files["test"], pngs(4), [0, 1, label, label])
    message = rf"test.parquet:2: label {label} must be from 0 to 2 \(3 classes; 2 of 4"
    with pytest.raises(ValueError, match=message):
        load(DataConfig(name="parquet", **files))


def test_empty_class_list_is_refused(pair: Pair):
    with pytest.raises(ValueError, match="flowers: the class list is empty"):
        load(DataConfig(name="parquet", **pair(pngs(4), classes=())))


def test_rows(pair: Pair, limit: dict[str, int]):
    config = DataConfig(name="parquet", **pair(pngs(9), pngs(6)), train_rows="2:7", test_rows="4:", **limit)
    data = load(config)
    assert (len(data.train), len(data.test)) == (5, 2)
    images, labels = next(data.train.uint8_batches(5))
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), noise(9)[2:7])
    assert labels.tolist() == [2, 0, 1, 2, 0]
    assert next(data.test.uint8_batches(5))[1].tolist() == [1, 2]


def test_rows_are_named_as_in_the_file(pair: Pair):
    images = pngs(9)
    images[6] = b"text"
    with pytest.raises(ValueError, match=r"train.parquet:6: not an image"):
        load(DataConfig(name="parquet", **pair(images), train_rows="3:"))


@pytest.mark.parametrize("rows", ["0:10", "5:5", "6:2", "9:"])
def test_rows_out_of_bounds_are_refused(pair: Pair, rows: str):
    message = rf"`data.train_rows` \(={rows}\) must be START:STOP with 0 <= START < STOP <= 9"
    with pytest.raises(ValueError, match=message):
        load(DataConfig(name="parquet", **pair(pngs(9)), train_rows=rows))


@pytest.mark.parametrize(("side", "padding"), [(8, 1), (28, 4), (32, 4), (64, 8)])
def test_default_padding_is_an_eighth_of_the_side(pair: Pair, side: int, padding: int):
    # all-white images: with the default some pixel `padding` deep is black in some image, none deeper
    data = load(DataConfig(name="parquet", **pair([encode(np.full((side, side), 255, np.uint8))] * 200)))
    images = next(data.train.batches(200, seed=0))[0]
    black = images.amin(dim=(0, 1)) < images.amax()
    assert black[side // 2].sum() == 2 * padding and black[:, side // 2].sum() == 2 * padding


def test_augmentation_can_be_switched_off(pair: Pair):
    data = load(DataConfig(name="parquet", **pair(pngs(9)), crop_padding=0, flip=False))
    images = next(data.train.batches(9, seed=0))[0]
    plain = next(data.train.batches(9, seed=None))[0]
    assert sorted(images.sum(dim=(1, 2, 3)).tolist()) == sorted(plain.sum(dim=(1, 2, 3)).tolist())
    assert all((plain == image).all(dim=(1, 2, 3)).sum() == 1 for image in images)


def test_label_names_the_set(pair: Pair):
    files = pair(pngs(4))
    assert load(DataConfig(name="parquet", **files)).name == "flowers"
    assert load(DataConfig(name="parquet", label="roses", **files)).name == "roses"
