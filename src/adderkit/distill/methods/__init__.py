"""The methods, one file each; those of third parties come from the entry points `adderkit.methods`."""

from collections.abc import Callable

from adderkit.distill.method import Method
from adderkit.registry import Registry

_methods: Registry[type[Method]] = Registry("method", __name__, "adderkit.methods")

method_names = _methods.names
method_type = _methods.get


def register(name: str) -> Callable[[type[Method]], type[Method]]:
    """Decorator: enters a method under `name`, which is also the key of its options in recipes.

    Raises:
        ValueError: a name that is taken, or no identifier, as such a key must be.
    """
    if not name.isidentifier():
        raise ValueError(f"the method {name!r} must have an identifier as its name: letters, digits and underscores")
    return _methods.register(name)
