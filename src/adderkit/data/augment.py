"""Order, random crops and flips as functions of (seed, epoch, step), and normalisation, all per batch."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from adderkit.data.crops import WORDS

_ORDER, _AUGMENT, _CROP = 0, 1, 2  # keep the random streams of an epoch apart


def _bits(*key: int, count: int) -> NDArray[np.uint64]:
    # raw words of a bit generator: NumPy promises these never change, as it does not for permutation()
    return np.random.Philox(np.random.SeedSequence(key)).random_raw(count)


def order(length: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of range(length), the same on every machine and version."""
    return np.argsort(_bits(seed, epoch, _ORDER, count=length), kind="stable")


def draws(count: int, padding: int, flip: bool, *, seed: int, epoch: int, step: int) -> NDArray[np.int64]:
    """Random choices for one batch.

    Returns:
        Shape (3, count), int64: top and left of the crop in 0..2 * padding, and 1 where the image is mirrored.
    """
    bits = _bits(seed, epoch, _AUGMENT, step, count=3 * count).reshape(3, count)
    ranges = np.array([2 * padding + 1, 2 * padding + 1, 2 if flip else 1], dtype=np.uint64)
    return (bits % ranges[:, None]).astype(np.int64)


def crop_words(count: int, *, seed: int, epoch: int, step: int) -> NDArray[np.uint64]:
    """Random words of the resized crops of one batch, shape (count, WORDS): a row per image."""
    return _bits(seed, epoch, _CROP, step, count=count * WORDS).reshape(count, WORDS)


def crop_flip(images: Tensor, choices: Tensor, padding: int) -> Tensor:
    """Pads with zeros, crops each image to its old size at its own place, then mirrors some.

    Shape: `images` (N, C, H, W), uint8; `choices` (3, N) as from `draws`, on the same device; result as `images`.
    """
    height, width = images.shape[2:]
    top, left, mirrored = choices
    if padding:
        windows = pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
        images = windows[torch.arange(len(images), device=images.device), :, top, left]
    return torch.where(mirrored.bool()[:, None, None, None], images.flip(3), images)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(images / 255 - mean) / std.

    Shape: `images` (N, C, H, W), uint8; result alike, float32, channels_last; contiguous on a GPU, where the filters
    of each net decide: channels_last ones turn the images round in the first convolution, others leave them so.
    """
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), images.device)
    layout = torch.contiguous_format if images.is_cuda else torch.channels_last
    floats = images.to(torch.float32, memory_format=layout)
    return torch.addcmul(shift, floats, scale, out=floats)


@lru_cache(maxsize=16)  # made anew for each batch, they would make the host wait for the GPU each time
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    scale = torch.tensor([1 / (255 * s) for s in std], dtype=torch.float32, device=device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32, device=device)
    return scale[:, None, None], shift[:, None, None]
