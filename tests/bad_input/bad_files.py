"""Files that are good, to be spoilt: images, folders of them, parquet files."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(side: int = 8, mode: str = "RGB", seed: int = 0, width: int | None = None) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, width or side, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image | None = None, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    (image or picture()).save(stream, kind, **options)
    return stream.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A few bytes that say that they are a huge image."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def photos(root: Path, per_class: int = 3, test_side: int = 8) -> Path:
    """ROOT/{train,test}/{ant,bee}/N.png."""
    for split, side in (("train", 8), ("test", test_side)):
        for label, name in enumerate(("ant", "bee")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(per_class):
                (folder / f"{i}.png").write_bytes(encoded(picture(side, seed=10 * label + i)))
    return root


def table(images: list[Any] | None = None, labels: Any = None, names: Any = ("ant", "bee"), **columns: Any) -> pa.Table:
    """A table in the Hugging Face layout; `images` are bytes, None, or whole cells."""
    images = [encoded(picture(seed=i)) for i in range(6)] if images is None else images
    cells = [image if isinstance(image, dict) else {"bytes": image, "path": "x.png"} for image in images]
    labels = [i % 2 for i in range(len(images))] if labels is None else labels
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    content = {"image": pa.array(cells, kind), "label": labels, **columns}
    made = pa.table({name: values for name, values in content.items() if values is not ...})
    if names is None:
        return made
    metadata = names if isinstance(names, str) else json.dumps({"info": {"features": {"label": {"names": names}}}})
    return made.replace_schema_metadata({"huggingface": metadata})


def parquets(root: Path, train: pa.Table | bytes | None = None, test: pa.Table | bytes | None = None) -> list[str]:
    """Writes train.parquet and test.parquet; the options that name them."""
    for name, content in (("train", train), ("test", test)):
        if isinstance(content, bytes):
            (root / f"{name}.parquet").write_bytes(content)
        else:
            pq.write_table(table() if content is None else content, root / f"{name}.parquet")
    return ["--data.name", "parquet", "--data.train", "train.parquet", "--data.test", "test.parquet"]
