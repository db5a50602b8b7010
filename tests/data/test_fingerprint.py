"""`ImageData.facts`: sets that look alike and are not the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generated_images import encode, noise, write_parquet

from adderkit.data import DataConfig, ImageData, load, loading

Pair = Callable[..., dict[str, Path]]
LIMITS: dict[str, Any] = {"memory": {"memory_limit_mb": 64}, "stream": {"memory_limit_mb": 0, "workers": 0}}
COUNTS = {"train": 300, "test": 260}  # more than one chunk


@pytest.fixture(params=LIMITS)
def limit(request: pytest.FixtureRequest) -> dict[str, Any]:
    return LIMITS[request.param]


def written(folder: Path, change: Callable[[dict[str, np.ndarray], dict[str, np.ndarray]], None]) -> dict[str, Path]:
    pixels = {part: noise(count, (5, 4, 3), seed=count) for part, count in COUNTS.items()}
    labels = {part: np.arange(count) % 3 for part, count in COUNTS.items()}
    change(pixels, labels)
    return {
        part: write_parquet(
            folder / f"flowers-{part}.parquet", [encode(one) for one in pixels[part]], labels[part].tolist()
        )
        for part in COUNTS
    }


def facts(folder: Path, change: Callable[..., None], **options: Any) -> dict[str, object]:
    return load(DataConfig(name="parquet", **written(folder, change), **options)).facts()


def nothing(pixels: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> None: ...


def swap_labels(part: str) -> Callable[..., None]:
    """Two of them: the same counts of each class."""

    def change(pixels: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> None:
        labels[part][[7, 8]] = labels[part][[8, 7]]

    return change


def swap_values(part: str, row: int) -> Callable[..., None]:
    """Of two pixels: mean and deviation stay."""

    def change(pixels: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> None:
        image = pixels[part][row]
        assert (image[0, 0] != image[4, 3]).any()
        image[[0, 4], [0, 3]] = image[[4, 0], [3, 0]]

    return change


CHANGES = {
    "train_labels": swap_labels("train"),
    "test_labels": swap_labels("test"),
    "test_images": swap_values("test", 258),
    "train_sample": swap_values("train", 299),
}


@pytest.mark.parametrize("key", CHANGES)
def test_small_changes_are_told_by_name(tmp_path: Path, limit: dict[str, Any], key: str):
    before, after = (facts(tmp_path / name, what, **limit) for name, what in (("a", nothing), ("b", CHANGES[key])))
    different = {name for name in before if before[name] != after[name]}
    assert different - {"train_images"} == {key}


def test_the_same_files_elsewhere_are_the_same_set(tmp_path: Path, limit: dict[str, Any]):
    assert facts(tmp_path / "a", nothing, **limit) == facts(tmp_path / "b", nothing, **limit)


def test_in_memory_every_training_image_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loading, "_SAMPLE", 2)
    before, after = (facts(tmp_path / name, what) for name, what in (("a", nothing), ("b", swap_values("train", 5))))
    assert {name for name in before if before[name] != after[name]} == {"train_images"}


def test_resized_crops_in_memory_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Images are held at their own sizes there."""
    monkeypatch.setattr(loading, "_SAMPLE", 2)
    options = {"augmentation": "resized_crop", "image_size": 4, "workers": 0}
    before, after = (
        facts(tmp_path / name, what, **options) for name, what in (("a", nothing), ("b", swap_values("train", 5)))
    )
    assert {name for name in before if before[name] != after[name]} == {"train_images"}


def test_streamed_images_of_other_sizes_are_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: Pair):
    monkeypatch.setattr(loading, "_SAMPLE", 2)
    images = [encode(one) for one in noise(6, (8, 8, 3))]
    other = [*images[:2], encode(noise(1, (8, 9, 3))[0]), *images[3:]]
    found = [
        load(DataConfig(name="parquet", **pair(some, images), image_size=8, **LIMITS["stream"])).facts()
        for some in (images, other)
    ]
    assert {key for key in found[0] if found[0][key] != found[1][key]} == {"train_sizes"}


def test_memory_and_stream_agree_where_grey_meets_colour(pair: Pair):
    grey, colour = (noise(4, shape) for shape in ((5, 4), (5, 4, 3)))
    files = pair([encode(one) for one in (*grey, *colour)], [encode(one) for one in grey])
    memory, stream = (load(DataConfig(name="parquet", **files, **LIMITS[name])).facts() for name in LIMITS)
    both = memory.keys() & stream.keys()
    assert both >= {"test_images", "train_sample", "train_labels", "test_labels"}
    assert all(memory[key] == stream[key] for key in both)


def test_the_digest_is_of_the_images_alone(tmp_path: Path):
    """Not of where they are held, nor of what normalises them; of every label and test image."""

    def digest(name: str, change: Callable[..., None] = nothing, **options: Any) -> str:
        (tmp_path / name).mkdir()
        return load(DataConfig(name="parquet", **written(tmp_path / name, change), **options)).digest()

    same = {digest("held"), digest("streamed", **LIMITS["stream"]), digest("imagenet", normalisation="imagenet")}
    assert len(same) == 1
    others = {digest("label", swap_labels("train")), digest("pixel", swap_values("test", 3))}
    assert len(others) == 2 and not same & others


def test_streamed_test_images_are_decoded_once_and_before_a_training(pair: Pair, monkeypatch: pytest.MonkeyPatch):
    """A broken one would end the first evaluation otherwise, after a whole epoch."""
    images = [encode(one) for one in noise(6, (40, 40, 3))]
    data: ImageData = load(
        DataConfig(name="parquet", **pair(images, [*images[:2], images[2][:1000]]), **LIMITS["stream"])
    )
    with pytest.raises(ValueError, match=r"flowers-test.parquet:2: broken image"):
        data.facts()
    whole = load(DataConfig(name="parquet", **pair(images), **LIMITS["stream"]))
    first = whole.facts()
    monkeypatch.setattr("adderkit.data.image.read", lambda *_: pytest.fail("decoded again"))
    assert whole.facts() == first
