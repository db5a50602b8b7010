"""Reads parquet files of encoded images and integer labels; see `adderkit.data.sources.parquet`."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from adderkit.data.raw import RawSplit

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")


def read(files: list[Path]) -> tuple[RawSplit, tuple[str, ...] | None]:
    """Images and labels of some files in one order, and the class names if their metadata tells them.

    Raises:
        ValueError: A file, column, label or class list that does not fit; the message names it.
    """
    columns: list[Any] = []
    labels: list[NDArray[np.int64]] = []
    classes: tuple[str, ...] | None = None
    for file in files:
        table, image_column, label_column = _open(file)
        columns.append(_image_bytes(table[image_column], file, image_column))
        labels.append(_labels(table[label_column], file, label_column))
        found = _class_names(table.schema, label_column, file)
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
    kind = column.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        column = pc.call_function("struct_field", [column], pc.StructFieldOptions(["bytes"]))
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return column.cast(pa.large_binary())  # shards may differ, and must not once they are chained
    raise ValueError(f"{file}: column `{name}` (={kind}) must be a struct {{bytes, path}} or binary")


def _labels(column: pa.ChunkedArray, file: Path, name: str) -> NDArray[np.int64]:
    if not pa.types.is_integer(column.type):
        raise ValueError(f"{file}: column `{name}` (={column.type}) must hold integers, the number of the class")
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise ValueError(f"{file}:{row}: no label; every image needs one")
    return column.to_numpy().astype(np.int64)


def _class_names(schema: pa.Schema, label: str, file: Path) -> tuple[str, ...] | None:
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = metadata.get("info", {}).get("features", {}).get(label, {}).get("names")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file}: schema metadata `huggingface` is damaged ({error})") from error
    return None if names is None else tuple(str(name) for name in names)
