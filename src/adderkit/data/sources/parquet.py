"""Parquet files in the Hugging Face image layout.

Column `image` (or `img`) is a struct `{bytes, path}` with the encoded file, or plain binary; column `label` (or
`labels`, or `fine_label` as in CIFAR-100) is an integer. Class names come from the ClassLabel feature in the schema
metadata; without it they are named 0, 1, ... up to the largest training label, and none of these may be missing. The
encoded files are held in memory; `path` is never opened.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from adderkit.data.config import DataConfig
from adderkit.data.raw import RawData, RawSplit
from adderkit.data.registry import register
from adderkit.paths import shown

_TRAIN_NAMES = ("train",)
_TEST_NAMES = ("test", "validation", "val")


@register("parquet", uses=("root", "train"))
def parquet(config: DataConfig) -> RawData:
    """The files `train` and `test`, or those in `root` or `root/data` whose names say train and test.

    `train` and `test` are files or folders of shards. In `root` files are recognised by the word train, or else
    test, validation or val, as in `train-00000-of-00002.parquet` or `flowers-train.parquet`.
    """
    if config.train is not None and config.test is not None:
        if config.root is not None:
            raise ValueError(
                f"`data.root` (={shown(config.root)}) cannot go with `data.train` and `data.test`: give one or the"
                " other"
            )
        train, test = _shards(config.train, "train"), _shards(config.test, "test")
        name = _set_name(config.train)
    elif config.root is not None:
        train, test = _find(config.root, _TRAIN_NAMES), _find(config.root, _TEST_NAMES)
        name = config.root.resolve().name
    else:
        raise ValueError("`data.name` (=parquet) needs `data.train` and `data.test`, or `data.root`")
    from adderkit.data import shards  # pyarrow takes 0.1 s to import

    train_split, train_classes = shards.read(train)
    test_split, test_classes = shards.read(test)
    if train_classes != test_classes and train_classes is not None and test_classes is not None:
        raise ValueError(
            f"class names of {shown(test[0])} {shards.brief(test_classes)} differ from those of {shown(train[0])}"
            f" {shards.brief(train_classes)}"
        )
    classes = train_classes if train_classes is not None else test_classes
    return RawData(name, _numbered(train_split, train[0]) if classes is None else classes, train_split, test_split)


def _numbered(split: RawSplit, file: Path) -> tuple[str, ...]:
    """Classes without names: every number from 0 to the largest must occur, or the numbers do not mean that."""
    found = np.unique(split.labels)
    gaps = np.flatnonzero(found != np.arange(len(found)))
    if len(gaps):
        raise ValueError(
            f"{shown(file)}: label {found[gaps[0]]}, but no label {gaps[0]}: labels of classes without names must be"
            " 0, 1, ... without gaps; number them anew, or give a list of class names in the schema metadata"
            " `huggingface`"
        )
    return tuple(map(str, found))


def _set_name(train: Path) -> str:
    """`flowers` for flowers-train.parquet, flowers/train, flowers/train-00000.parquet and flowers."""
    train = train.resolve()
    if train.is_file():
        prefix = _prefix(train, _TRAIN_NAMES)
        return train.stem if prefix is None else prefix or train.parent.name
    return train.parent.name if train.name in _TRAIN_NAMES else train.name


def _prefix(file: Path, words: tuple[str, ...]) -> str | None:
    """What stands before the split's name in a file name: `a-b-train-0.parquet` gives `a-b`; None: not there."""
    match = re.fullmatch(rf"(?:(.*?)[-_.])?(?:{'|'.join(words)})(?:[-_.].*)?", file.stem)
    return None if match is None else match[1] or ""


def _shards(path: Path, option: str) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(path.glob("*.parquet"))
    if not files:
        problem = "is no regular file" if path.exists() else "does not exist"
        problem = "holds no *.parquet file" if path.is_dir() else problem
        raise ValueError(f"`data.{option}` (={shown(path)}) {problem}; it must be a parquet file or a folder of them")
    return files


def _find(root: Path, words: tuple[str, ...]) -> list[Path]:
    """All shards of one split in a root folder, by the first of the words that is found."""
    candidates = sorted([*root.glob("*.parquet"), *root.glob("data/*.parquet")])
    for word in words:
        if folder := next((f for f in (root / word, root / "data" / word) if f.is_dir()), None):
            return _shards(folder, "root")
        prefixes = {file: _prefix(file, (word,)) for file in candidates}
        files = [file for file in candidates if prefixes[file] is not None]
        if len({prefixes[file] for file in files}) > 1:
            names = shown(", ".join(file.name for file in files[:4]))
            raise ValueError(
                f"`data.root` (={shown(root)}) holds several sets ({names}); choose one with `data.train` and"
                " `data.test`"
            )
        if files:
            return files
    raise ValueError(
        f"`data.root` (={shown(root)}) holds no parquet file named {' or '.join(words)}, as {words[0]}-00000.parquet; "
        "give `data.train` and `data.test` instead"
    )
