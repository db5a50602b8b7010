"""The options of a data set, as they stand in a recipe and on the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from adderkit.data import registry
from adderkit.options import Options


class DataConfig(Options):
    """Which images to train and test on, and how they are prepared."""

    name: str = "digits"
    """Source: digits, cifar10, cifar100, fashion-mnist, imagefolder, parquet, or one that a plug-in adds."""
    root: Path | None = None
    """Folder of the data set, or where downloads go (default: $ADDERKIT_HOME/data)."""
    train: Path | None = None
    """Parquet file of the training images, or a folder of such files."""
    test: Path | None = Field(default=None, validate_default=True)
    """Parquet file of the test images, or a folder of such files."""
    label: str | None = Field(default=None, min_length=1)
    """Name of the set in every summary (default: the source's name, or that of the file or folder)."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """Images that can't be used: end the run, or leave them out, which decodes every image once more at the start."""
    image_size: int | None = Field(default=None, ge=1, le=8192)
    """Resize the shorter side to this many pixels, then crop the centre square; default: images as they are."""
    resize: int | None = Field(default=None, ge=1, le=8192)
    """Shorter side before the centre square of `image_size` is cut; default: the same, 8/7 of it for resized crops."""
    augmentation: Literal["crop", "resized_crop"] = "crop"
    """Training images: shifted by up to `crop_padding` | a random window of 8 to 100 % of the area, as for ImageNet."""
    normalisation: Literal["own", "imagenet"] = "own"
    """By the set's own mean and deviation | by those that published ImageNet networks expect."""
    train_rows: str | None = None
    """Slice START:STOP of the training images, counted from 0."""
    test_rows: str | None = None
    """Slice START:STOP of the test images, counted from 0."""
    crop_padding: int | None = Field(default=None, ge=0)
    """Random shift after padding with this many zeros; default: an eighth of the shorter side, 0 for none."""
    flip: bool | None = None
    """Random horizontal flip of training images; default: all sources but digits."""
    workers: int = Field(default=2, ge=0, le=256)
    """Processes that decode images of sets beyond the memory limit, and cut resized crops; 0: the training's own."""
    memory_limit_mb: int = Field(default=2048, ge=0)
    """Sets whose decoded images fit in so many MiB are held as one tensor on the device."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        registry.get(name)
        return name

    @field_validator("root", "train", "test")
    @classmethod
    def _is_used(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        name = info.data.get("name")
        if path is None or name is None:  # an unknown name has its own message
            return path
        used = registry.get(name).uses
        if ("root" if info.field_name == "root" else "train") not in used:
            allowed = " and ".join(f"`{option}`" for option in used) or "no files"
            raise ValueError(
                f"not used by `name` (={name}), which takes {allowed}; set `name` to parquet or imagefolder"
            )
        return path.expanduser().absolute()

    @field_validator("test")
    @classmethod
    def _is_pair(cls, test: Path | None, info: ValidationInfo) -> Path | None:
        if "train" in info.data and (test is None) != (info.data["train"] is None):
            raise ValueError(f"goes with `train` (={info.data['train']}): give both or neither")
        return test

    @field_validator("resize")
    @classmethod
    def _covers(cls, resize: int | None, info: ValidationInfo) -> int | None:
        if resize is not None and "image_size" in info.data:
            size = info.data["image_size"]
            if size is None:
                raise ValueError("needs `image_size`, the side of the square that is cut")
            if resize < size:
                raise ValueError(f"must be >= `image_size` (={size}), the side of the square that is cut")
        return resize

    @field_validator("augmentation")
    @classmethod
    def _has_a_size(cls, augmentation: str, info: ValidationInfo) -> str:
        if augmentation == "resized_crop" and info.data.get("image_size", 0) is None:
            raise ValueError("needs `image_size`, the side of the images that it makes")
        return augmentation

    @field_validator("crop_padding")
    @classmethod
    def _pads(cls, padding: int | None, info: ValidationInfo) -> int | None:
        if padding is not None and info.data.get("augmentation") == "resized_crop":
            raise ValueError("not used by `augmentation` (=resized_crop)")
        return padding

    @field_validator("train_rows", "test_rows")
    @classmethod
    def _is_slice(cls, rows: str | None) -> str | None:
        if rows is not None and not re.fullmatch(r"[0-9]{0,18}:[0-9]{0,18}", rows):
            raise ValueError("must be START:STOP, counted from 0, as 0:1000, 1000: or :1000")
        return rows
