import numpy as np
import torch
from sklearn.datasets import load_digits

from adderkit.data import DataConfig, load


def test_counts_and_shapes():
    data = load(DataConfig())
    assert data.name == "digits" and data.classes == tuple("0123456789")
    assert (data.channels, data.height, data.width) == (1, 8, 8)
    assert (len(data.train), len(data.test)) == (1438, 359)


def test_split_is_stratified_and_complete():
    data = load(DataConfig())
    counts = np.bincount(load_digits().target)
    test = torch.bincount(data.test.labels).numpy()
    assert np.array_equal(test, np.round(counts / 5))
    assert np.array_equal(torch.bincount(data.train.labels).numpy() + test, counts)


def test_every_image_is_in_one_part():
    data = load(DataConfig())
    parts = [next(split.uint8_batches(2000))[0] for split in (data.train, data.test)]
    ours = torch.cat(parts).flatten(1).numpy().astype(int)
    theirs = np.round(load_digits().data * 255 / 16).astype(int)
    assert sorted(map(tuple, ours)) == sorted(map(tuple, theirs))
    assert ours.max() == 255


def test_split_never_changes():
    test = load(DataConfig()).test
    assert test.labels[:20].tolist() == [0, 3, 8, 9, 4, 5, 8, 9, 1, 6, 9, 9, 3, 2, 1, 0, 5, 8, 1, 7]


def test_digits_are_not_mirrored_by_default():
    data = load(DataConfig(crop_padding=0))
    plain = {tuple(image.flatten().tolist()) for image in next(data.train.batches(1438, seed=None))[0]}
    trained = {tuple(image.flatten().tolist()) for image in next(data.train.batches(1438, seed=1))[0]}
    assert plain == trained
