"""Data sets of generated images, as parquet files and as folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from generated_images import CLASSES, encode, noise, write_parquet


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., dict[str, Path]]:
    """Writes flowers-train.parquet and flowers-test.parquet; gives the options `train` and `test`."""

    def write(train: Sequence[bytes], test: Sequence[bytes] | None = None, **options: object) -> dict[str, Path]:
        files: dict[str, Path] = {}
        for name, images in (("train", train), ("test", train[:3] if test is None else test)):
            labels = [i % 3 for i in range(len(images))]
            files[name] = write_parquet(tmp_path / f"flowers-{name}.parquet", images, labels, **options)
        return files

    return write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image folder: train with 4 images of each of three classes, test with 2 of two classes; 6x5 RGB PNG."""
    root = tmp_path / "pets"
    for split, classes, count in (("train", CLASSES, 4), ("test", CLASSES[1:], 2)):
        for k, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i, pixels in enumerate(noise(count, (5, 6, 3), seed=k)):
                (root / split / name / f"{i}.png").write_bytes(encode(pixels))
    return root
