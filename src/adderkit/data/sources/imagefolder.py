"""Folders of image files, one folder per class."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from adderkit.data.config import DataConfig
from adderkit.data.raw import RawData, RawSplit
from adderkit.data.registry import register

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@register("imagefolder")
def imagefolder(config: DataConfig) -> RawData:
    """The images ROOT/train/CLASS/FILE and ROOT/test/CLASS/FILE, or ROOT/val where there is no test.

    The sorted names of the folders in train are the classes; test may lack some but has no others. Files count
    by suffix (`SUFFIXES`, any case) and at any depth below a class; hidden ones and other suffixes do not. Images
    are in the order of class, then path.
    """
    root = config.root
    if root is None:
        raise ValueError("`name` (=imagefolder) needs `root`, the folder that holds train and test")
    train = root / "train"
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if not train.is_dir() or test is None:
        missing = "train" if not train.is_dir() else "test or val"
        raise ValueError(f"`root` (={root}) has no folder {missing}; expected {root}/{missing.split()[0]}/CLASS/IMAGE")
    classes = _class_folders(train)
    unknown = sorted(set(_class_folders(test)) - set(classes))
    if unknown:
        raise ValueError(
            f"{test / unknown[0]}: no such class in {train}, which has {len(classes)}: {', '.join(classes[:10])}"
        )
    return RawData(root.resolve().name, classes, _split(train, classes), _split(test, classes))


def _class_folders(folder: Path) -> tuple[str, ...]:
    classes = tuple(sorted(d.name for d in folder.iterdir() if d.is_dir() and not d.name.startswith(".")))
    if not classes:
        raise ValueError(f"{folder}: no class folders; expected {folder}/CLASS/IMAGE")
    return classes


def _split(folder: Path, classes: tuple[str, ...]) -> RawSplit:
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():  # a class that the test images lack
            continue
        found = sorted(_images(folder / name))
        if not found:
            raise ValueError(f"{folder / name}: no images; expected files *{' *'.join(SUFFIXES)}")
        files += found
        labels += [label] * len(found)
    return RawSplit(np.array(labels, np.int64), partial(_open, files), files.__getitem__)


def _images(folder: Path) -> list[str]:
    found: list[str] = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names = (name for name in files if not name.startswith("."))
        found += [os.path.join(parent, name) for name in names if name.lower().endswith(SUFFIXES)]
    return found


def _open(files: list[str], row: int) -> Image.Image:
    return Image.open(files[row])
