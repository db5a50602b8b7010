"""The methods, one file each; those of third parties come from the entry points `adderkit.methods`."""

from adderkit.distill.method import Method
from adderkit.registry import Registry

_methods: Registry[type[Method]] = Registry("method", __name__, "adderkit.methods")

register = _methods.register
method_names = _methods.names
method_type = _methods.get
