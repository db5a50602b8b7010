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

from adderkit.data.image import Unsupported, open_image
from adderkit.data.raw import RawSplit
from adderkit.paths import refuse_special, shown

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
            raise ValueError(
                f"class names of {shown(file)} {brief(found)} differ from those of {shown(files[0])} {brief(classes)}"
            )
        classes = found
    encoded = pa.chunked_array([chunk for column in columns for chunk in column.chunks], columns[0].type)
    ends = np.cumsum([len(part) for part in labels])

    def where(row: int) -> str:
        shard = int(np.searchsorted(ends, row, side="right"))
        return f"{shown(files[shard])}:{row - (ends[shard - 1] if shard else 0)}"

    def open_row(row: int) -> Image.Image:
        data = encoded[row].as_py()
        if data is None:
            raise Unsupported("no image bytes in this row; a path alone is not followed")
        return open_image(BytesIO(data))

    if not int(ends[-1]):
        raise ValueError(f"{shown(files[0])}: no images (0 rows)")
    return RawSplit(np.concatenate(labels), open_row, where), classes


def _open(file: Path) -> tuple[pa.Table, str, str]:
    try:
        refuse_special(file)
        with pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            image, label = _column(file, names, "image", _IMAGE_COLUMNS), _column(file, names, "label", _LABEL_COLUMNS)
            rows, size = parquet.metadata.num_rows, file.stat().st_size
            if rows > size:  # an image takes more than a byte, however well the file is compressed
                raise ValueError(f"{shown(file)}: says that it has {rows} rows, but has {size} bytes only")
            return parquet.read(columns=[image, label]), image, label
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{shown(file)}: not a readable parquet file ({_first_line(error)})") from error


def _column(file: Path, names: list[str], kind: str, wanted: tuple[str, ...]) -> str:
    column = next((name for name in wanted if name in names), None)
    if column is None:
        found = shown(", ".join(names[:20])) or "none"
        raise ValueError(f"{shown(file)}: no {kind} column: need {' or '.join(wanted)}, found {found}")
    if names.count(column) > 1:
        raise ValueError(f"{shown(file)}: {names.count(column)} columns `{column}`: need one")
    return column


def _image_bytes(column: pa.ChunkedArray, file: Path, name: str) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        column = pc.call_function("struct_field", [column], pc.StructFieldOptions(["bytes"]))
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return column.cast(pa.large_binary())  # shards may differ, and must not once they are chained
    raise ValueError(
        f"{shown(file)}: column `{name}` (={shown(str(kind)[:100])}) must be a struct {{bytes, path}} or binary"
    )


def _labels(column: pa.ChunkedArray, file: Path, name: str) -> NDArray[np.int64]:
    if not pa.types.is_integer(column.type):
        raise ValueError(
            f"{shown(file)}: column `{name}` (={shown(str(column.type)[:100])}) must hold integers, the number of the"
            " class from 0"
        )
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise ValueError(f"{shown(file)}:{row}: no label; every image needs one")
    try:
        return column.cast(pa.int64()).to_numpy()
    except pa.ArrowException as error:  # beyond 2^63
        raise ValueError(f"{shown(file)}: column `{name}`: {_first_line(error)}") from None


def _class_names(schema: pa.Schema, label: str, file: Path) -> tuple[str, ...] | None:
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = metadata.get("info", {}).get("features", {}).get(label, {}).get("names")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{shown(file)}: schema metadata `huggingface` is damaged ({_first_line(error)})") from error
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError(f"{shown(file)}: schema metadata `huggingface`: the class names must be a list of texts")
    return None if names is None else tuple(names)


def brief(classes: tuple[str, ...] | None) -> str:
    """Class names for a message: the first ten."""
    if classes is None:
        return "(none)"
    return f"({shown(', '.join(map(repr, classes[:10])))}{f', ... {len(classes)} in all' if len(classes) > 10 else ''})"


def _first_line(error: BaseException) -> str:
    return shown((str(error).strip() or type(error).__name__).splitlines()[0][:300])
