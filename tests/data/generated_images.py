"""Generated images, and parquet files of them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("ant", "bee", "cat")


def noise(count: int, shape: tuple[int, ...] = (9, 7, 3), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def encode(pixels: np.ndarray | Image.Image, kind: str = "PNG") -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def write_parquet(
    file: Path,
    images: Sequence[bytes | None],
    labels: Sequence[int | None],
    classes: Sequence[str] | None = CLASSES,
    image_column: str = "image",
    label_column: str = "label",
) -> Path:
    struct = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(images)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({image_column: pa.array(struct, kind), label_column: pa.array(labels, pa.int64())})
    if classes is not None:
        feature = {"names": list(classes), "_type": "ClassLabel"}
        info = {"info": {"features": {image_column: {"_type": "Image"}, label_column: feature}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=4)
    return file
