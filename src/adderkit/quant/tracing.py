"""torch.fx with concrete values: decisions on shapes are taken as they fall for images of one size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.fx.proxy import TraceError

from adderkit.nn.base import AdderLayer

_FACTS = ("shape", "ndim", "dtype", "device", "size", "dim", "numel", "is_floating_point")
VALUE = "value"  # key in a node's `meta`: what it computed on the example


class Refused(ValueError):
    """Something in a network has no integer counterpart; the text names it."""


def trace(network: nn.Module, example: Tensor) -> fx.Graph:
    """The graph of a network; each node has what it gives on `example` in `meta["value"]`.

    Modules of torch and adder layers are nodes, whatever holds them is looked into.

    Raises:
        Refused: the network can't be traced.
    """
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            return _Tracer(network, example).trace(network)
    except TraceError as error:
        raise Refused(f"its forward can't be traced: {error}") from None
    finally:
        network.train(was_training)


class _Tracer(fx.Tracer):
    def __init__(self, network: nn.Module, example: Tensor) -> None:
        super().__init__()
        self._network, self._example = network, example
        self._computes = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, AdderLayer) or super().is_leaf_module(m, module_qualified_name)

    def create_proxy(self, *args: Any, **kwargs: Any) -> fx.Proxy:
        proxy = super().create_proxy(*args, **kwargs)
        self._computes = True
        proxy.node.meta[VALUE] = self._value(proxy.node)
        self._computes = False
        return proxy

    # torch.fx sees every call of a module and every access to an attribute, those of `_value` too.
    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self._computes else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._computes else super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self._fact(obj))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        return iter([cast(Any, obj)[index] for index in range(len(self._fact(obj)))])

    def _fact(self, proxy: fx.Proxy) -> Any:
        """A value that the forward branches on: it must be the same for all images."""
        if not _is_fact(proxy.node):
            raise TraceError("it decides by the values of a tensor")
        return proxy.node.meta[VALUE]

    def _value(self, node: fx.Node) -> Any:
        def known(argument: Any) -> Any:
            return map_arg(argument, lambda other: other.meta[VALUE])

        args, kwargs = known(node.args), known(node.kwargs)
        if node.op == "placeholder":
            return self._example
        if node.op == "get_attr":
            value: Any = self._network
            for part in str(node.target).split("."):
                value = getattr(value, part)
            return value
        if node.op == "call_module":
            return self._network.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]
        return args[0]  # output


def _is_fact(node: fx.Node) -> bool:
    """Whether a value depends on shapes and types alone."""
    if node.target is getattr:
        return node.args[1] in _FACTS
    if node.op == "call_method" and node.target in _FACTS:
        return True
    return bool(node.all_input_nodes) and all(_is_fact(other) for other in node.all_input_nodes)
