"""CIFAR-10, CIFAR-100 and Fashion-MNIST through torchvision, which downloads them and checks their MD5 sums."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from adderkit.data.config import DataConfig
from adderkit.data.raw import RawData, from_arrays
from adderkit.data.registry import register
from adderkit.paths import home

# What torchvision raises for files that are absent or damaged, and for downloads that fail (URLError is an OSError).
_FAILURES = (RuntimeError, OSError, ValueError, AssertionError, EOFError, IndexError, pickle.UnpicklingError)


@register("cifar10")
def cifar10(config: DataConfig) -> RawData:
    """50,000 training and 10,000 test images, 32x32 RGB, ten classes.

    Source: A. Krizhevsky, 2009; mean and deviation as the adder papers' code has them (the deviation is the
    mean of those within each image, smaller than that over all pixels).
    """
    return _load("cifar10", config, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


@register("cifar100")
def cifar100(config: DataConfig) -> RawData:
    """50,000 training and 10,000 test images, 32x32 RGB, a hundred classes.

    Source: A. Krizhevsky, 2009; mean and deviation over all training pixels.
    """
    return _load("cifar100", config, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


@register("fashion-mnist")
def fashion_mnist(config: DataConfig) -> RawData:
    """60,000 training and 10,000 test images, 28x28 grey, ten classes; statistics from the training images.

    Source: H. Xiao, K. Rasul, R. Vollgraf, arXiv:1708.07747.
    """
    return _load("fashion-mnist", config, None, None)


def _load(name: str, config: DataConfig, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> RawData:
    datasets = _torchvision_datasets(name)
    kind = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "fashion-mnist": "FashionMNIST"}[name]
    dataset = getattr(datasets, kind)
    root = config.root or home() / "data"
    try:
        train, test = _both(dataset, root, download=False)
    except _FAILURES:  # absent, not yet unpacked or damaged: torchvision sees to what it can
        try:
            root.mkdir(parents=True, exist_ok=True)
            train, test = _both(dataset, root, download=True)
        except _FAILURES as error:
            raise ValueError(_help(name, dataset, root, error)) from error
    return RawData(
        name=name,
        classes=tuple(train.classes),
        train=from_arrays(np.asarray(train.data), np.asarray(train.targets, np.int64), f"{name} training"),
        test=from_arrays(np.asarray(test.data), np.asarray(test.targets, np.int64), f"{name} test"),
        mean=mean,
        std=std,
    )


def _torchvision_datasets(name: str) -> ModuleType:
    try:
        import torchvision.datasets  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise ImportError(
            f'`data.name` (={name}) needs torchvision: pip install "adderkit[vision]" ({error})'
        ) from error
    return torchvision.datasets


def _both(dataset: Any, root: Path, *, download: bool) -> tuple[Any, Any]:
    return dataset(root, train=True, download=download), dataset(root, train=False, download=download)


def _help(name: str, dataset: Any, root: Path, error: Exception) -> str:
    """What was looked for, what is wrong with it, and how to place it by hand."""
    lines = [f"`data.root` (={root}): {name} is not there and cannot be downloaded ({_first_line(error)})."]
    wanted = _wanted(dataset, root)
    for path, md5, url in wanted:
        if not path.is_file():
            if url:  # else it comes out of a download
                lines.append(f"  {path}: not found")
        elif md5 is None:
            lines.append(f"  {path}: there, but cannot be checked; delete it if it is damaged")
        elif (found := hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()) != md5:
            lines.append(f"  {path}: damaged (MD5 {found}, must be {md5})")
    lines.append("To place it by hand, download")
    lines += [f"  {url} (MD5 {md5}) to {path}" for path, md5, url in wanted if url]
    return "\n".join([*lines, "and run again: the files are checked and unpacked."])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _wanted(dataset: Any, root: Path) -> list[tuple[Path, str | None, str | None]]:
    """Files that the set is read from: path, MD5 where known, and address of those that are downloaded."""
    if hasattr(dataset, "tgz_md5"):  # CIFAR: one archive
        unpacked = [*dataset.train_list, *dataset.test_list]
        return [
            (root / dataset.filename, dataset.tgz_md5, dataset.url),
            *((root / dataset.base_folder / file, md5, None) for file, md5 in unpacked),
        ]
    raw = root / dataset.__name__ / "raw"
    files: list[tuple[Path, str | None, str | None]] = []
    for file, md5 in dataset.resources:
        files.append((raw / file, md5, dataset.mirrors[0] + file))
        files.append(((raw / file).with_suffix(""), None, None))
    return files
