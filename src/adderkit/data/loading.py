"""From options to a data set that is checked, in memory or streamed, and ready to train on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from numpy.typing import NDArray

from adderkit.data import fingerprint, registry, sift, stream
from adderkit.data.config import DataConfig
from adderkit.data.crops import CentreCrop
from adderkit.data.image import Size, mixed_sizes, read
from adderkit.data.raw import RawData, RawSplit
from adderkit.data.split import Preparation, Split
from adderkit.data.tensors import TensorSplit, decode_all, expand, hold

_SAMPLE = 2048  # images that the statistics of a streamed set come from: 300 MB at 224x224
# Mean and deviation of ImageNet's training images as torchvision's and nearly all published networks have them.
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Digests of `content` that a set has whether it is held in memory or streamed.
_CONTENT = ("train_labels", "test_labels", "test_images", "train_sample")
_CHUNK = 1024  # images counted at once: bincount makes int64 of them, eight times their size


@dataclass(frozen=True)
class ImageData:
    """A data set ready to train on.

    Attributes:
        name: What summaries call the set.
        classes: Class names; label k is class k.
        channels: 1 (grey) or 3 (RGB).
        height: Of every image, in pixels.
        width: Of every image, in pixels.
        mean: Per channel, of images in [0, 1]; what normalisation subtracts.
        std: Per channel, alike; what normalisation divides by.
        train: The training images.
        test: The test images.
        skipped: What `on_bad_image` (=skip) left out.
        content: Digests of labels and pixels by name, for `facts`.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split
    test: Split
    skipped: tuple[sift.Skipped, ...] = ()
    content: Callable[[], dict[str, str]] = dict

    def facts(self) -> dict[str, object]:
        """What tells these images from others, in plain values.

        All labels count, all test images, and of the training images those that are held in memory, or of a streamed
        set 2,048 and the sizes of all. The first call decodes the test images of a streamed set, once.

        Raises:
            ValueError: A broken one is among them; the message names it.
        """
        return {
            "name": self.name,
            "classes": list(self.classes),
            "pixels": [self.channels, self.height, self.width],
            "mean": list(self.mean),
            "std": list(self.std),
            "images": [len(self.train), len(self.test)],
            "skipped": sift.digest(self.skipped),
            **self.content(),
        }

    def digest(self) -> str:
        """12 hexadecimal digits that differ where the images or their labels do, and not with how they are prepared."""
        facts = self.facts()
        kept = {key: facts[key] for key in ("classes", "pixels", "images", *_CONTENT) if key in facts}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def load(config: DataConfig, device: torch.device | str = "cpu") -> ImageData:
    """Loads the data set that the options describe and refuses what would fail later.

    Sets whose decoded images fit in `config.memory_limit_mb` are decoded now, so that every broken image is found.
    Of larger sets every header is read now; a file broken further on is found, and named, when it is decoded: of test
    images the first call of `ImageData.facts`, which a training makes before anything else. With
    `config.on_bad_image` (=skip) every image is decoded once before that, whatever the size of the set. Mean and
    deviation, unless published with the set, are exact over the training images of the former, and over 2,048 evenly
    spaced ones of the latter. Resized crops need images of their own sizes: training images are held so, or streamed,
    and mean and deviation are over the centres of 2,048 of them.

    Args:
        config: The options.
        device: Where images are held and batches made.

    Raises:
        ValueError: Options or files that do not fit; the message names the culprit and what is allowed.
        ImportError: The source needs a package that is not installed.
    """
    device = torch.device(device)
    raw = registry.get(config.name).load(config)
    if not raw.classes:
        raise ValueError(f"{raw.name}: the class list is empty; a data set needs at least one class")
    for name in raw.classes:
        if _is_unwritable(name):
            raise ValueError(f"{raw.name}: the class name {name!r} is no text that UTF-8 can write; rename the class")
    for part, split in (("training", raw.train), ("test", raw.test)):
        if not len(split):
            raise ValueError(f"{raw.name}: no {part} images")
    train = _select(raw.train, config.train_rows, "train_rows")
    test = _select(raw.test, config.test_rows, "test_rows")
    _check_labels(raw.classes, train, test)
    size = fitting(config)
    skipped: list[sift.Skipped] = []
    if config.on_bad_image == "skip":
        train, bad_train = sift.sift(train, "train", size, raw.classes, config.workers)
        test, bad_test = sift.sift(test, "test", size, raw.classes, config.workers)
        skipped = [*bad_train, *bad_test]
    splits = (train, test)
    first, other = (read(split, 0, size).shape for split in splits)
    if first[:2] != other[:2]:
        raise mixed_sizes(train.where(0), first[1::-1], test.where(0), other[1::-1])
    height, width = first[:2]
    padding = (min(height, width) + 4) // 8 if config.crop_padding is None else config.crop_padding
    if padding > max(height, width):
        raise ValueError(
            f"`data.crop_padding` (={padding}) must be at most {max(height, width)}, the side of the images"
        )
    flip = raw.flip if config.flip is None else config.flip
    resizes = config.augmentation == "resized_crop"
    limit = config.memory_limit_mb * 2**20
    if not resizes and 3 * height * width * (len(train) + len(test)) <= limit:
        pixels = [decode_all(split, size) for split in splits]
        channels = max(p.shape[1] for p in pixels)
        pixels = [expand(p, channels) for p in pixels]
        mean, std = _given_statistics(config, raw, channels) or _statistics(pixels[0])
        how = Preparation(padding, flip, mean, std)
        made: list[Split] = [TensorSplit(p, s.labels, how, device) for p, s in zip(pixels, splits, strict=True)]
        rows = _sampled(len(train))
        digests = {
            "test_images": fingerprint.of_pixels(pixels[1]),
            "train_sample": fingerprint.of_pixels(pixels[0][rows]),
            "train_images": fingerprint.of_pixels(pixels[0]),
        }
        content = partial(dict, digests)  # the pixels may lie on the device by then
    else:
        headers = [stream.scan(split, config.workers, same_size=size is None) for split in splits]
        channels = max(found.channels for found in headers)
        is_held = resizes and 3 * (headers[0].pixels + height * width * len(test)) <= limit
        if is_held:
            train = hold(train)
        mean, std = _given_statistics(config, raw, channels) or _statistics(_sample(train, size, channels))
        how = Preparation(0 if resizes else padding, flip, mean, std, resizes)
        made = [stream.StreamSplit(s, size, width, channels, config.workers, how, device) for s in (train, test)]
        if is_held:
            made[1] = TensorSplit(expand(decode_all(test, size), channels), test.labels, how, device)

        def content() -> dict[str, str]:
            parts: dict[str, tuple[RawSplit, Size]]
            parts = {"test_images": (test, size), "train_sample": (train.take(_sampled(len(train))), size)}
            if is_held:
                parts["train_images"] = (train, None)  # each at its own size
            digests = {key: fingerprint.of_split(*part, channels, config.workers) for key, part in parts.items()}
            return digests | {"train_sizes": headers[0].sizes}

    name = config.label or raw.name
    labels = {"train_labels": fingerprint.of_labels(train.labels), "test_labels": fingerprint.of_labels(test.labels)}
    known = cache(lambda: labels | content())
    skips = tuple(skipped)
    return ImageData(name, raw.classes, channels, height, width, mean, std, *made, skipped=skips, content=known)


