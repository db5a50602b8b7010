"""Folders of image files, one folder per class."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from adderkit.data.config import DataConfig
from adderkit.data.image import open_image
from adderkit.data.raw import RawData, RawSplit
from adderkit.data.registry import register
from adderkit.paths import shown

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_DEEPEST = 100


@register("imagefolder")
def imagefolder(config: DataConfig) -> RawData:
    """The images ROOT/train/CLASS/FILE and ROOT/test/CLASS/FILE, or ROOT/val where there is no test.

    The sorted names of the folders in train are the classes; test may lack some but has no others. Files count
    by suffix (`SUFFIXES`, any case) and at any depth below a class; hidden ones and other suffixes do not. Links are
    followed, but for one that leads to a folder above it. Images are in the order of class, then path.
    """
    root = config.root
    if root is None:
        raise ValueError("`data.name` (=imagefolder) needs `data.root`, the folder that holds train and test")
    train = root / "train"
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if not train.is_dir() or test is None:
        missing = "train" if not train.is_dir() else "test or val"
        expected = f"{shown(root)}/{missing.split()[0]}/CLASS/IMAGE"
        raise ValueError(f"`data.root` (={shown(root)}) has no folder {missing}; expected {expected}")
    classes = _class_folders(train)
    unknown = sorted(set(_class_folders(test)) - set(classes))
    if unknown:
        raise ValueError(
            f"{shown(test / unknown[0])}: no such class in {shown(train)}, which has {len(classes)}: "
            f"{shown(', '.join(classes[:10]))}{', ...' if len(classes) > 10 else ''}"
        )
    return RawData(root.resolve().name, classes, _split(train, classes), _split(test, classes))


def _class_folders(folder: Path) -> tuple[str, ...]:
    found: list[str] = []
    for entry in _listed(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_symlink() and not os.path.exists(entry.path):
            raise ValueError(f"{shown(entry.path)}: a link that leads nowhere; remove it")
        if _is_folder(entry):
            found.append(entry.name)
    if not found:
        raise ValueError(f"{shown(folder)}: no class folders; expected {shown(folder)}/CLASS/IMAGE")
    return tuple(sorted(found))


def _listed(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise ValueError(
            f"{shown(str(folder))}: the folder can't be read ({error.strerror}); check it and its permissions"
        ) from None


def _split(folder: Path, classes: tuple[str, ...]) -> RawSplit:
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():  # a class that the test images lack
            continue
        found = sorted(_images(str(folder / name)))
        if not found:
            raise ValueError(
                f"{shown(folder / name)}: no images; expected files *{' *'.join(SUFFIXES)}, or no such folder"
            )
        files += found
        labels += [label] * len(found)
    return RawSplit(np.array(labels, np.int64), partial(_open, files), lambda row: shown(files[row]))


def _images(folder: str, above: frozenset[tuple[int, int]] = frozenset()) -> list[str]:
    """The images below a folder; `above` are the folders that this one lies in, by device and inode."""
    status = os.stat(folder)
    identity = status.st_dev, status.st_ino
    if identity in above:
        raise ValueError(f"{shown(folder)}: a link to a folder above it, so that paths never end; remove it")
    if len(above) > _DEEPEST:
        raise ValueError(f"{shown(folder)}: more than {_DEEPEST} folders below each other")
    found: list[str] = []
    for entry in _listed(folder):
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            found += _images(entry.path, above | {identity})
        elif entry.name.lower().endswith(SUFFIXES):
            if not _is_file(entry):  # reading a pipe would wait for ever
                raise ValueError(f"{shown(entry.path)}: no regular file; remove it")
            found.append(entry.path)
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()  # a loop of links raises in `is_dir`


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A file, or a link that leads to one or nowhere: what leads nowhere is named when it is opened."""
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()


def _open(files: list[str], row: int) -> Image.Image:
    return open_image(files[row])
