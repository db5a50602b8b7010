"""`on_bad_image: skip`: finds the images that can't be used before anything depends on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from adderkit.data import image
from adderkit.data.raw import RawSplit

_CHUNK = 256


class Skipped(NamedTuple):
    """An image that was left out."""

    split: str
    """`train` or `test`"""
    row: int
    """its number within the split, from 0"""
    image: str
    """its file, or file and row"""
    reason: str
    """what is wrong with it"""


def sift(
    raw: RawSplit, part: str, size: image.Size, classes: Sequence[str], workers: int
) -> tuple[RawSplit, list[Skipped]]:
    """Decodes every image once and leaves out those that can't be used.

    What is left depends on the files alone, so that a run that goes on has the same rows as before.

    Args:
        raw: The split.
        part: `train` or `test`.
        size: What is done to each image.
        classes: Their names.
        workers: Threads.

    Returns:
        The rest, in the same order, and what was left out.

    Raises:
        ValueError: No image is left, or none of a class that had some; or the system could not read a file.
    """

    def chunk(start: int) -> list[Skipped]:
        found: list[Skipped] = []
        for row in range(start, min(start + _CHUNK, len(raw))):
            try:
                image.read(raw, row, size)
            except image.BadImage as error:
                found.append(Skipped(part, row, error.where, error.reason))
        return found

    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            bad = [item for found in pool.map(chunk, range(0, len(raw), _CHUNK)) for item in found]
        finally:
            pool.shutdown(cancel_futures=True)
    if not bad:
        return raw, []
    rows = np.delete(np.arange(len(raw)), [item.row for item in bad])
    counts, before = (np.bincount(labels, minlength=len(classes)) for labels in (raw.labels[rows], raw.labels))
    lost = np.flatnonzero((counts == 0) & (before > 0))
    if not len(rows) or len(lost):
        what = f"the class {classes[lost[0]]!r} has" if len(rows) else "there are"
        raise ValueError(
            f"`data.on_bad_image` (=skip): {what} no {part} images left: {len(bad)} of {len(raw)} can't be used, the"
            f" first is {bad[0].image}: {bad[0].reason}"
        )
    return raw.take(rows), bad


def describe(skipped: Sequence[Skipped]) -> str:
    """How many images were left out, and the first of them, in a line."""
    counts = {part: sum(item.split == part for item in skipped) for part in ("train", "test")}
    first = skipped[0]
    numbers = " and ".join(f"{count} {part} images" for part, count in counts.items() if count)
    return f"skipped {numbers} that can't be used; the first is {first.image}: {first.reason}"


def digest(skipped: Sequence[Skipped]) -> str:
    """Tells one choice of images from another, wherever the files lie."""
    rows = [(item.split, item.row) for item in skipped]
    return f"{len(rows)} ({hashlib.sha256(repr(rows).encode()).hexdigest()[:12]})" if rows else "none"