def fitting(config: DataConfig) -> Size:
    """What is done to all images but those that are cut at random."""
    if config.image_size is None or (config.augmentation == "crop" and config.resize is None):
        return config.image_size
    return CentreCrop(config.image_size, config.resize or round(config.image_size * 256 / 224))


def _sample(train: RawSplit, size: Size, channels: int) -> NDArray[np.uint8]:
    return expand(decode_all(train.take(_sampled(len(train))), size), channels)


def _sampled(count: int) -> NDArray[np.int64]:
    return np.linspace(0, count - 1, min(count, _SAMPLE)).round().astype(np.int64)


def _is_unwritable(name: str) -> bool:
    """A lone surrogate: of a folder's name that is no UTF-8. It would fail at the first checkpoint."""
    return any("\ud800" <= c <= "\udfff" for c in name)


def _select(split: RawSplit, rows: str | None, option: str) -> RawSplit:
    if rows is None:
        start, stop = 0, len(split)
    else:
        first, last = rows.split(":")
        start, stop = int(first or 0), int(last or len(split))
    if not 0 <= start < stop <= len(split):
        raise ValueError(
            f"`data.{option}` (={rows}) must be START:STOP with 0 <= START < STOP <= {len(split)}, the number of images"
        )
    return split if rows is None else split.take(np.arange(start, stop))


def _check_labels(classes: tuple[str, ...], *splits: RawSplit) -> None:
    for split in splits:
        wrong = np.flatnonzero((split.labels < 0) | (split.labels >= len(classes)))
        if len(wrong):
            row = int(wrong[0])
            raise ValueError(
                f"{split.where(row)}: label {split.labels[row]} must be from 0 to {len(classes) - 1} "
                f"({len(classes)} classes; {len(wrong)} of {len(split)} labels are outside)"
            )


_Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def _given_statistics(config: DataConfig, raw: RawData, channels: int) -> _Statistics | None:
    """Mean and standard deviation per channel, where they are known without looking."""
    if config.normalisation == "imagenet":
        if channels != 3:
            raise ValueError("`data.normalisation` (=imagenet) is of colour images, but these are grey: set it to own")
        return _IMAGENET
    if raw.mean is not None and raw.std is not None and len(raw.mean) == channels:
        return raw.mean, raw.std
    return None


def _statistics(pixels: NDArray[np.uint8]) -> _Statistics:
    """Mean and standard deviation per channel, exact over uint8 (N, C, H, W)."""
    values = np.arange(256)
    means: list[float] = []
    stds: list[float] = []
    for channel in range(pixels.shape[1]):
        counts = np.zeros(256, np.int64)
        for start in range(0, len(pixels), _CHUNK):
            counts += np.bincount(pixels[start : start + _CHUNK, channel].ravel(), minlength=256)
        total = int(counts.sum())
        mean = int(counts @ values) / total
        variance = int(counts @ values**2) / total - mean**2
        means.append(mean / 255)
        stds.append(max(variance, 0.0) ** 0.5 / 255 or 1.0)  # a constant channel is only centred
    return tuple(means), tuple(stds)
