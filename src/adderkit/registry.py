"""Named things of one kind (models, data sources, methods), found in one folder and in entry points."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of names, filled by a decorator.

    The modules of `package` are imported at the first look-up, so adding a thing is adding a file; the entry
    points of `group` are loaded with them, so a third party's package adds its own without touching this one.

    Args:
        kind: what is registered, for error messages ("model").
        package: the package whose modules register the built-in things.
        group: the entry-point group of third parties' modules.
    """

    def __init__(self, kind: str, package: str, group: str) -> None:
        self.kind = kind
        self.package = package
        self.group = group
        self._table: dict[str, T] = {}
        self._is_filled = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: enters a thing under `name`. A name that is taken raises ValueError."""

        def enter(thing: T) -> T:
            if name in self._table:
                raise ValueError(f"the {self.kind} {name!r} is taken by {self._table[name]!r}, so not for {thing!r}")
            self._table[name] = thing
            return thing

        return enter

    def names(self) -> tuple[str, ...]:
        """All registered names, sorted."""
        self._fill()
        return tuple(sorted(self._table))

    def get(self, name: str) -> T:
        """The thing registered under `name`; ValueError with near matches where there is none."""
        self._fill()
        if name in self._table:
            return self._table[name]
        near = get_close_matches(name, self._table)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"there is no {self.kind} {name!r}.{hint} Known: {', '.join(self.names())}")

    def _fill(self) -> None:
        if self._is_filled:
            return
        package = import_module(self.package)
        for module in iter_modules(package.__path__):
            if not module.name.startswith("_"):
                import_module(f"{self.package}.{module.name}")
        for entry in entry_points(group=self.group):
            try:
                entry.load()
            except Exception as error:  # whatever a third party's module raises, its name must be said
                raise ImportError(f"entry point `{entry.name}` of `{self.group}` can't be loaded: {error}") from error
        self._is_filled = True
