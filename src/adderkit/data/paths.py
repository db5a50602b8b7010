"""Where downloaded data sets live."""

from __future__ import annotations

import os
from pathlib import Path

from adderkit.data.config import DataConfig


def download_root(config: DataConfig) -> Path:
    """`config.root`, or else $ADDERKIT_HOME/data, where ADDERKIT_HOME is ~/.cache/adderkit unless set."""
    if config.root is not None:
        return config.root
    home = os.environ.get("ADDERKIT_HOME") or "~/.cache/adderkit"
    return Path(home).expanduser() / "data"
