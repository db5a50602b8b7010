"""Where adderkit keeps what outlives a run: downloads and cached teachers."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """`$ADDERKIT_HOME`, default `~/.cache/adderkit`."""
    return Path(os.environ.get("ADDERKIT_HOME") or "~/.cache/adderkit").expanduser()
