"""Digests of images and labels: what tells one data set from another that looks alike."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from adderkit.data import image
from adderkit.data.raw import RawSplit

_CHUNK = 256  # images hashed at once; the digest of all is that of the chunks' digests, so that threads can share them


def of_labels(labels: NDArray[np.int64]) -> str:
    """Of the labels of a split, in their order."""
    return _shown(hashlib.sha256(labels.astype("<i8").tobytes()).digest())


def of_pixels(pixels: NDArray[np.uint8]) -> str:
    """Of decoded images, (N, C, H, W), in their order."""
    rows = pixels.transpose(0, 2, 3, 1)
    return _joined(
        [_hashed(np.ascontiguousarray(rows[start : start + _CHUNK])) for start in range(0, len(rows), _CHUNK)]
    )


def of_split(raw: RawSplit, size: image.Size, channels: int, workers: int) -> str:
    """Of a split that is not held, which it decodes: equal to `of_pixels` of the decoded images.

    Args:
        raw: The split.
        size: What is done to each image.
        channels: 1 or 3, that of the set.
        workers: Threads.

    Raises:
        ValueError: An image that can't be used; the message names it.
    """

    def chunk(start: int) -> bytes:
        digest = hashlib.sha256()
        for row in range(start, min(start + _CHUNK, len(raw))):
            pixels = image.with_channels(image.read(raw, row, size), channels)
            digest.update(np.ascontiguousarray(pixels).data)
        return digest.digest()

    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            return _joined(list(pool.map(chunk, range(0, len(raw), _CHUNK))))
        finally:
            pool.shutdown(cancel_futures=True)


def of_sizes(sizes: NDArray[np.int64]) -> str:
    """Of the width and height of every image, (N, 2)."""
    return _shown(hashlib.sha256(sizes.astype("<i8").tobytes()).digest())


def _hashed(pixels: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(pixels.data).digest()


def _joined(digests: list[bytes]) -> str:
    return _shown(hashlib.sha256(b"".join(digests)).digest())


def _shown(digest: bytes) -> str:
    return f"sha256 {digest.hex()[:32]}"
