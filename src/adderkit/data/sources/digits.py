"""Handwritten digits of 8x8 grey pixels that come with scikit-learn: no download, trains in seconds."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from adderkit.data.config import DataConfig
from adderkit.data.raw import RawData, from_arrays
from adderkit.data.registry import register

_SPLIT_SEED = 0


@register("digits", uses=())
def digits(config: DataConfig) -> RawData:
    """The 1,797 images, split once and for all into 1,438 to train and 359 to test.

    A fifth of each class, rounded and drawn with a fixed seed, is for testing; both parts keep the original order.
    Values 0..16 are scaled to 0..255.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    from sklearn.datasets import load_digits

    bundle = cast(Any, load_digits())
    pixels = np.rint(bundle.images * (255 / 16)).astype(np.uint8)
    labels = np.asarray(bundle.target, np.int64)
    keys = np.random.Philox(_SPLIT_SEED).random_raw(len(labels))
    is_test = np.zeros(len(labels), bool)
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        is_test[rows[np.argsort(keys[rows])][: round(len(rows) / 5)]] = True
    return RawData(
        name="digits",
        classes=tuple("0123456789"),
        train=from_arrays(pixels[~is_test], labels[~is_test], "digits training"),
        test=from_arrays(pixels[is_test], labels[is_test], "digits test"),
        flip=False,
    )
