"""Data sources by name: the modules of `adderkit.data.sources` and the plug-ins of other packages."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adderkit.data.config import DataConfig
    from adderkit.data.raw import RawData

    Loader = Callable[[DataConfig], RawData]

ENTRY_POINT_GROUP = "adderkit.data"


@dataclass(frozen=True)
class Source:
    """A registered source: its loader and which of the options `root` and `train` (with `test`) it reads."""

    name: str
    load: Loader
    uses: tuple[str, ...]


_sources: dict[str, Source] = {}


def register(name: str, *, uses: tuple[str, ...] = ("root",)) -> Callable[[Loader], Loader]:
    """Registers a function from `DataConfig` to `RawData` as the source `name`.

    A package outside adderkit does this in a module that it names in its entry-point group `adderkit.data`;
    the module is imported when sources are first looked up.

    Args:
        name: What `data.name` calls the source.
        uses: The path options that it reads: `"root"`, `"train"` (which includes `test`), both or none.
            Others are refused when given, for they would be ignored in silence.

    Raises:
        ValueError: The name is taken.
    """

    def add(load: Loader) -> Loader:
        if name in _sources:
            taken = _sources[name].load
            raise ValueError(f"`name` (={name}): a source of this name exists ({taken.__module__})")
        _sources[name] = Source(name, load, uses)
        return load

    return add


@cache
def _discover() -> None:
    package = import_module("adderkit.data.sources")
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        _import_plugin(entry)


def _import_plugin(entry: EntryPoint) -> None:
    try:
        entry.load()
    except (ImportError, AttributeError) as error:
        distribution = entry.dist.name if entry.dist else "unknown package"
        message = f"data source plug-in `{entry.name}` (={entry.value}, of {distribution}) does not import"
        raise ImportError(f"{message}: {error}") from error


def names() -> tuple[str, ...]:
    """Names of all sources, sorted."""
    _discover()
    return tuple(sorted(_sources))


def get(name: str) -> Source:
    """The source of this name.

    Raises:
        ValueError: There is none; the message lists near matches and all names.
    """
    _discover()
    if name not in _sources:
        near = get_close_matches(name, _sources, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"`name` (={name}) must be one of {', '.join(names())}{hint}")
    return _sources[name]
