"""What a source hands over: images not yet decoded, their labels, and where each came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class RawSplit:
    """Images of one split, opened one by one and from several threads at once.

    Attributes:
        labels: Class of each image, int64, shape (N,).
        open: Opens image i, from 0 to N - 1; pixels are decoded later.
        where: Names image i in messages: its file, or file and row.
    """

    labels: NDArray[np.int64]
    open: Callable[[int], Image.Image]
    where: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> RawSplit:
        """The images of these row numbers."""
        return RawSplit(self.labels[rows], lambda i: self.open(int(rows[i])), lambda i: self.where(int(rows[i])))


@dataclass(frozen=True)
class RawData:
    """A data set as its source finds it.

    Attributes:
        name: What summaries call the set unless the user names it.
        classes: Class names; label k is class k.
        train: The training images.
        test: The test images.
        mean: Mean per channel of images in [0, 1], where published; None: computed from `train`.
        std: Standard deviation alike.
        flip: Whether mirrored images keep their class.
    """

    name: str
    classes: tuple[str, ...]
    train: RawSplit
    test: RawSplit
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    flip: bool = True


def from_arrays(pixels: NDArray[np.uint8], labels: NDArray[np.int64], name: str) -> RawSplit:
    """A split of decoded images.

    Shape: `pixels` (N, H, W) grey or (N, H, W, 3) RGB, uint8; `labels` (N,), int64.
    """
    return RawSplit(labels, lambda i: Image.fromarray(pixels[i]), lambda i: f"{name} image {i}")
