"""Data sources by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from adderkit.registry import Registry

if TYPE_CHECKING:
    from adderkit.data.config import DataConfig
    from adderkit.data.raw import RawData

    Loader = Callable[[DataConfig], RawData]


class Source(NamedTuple):
    """A registered source: its loader, and which of the options `root` and `train` (with `test`) that reads."""

    load: Loader
    uses: tuple[str, ...]


_registry: Registry[Source] = Registry("data source", "adderkit.data.sources", "adderkit.data")


def register(name: str, *, uses: tuple[str, ...] = ("root",)) -> Callable[[Loader], Loader]:
    """Decorator: enters a function from `DataConfig` to `RawData` as the source `name`.

    Another package does this in a module that it names in its entry-point group `adderkit.data`.

    Args:
        name: What `data.name` calls the source.
        uses: The path options that it reads: `"root"`, `"train"` (which includes `test`), both or none. Others are
            refused when given, for they would be ignored in silence.

    Raises:
        ValueError: The name is taken.
    """

    def enter(load: Loader) -> Loader:
        _registry.register(name)(Source(load, uses))
        return load

    return enter


names = _registry.names
get = _registry.get
