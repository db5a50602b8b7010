"""Batches of sets in memory and of streamed ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from generated_images import encode, noise

from adderkit.data import DataConfig, ImageData, load

Pair = Callable[..., dict[str, Path]]
KINDS = [{"memory_limit_mb": 64}, {"memory_limit_mb": 0, "workers": 0}, {"memory_limit_mb": 0, "workers": 2}]
IDS = ["memory", "stream", "stream-workers"]


def epoch_of(data: ImageData, batch: int, **options: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(data.train.batches(batch, **{"seed": 11, **options}))


def same(one: list[tuple[torch.Tensor, torch.Tensor]], other: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) and torch.equal(k, m) for (a, k), (b, m) in zip(one, other, strict=True)
    )


@pytest.fixture(params=KINDS, ids=IDS)
def data(request: pytest.FixtureRequest, pair: Pair) -> ImageData:
    files = pair([encode(image) for image in noise(23)], [encode(image) for image in noise(5, seed=1)])
    return load(DataConfig(name="parquet", **files, **request.param))


def test_kinds_of_splits(pair: Pair):
    files = pair([encode(image) for image in noise(6)])
    kinds = [type(load(DataConfig(name="parquet", **files, **kind)).train).__name__ for kind in KINDS]
    assert kinds == ["TensorSplit", "StreamSplit", "StreamSplit"]


def test_same_seed_same_batches_in_memory_and_streamed(pair: Pair):
    colour, grey = noise(15), noise(8, (9, 7), seed=3)
    files = pair([encode(image) for image in (*grey, *colour)], [encode(image) for image in grey])
    sets = [load(DataConfig(name="parquet", **files, **kind)) for kind in KINDS]
    epochs = [epoch_of(data, 5, epoch=2) for data in sets]
    assert same(epochs[0], epochs[1]) and same(epochs[0], epochs[2])
    tests = [list(data.test.batches(5, seed=None)) for data in sets]
    assert same(tests[0], tests[1]) and same(tests[0], tests[2])
    assert sets[0].mean == sets[1].mean and sets[0].std == sets[1].std
    assert {data.channels for data in sets} == {3}


def test_order_follows_seed_and_epoch(data: ImageData):
    assert same(epoch_of(data, 4), epoch_of(data, 4))
    assert not same(epoch_of(data, 4), epoch_of(data, 4, seed=12))
    assert not same(epoch_of(data, 4), epoch_of(data, 4, epoch=1))


@pytest.mark.parametrize("start", [0, 1, 3, 5])
def test_start_gives_what_a_full_epoch_gives_from_there(data: ImageData, start: int):
    assert same(epoch_of(data, 4, start=start), epoch_of(data, 4)[start:])


def test_training_batches(data: ImageData):
    batches = epoch_of(data, 4)
    assert len(batches) == data.train.steps(4) == 5  # 23 // 4, the short batch dropped
    for images, labels in batches:
        assert images.shape == (4, 3, 9, 7) and images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.shape == (4,) and labels.dtype == torch.int64


def test_whole_training_set_as_one_batch_has_every_image(data: ImageData):
    [(_, labels)] = epoch_of(data, 23)
    assert torch.bincount(labels).tolist() == [8, 8, 7]


def test_training_images_are_shifted_copies_of_the_pixels_and_keep_their_labels(pair: Pair):
    # each image has one value of its own, so that a batch tells which image came out where
    flat = [np.full((8, 8, 3), 10 * i + 5, np.uint8) for i in range(20)]
    data = load(DataConfig(name="parquet", **pair([encode(image) for image in flat]), crop_padding=2))
    seen: list[int] = []
    for images, labels in epoch_of(data, 5):
        std, mean = (torch.tensor(v)[:, None, None] for v in (data.std, data.mean))
        pixels = ((images * std + mean) * 255).round().to(torch.uint8)
        for image, label in zip(pixels, labels.tolist(), strict=True):
            values = sorted(set(image.flatten().tolist()) - {0})
            assert len(values) == 1 and (image[:, 2:6, 2:6] == values[0]).all()
            number = (values[0] - 5) // 10
            assert label == number % 3
            seen.append(number)
    assert sorted(seen) == list(range(20))


def test_evaluation_is_every_image_in_order_without_augmentation(data: ImageData):
    batches = list(data.test.batches(2, seed=None))
    assert [len(labels) for _, labels in batches] == [2, 2, 1]
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 2, 0, 1]
    expected = (noise(5, seed=1) / 255.0 - np.array(data.mean)) / np.array(data.std)
    images = torch.cat([images for images, _ in batches]).numpy()
    assert np.abs(images - expected.transpose(0, 3, 1, 2)).max() < 1e-5


def test_evaluation_batch_may_exceed_the_set(data: ImageData):
    [(images, _)] = list(data.test.batches(100, seed=None))
    assert len(images) == 5


def test_uint8_batches_are_the_pixels(data: ImageData):
    batches = list(data.test.uint8_batches(3))
    assert [len(labels) for _, labels in batches] == [3, 2]
    images = torch.cat([images for images, _ in batches])
    assert images.dtype == torch.uint8
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), noise(5, seed=1))


def test_statistics_against_float64(data: ImageData):
    pixels = noise(23) / 255.0
    assert data.mean == pytest.approx(pixels.mean(axis=(0, 1, 2)), abs=1e-12)
    assert data.std == pytest.approx(pixels.std(axis=(0, 1, 2)), abs=1e-12)


def test_constant_channel_is_only_centred(pair: Pair):
    data = load(DataConfig(name="parquet", **pair([encode(np.full((8, 8), 51, np.uint8))] * 6)))
    assert data.mean == pytest.approx((0.2,)) and data.std == (1.0,)


def test_stopping_early_and_two_iterators_at_once(data: ImageData):
    first = data.train.batches(4, seed=1)
    next(first)
    second = data.train.batches(4, seed=1)
    next(second)
    assert torch.equal(next(first)[0], next(second)[0])
    first.close()  # type: ignore[attr-defined]
    assert len(list(second)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"`batch_size` \(=0\) must be from 1 to 23"),
        ({"batch_size": 24}, r"`batch_size` \(=24\) must be from 1 to 23"),
        ({"seed": -1}, r"`seed` \(=-1\) must be >= 0"),
        ({"epoch": -1}, r"`epoch` \(=-1\) must be >= 0"),
        ({"start": 6}, r"`start` \(=6\) must be from 0 to 5"),
        ({"start": -1}, r"`start` \(=-1\) must be from 0 to 5"),
        ({"seed": None, "batch_size": 0}, r"`batch_size` \(=0\) must be >= 1"),
    ],
)
def test_bad_arguments_are_refused_at_the_call(data: ImageData, options: dict[str, int], message: str):
    arguments = {"batch_size": 4, "seed": 1, **options}
    with pytest.raises(ValueError, match=message):
        data.train.batches(**arguments)


def test_broken_image_of_a_streamed_set_is_named_when_it_is_decoded(pair: Pair):
    images = [encode(image) for image in noise(8, (40, 40, 3))]
    files = pair(images, [*images[:5], images[5][:2000], *images[6:]])  # the header of the sixth is whole
    data = load(DataConfig(name="parquet", **files, memory_limit_mb=0))
    batches = data.test.batches(4, seed=None)
    next(batches)
    with pytest.raises(ValueError, match=r"flowers-test.parquet:5: broken image"):
        next(batches)
