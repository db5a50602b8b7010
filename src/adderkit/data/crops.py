"""How images of any size come to the square of a network: random windows for training, the centre for tests.

Both act on decoded images, whole ones: Pillow's draft mode would decode JPEGs at an eighth to a half of their size in
less time, but to other pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adderkit.data.image import fit

_TRIES = 10
WORDS = 4 * _TRIES  # random words per image
_SCALE = (0.08, 1.0)
_LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))


@dataclass(frozen=True)
class CentreCrop:
    """Resizes the shorter side to `resize` (bilinear) and keeps the centre square of `size` pixels."""

    size: int
    resize: int

    def __call__(self, image: Image.Image) -> Image.Image:
        image = fit(image, self.resize, "resize")
        edge = (self.resize - self.size) // 2
        return image.crop((edge, edge, edge + self.size, edge + self.size))


@dataclass(frozen=True, eq=False)
class ResizedCrop:
    """Resizes a random window to a square of `size` pixels (bilinear).

    Attributes:
        size: Side of the result.
        words: Shape (WORDS,), uint64: all that is random about it, as from `augment.crop_words`.

    Source: Szegedy et al., Going deeper with convolutions, CVPR 2015, section 6; the numbers are those of torchvision's
    `RandomResizedCrop`.
    """

    size: int
    words: NDArray[np.uint64]

    def __call__(self, image: Image.Image) -> Image.Image:
        window = random_window(image.width, image.height, self.words)
        return image.crop(window).resize((self.size, self.size), Image.Resampling.BILINEAR)


def random_window(width: int, height: int, words: NDArray[np.uint64]) -> tuple[int, int, int, int]:
    """Left, upper, right and lower edge of a random window.

    It has 8 % to 100 % of the area and a width of 3/4 to 4/3 of its height, evenly by logarithm. The first of ten tries
    that lies within the image counts; where none does, the centre with the nearest proportions is taken.

    Args:
        width: Of the image.
        height: Of the image.
        words: Shape (WORDS,), uint64.
    """
    for first, second, third, fourth in words.reshape(_TRIES, 4).tolist():
        area = width * height * _between(*_SCALE, first)
        ratio = math.exp(_between(*_LOG_RATIO, second))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = third % (width - w + 1), fourth % (height - h + 1)
            return left, top, left + w, top + h
    narrowest, widest = (math.exp(value) for value in _LOG_RATIO)
    w, h = width, height
    if width < narrowest * height:
        h = round(width / narrowest)
    elif width > widest * height:
        w = round(height * widest)
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _between(low: float, high: float, word: int) -> float:
    return low + (high - low) * (word >> 11) * 2.0**-53
