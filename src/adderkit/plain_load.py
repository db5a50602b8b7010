"""The one place where files of `torch.save` are read: nothing in them runs, and they can't swell."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from adderkit.paths import refuse_special


class Compressed(ValueError):
    """An archive that torch did not write."""


def load_plain(source: Path | BinaryIO) -> Any:
    """Tensors, plain containers, numbers and text from a file of `torch.save`, on the CPU.

    `weights_only` refuses every other class by name. The archive must not be compressed: torch never compresses, and
    64 MB of zeros fit in 70 kB.

    Raises:
        Compressed: a compressed archive.
        OSError: a pipe, or what can't be opened.
        Exception: whatever a damaged file makes torch's unpickler raise; callers catch all and name the file.
    """
    if isinstance(source, Path):
        refuse_special(source)
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise Compressed("it is compressed, which torch.save never does")
    if not isinstance(source, Path):
        source.seek(0)
    return torch.load(source, map_location="cpu", weights_only=True)
