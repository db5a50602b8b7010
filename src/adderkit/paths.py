"""Where adderkit keeps what outlives a run, and how paths are shown."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """`$ADDERKIT_HOME`, default `~/.cache/adderkit`."""
    return Path(os.environ.get("ADDERKIT_HOME") or "~/.cache/adderkit").expanduser()


def shown(path: Path | str) -> str:
    """A path as messages show it: line breaks, escape sequences and bytes that are no UTF-8 are spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(path))


def refuse_special(path: Path) -> None:
    """Refuses pipes and devices: opening one may wait for ever, and reading one may never end.

    Raises:
        OSError: it is one; what is missing, or a folder, is left to whoever opens it.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError("it is no regular file")


def recipes() -> Path:
    """The folder of the recipes that are shipped: in the package, or beside the source tree that runs."""
    package = Path(__file__).parent
    return next((path for path in (package / "recipes", package.parents[1] / "recipes") if path.is_dir()), package)
