"""Image data sets: one source per file, one loader that checks them before training starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adderkit.data.config import DataConfig as DataConfig
    from adderkit.data.loading import ImageData as ImageData
    from adderkit.data.loading import load as load
    from adderkit.data.raw import RawData as RawData
    from adderkit.data.raw import RawSplit as RawSplit
    from adderkit.data.registry import names as names
    from adderkit.data.registry import register as register
    from adderkit.data.split import Share as Share
    from adderkit.data.split import Split as Split

_MODULES = {
    "DataConfig": "config",
    "ImageData": "loading",
    "RawData": "raw",
    "RawSplit": "raw",
    "Share": "split",
    "Split": "split",
    "load": "loading",
    "names": "registry",
    "register": "registry",
}
__all__ = [
    "DataConfig",
    "ImageData",
    "RawData",
    "RawSplit",
    "Share",
    "Split",
    "load",
    "names",
    "register",
]


def __getattr__(name: str) -> Any:
    """Imports on first use: `data.image` decodes pictures for `adderkit predict` too, which needs no torch."""
    from importlib import import_module

    if name in _MODULES:
        return getattr(import_module(f"adderkit.data.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'adderkit.data' has no attribute {name!r}")
