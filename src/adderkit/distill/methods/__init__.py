"""The methods, one file each. Third parties register theirs in modules named by the entry-point group of this package."""

from adderkit.distill.method import Method
from adderkit.registry import Registry

_methods: Registry[type[Method]] = Registry("method", __name__, "adderkit.methods")

register = _methods.register
method_names = _methods.names
method_type = _methods.get
