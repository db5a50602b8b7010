"""Parquet files in the Hugging Face image layout.

Column `image` (or `img`) is a struct `{bytes, path}` with the encoded file, or plain binary; column `label` (or
`labels`, or `fine_label` as in CIFAR-100) is an integer. Class names come from the ClassLabel feature in the schema
metadata; without it classes are named 0, 1, ... up to the largest training label. The encoded files are held in
memory.
"""

from __future__ import annotations

import json
import re
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from adderkit.data.config import DataConfig
from adderkit.data.raw import RawData, RawSplit
from adderkit.data.registry import register

if TYPE_CHECKING:
    import pyarrow as pa

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
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
            raise ValueError(f"`root` (={config.root}) cannot go with `train` and `test`: give one or the other")
        train, test = _shards(config.train, "train"), _shards(config.test, "test")
    elif config.root is not None:
        train, test = _find(config.root, _TRAIN_NAMES), _find(config.root, _TEST_NAMES)
    else:
        raise ValueError("`name` (=parquet) needs `train` and `test`, or `root`")
    train_split, train_classes = _read(train)
    test_split, test_classes = _read(test)
    if train_classes != test_classes and train_classes is not None and test_classes is not None:
        raise ValueError(f"class names of {test[0]} {test_classes} differ from those of {train[0]} {train_classes}")
    classes = train_classes if train_classes is not None else test_classes
    if classes is None:
        classes = tuple(str(k) for k in range(int(train_split.labels.max(initial=-1)) + 1))
    return RawData(_set_name(config, train[0]), classes, train_split, test_split)


def _set_name(config: DataConfig, train: Path) -> str:
    if config.root is not None:
        return config.root.resolve().name
    assert config.train is not None
    if config.train.is_dir():
        folder = config.train.resolve()
        return folder.parent.name if folder.name == "train" else folder.name
    return _prefix(train, _TRAIN_NAMES) or train.stem


def _prefix(file: Path, words: tuple[str, ...]) -> str | None:
    """What stands before the split's name in a file name: `a-b-train-0.parquet` gives `a-b`; None: not there."""
    match = re.fullmatch(rf"(?:(.*?)[-_.])?(?:{'|'.join(words)})(?:[-_.].*)?", file.stem)
    return None if match is None else match[1] or ""


def _shards(path: Path, option: str) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(path.glob("*.parquet"))
    if not files:
        problem = "holds no *.parquet file" if path.is_dir() else "does not exist"
        raise ValueError(f"`{option}` (={path}) {problem}; it must be a parquet file or a folder of them")
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
            raise ValueError(
                f"`root` (={root}) holds several sets ({', '.join(file.name for file in files[:4])}); "
                "choose one with `train` and `test`"
            )
        if files:
            return files
    raise ValueError(
        f"`root` (={root}) holds no parquet file named {' or '.join(words)}, as {words[0]}-00000.parquet; "
        "give `train` and `test` instead"
    )


def _read(files: list[Path]) -> tuple[RawSplit, tuple[str, ...] | None]:
    """Images and labels of some shards, and the class names if a schema tells them."""
    import pyarrow as pa

    columns: list[Any] = []
    labels: list[np.ndarray] = []
    classes: tuple[str, ...] | None = None
    for file in files:
        table, image_column, label_column = _open(file)
        columns.append(_image_bytes(table[image_column], file, image_column))
        labels.append(_labels(table[label_column], file, label_column))
        found = _class_names(table.schema, label_column)
        if classes is not None and found != classes:
            raise ValueError(f"class names of {file} {found} differ from those of {files[0]} {classes}")
        classes = found
    encoded = pa.chunked_array([chunk for column in columns for chunk in column.chunks], columns[0].type)
    ends = np.cumsum([len(part) for part in labels])

    def where(row: int) -> str:
        shard = int(np.searchsorted(ends, row, side="right"))
        return f"{files[shard]}:{row - (ends[shard - 1] if shard else 0)}"

    def open_image(row: int) -> Image.Image:
        data = encoded[row].as_py()
        if data is None:
            raise ValueError("no image bytes in this row; files that only name a path are not supported")
        return Image.open(BytesIO(data))

    if not int(ends[-1]):
        raise ValueError(f"{files[0]}: no images (0 rows)")
    return RawSplit(np.concatenate(labels), open_image, where), classes


def _open(file: Path) -> tuple[pa.Table, str, str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
        image, label = (
            next((name for name in wanted if name in schema.names), None) for wanted in (_IMAGE_COLUMNS, _LABEL_COLUMNS)
        )
        if image is None or label is None:
            wanted = _LABEL_COLUMNS if image else _IMAGE_COLUMNS
            kind = "label" if image else "image"
            raise ValueError(
                f"{file}: no {kind} column: need {' or '.join(wanted)}, found {', '.join(schema.names) or 'none'}"
            )
        return pq.read_table(file, columns=[image, label]), image, label
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not a readable parquet file ({error})") from error


def _image_bytes(column: pa.ChunkedArray, file: Path, name: str) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        column = pc.struct_field(column, "bytes")
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return column.cast(pa.large_binary())  # shards may differ, and must not once they are chained
    raise ValueError(f"{file}: column `{name}` (={kind}) must be a struct {{bytes, path}} or binary")


def _labels(column: pa.ChunkedArray, file: Path, name: str) -> np.ndarray:
    import pyarrow as pa

    if not pa.types.is_integer(column.type):
        raise ValueError(f"{file}: column `{name}` (={column.type}) must hold integers, the number of the class")
    if column.null_count:
        row = column.is_null().to_numpy().argmax()
        raise ValueError(f"{file}:{row}: no label; every image needs one")
    return column.to_numpy().astype(np.int64)


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = metadata.get("info", {}).get("features", {}).get(label, {})
    return tuple(feature["names"]) if "names" in feature else None
