"""From a traced network to fused layers."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from adderkit.models import Network
from adderkit.nn import Adder2d
from adderkit.quant.graph import FusedLayer, FusedNetwork, Kind
from adderkit.quant.tracing import VALUE, Refused, trace

_ALLOWED = (
    "allowed are Adder2d, Conv2d, Linear as the classifier, BatchNorm after these, ReLU, additions, MaxPool2d, a global"
    " average pool, Flatten, Dropout and Identity"
)
_FLATTENERS = ("flatten", "view", "reshape", "squeeze")


def fuse(network: Network, height: int, width: int) -> FusedNetwork:
    """Traces a trained network in evaluation mode and fuses its modules.

    Args:
        network: on the CPU; its parameters are copied.
        height, width: of the images.

    Raises:
        ValueError: something in the network has no integer counterpart; the message names the module.
    """
    image = (network.in_channels, height, width)
    name = getattr(network, "name", type(network).__name__)
    try:
        example = torch.rand(2, *image, generator=torch.Generator().manual_seed(0))
        layers = _Fuser(network, image).run(trace(network, example))
    except Refused as error:
        raise ValueError(f"network `{name}` can't be turned into integers: {error}") from None
    if not any(layer.op == "adder" for layer in layers):
        raise ValueError(f"network `{name}` has no adder layer: only adder networks are turned into integers")
    return FusedNetwork(image, tuple(layers))


@dataclass
class _Open:
    """A layer under construction: BatchNorm, a residual and a ReLU may still join it."""

    op: Kind
    name: str
    input: int
    weight: Tensor
    scale: Tensor
    bias: Tensor
    shape: tuple[int, int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    residual: int = -1
    tensor: int | None = None  # once it is closed


@dataclass
class _Done:
    """A tensor."""

    tensor: int
    shape: tuple[int, int, int]
    is_non_negative: bool
    pooling: Tensor | None = None  # (positions there, positions of the tensor): an average that the classifier folds in


class _Fuser:
    def __init__(self, network: Network, image: tuple[int, int, int]) -> None:
        self._modules = dict(network.named_modules())
        self._layers: list[FusedLayer] = []
        self._values: dict[fx.Node, _Open | _Done] = {}
        self._image = image
        self._users: dict[fx.Node, int] = {}
        self._aliases: dict[fx.Node, fx.Node] = {}  # nodes that hand on another's value as it is

    def run(self, graph: fx.Graph) -> list[FusedLayer]:
        reached = _reached(graph)
        self._users = {node: sum(user in reached for user in node.users) for node in reached}
        for node in graph.nodes:
            if node not in reached or not isinstance(node.meta.get(VALUE), Tensor):
                if node.op == "output":
                    self._close_classifier(node)
                continue
            if node.op == "placeholder":
                self._values[node] = _Done(0, self._image, True)
            else:
                self._values[node] = self._step(node)
        for layer in self._layers:
            if layer.residual == 0 or (layer.input == 0 and layer.weight is None):
                raise Refused(f"`{layer.name}` takes the images themselves; only a Conv2d can")
            for tensor in (layer.input, layer.residual):
                if tensor > 0 and self._layers[tensor - 1].op == "average_pool" and layer.op != "classifier":
                    raise Refused(f"module `{layer.name}` reads an average pool; only the classifier can")
        return self._layers

    def _step(self, node: fx.Node) -> _Open | _Done:
        if node.op == "call_module":
            return self._module(node, self._modules[str(node.target)])
        if node.op == "call_function":
            return self._function(node)
        if node.op == "call_method":
            return self._method(node)
        raise Refused(f"it uses the tensor `{node.target}`; {_ALLOWED}")

    def _module(self, node: fx.Node, module: nn.Module) -> _Open | _Done:
        name, who, source = str(node.target), _caller(node), self._source(node)
        if isinstance(module, (Adder2d, nn.Conv2d)):
            return self._operator(name, module, source)
        if isinstance(module, nn.Linear):
            return self._linear(name, module, source)
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
            return self._norm(node, name, module)
        if isinstance(module, nn.ReLU):
            return self._relu(node, who, in_place=module.inplace)
        if isinstance(module, nn.MaxPool2d):
            facts = (module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)
            return self._max_pool(name, source, *facts)
        if isinstance(module, (nn.AdaptiveAvgPool2d, nn.AvgPool2d)):
            return self._average_pool(node, who)
        if isinstance(module, nn.Flatten):
            return self._flat(node, who)
        if isinstance(module, (nn.Identity, nn.Dropout, nn.Dropout2d)):
            return self._alias(node)
        raise Refused(f"module `{name}` is a {type(module).__name__}; {_ALLOWED}")

    def _function(self, node: fx.Node) -> _Open | _Done:
        target, name = node.target, _caller(node)
        if target in (operator.add, operator.iadd, torch.add):
            return self._add(node, name)
        if target in (F.relu, torch.relu, torch.relu_, F.relu_):
            in_place = target in (torch.relu_, F.relu_) or bool(node.kwargs.get("inplace") or node.args[1:2] == (True,))
            return self._relu(node, name, in_place)
        if target is torch.flatten:
            return self._flat(node, name)
        if target in (F.adaptive_avg_pool2d, F.avg_pool2d, torch.mean):
            return self._average_pool(node, name)
        if target in (F.dropout, F.dropout2d):
            return self._alias(node)
        raise Refused(f"{name} calls `{getattr(target, '__name__', target)}`; {_ALLOWED}")

    def _method(self, node: fx.Node) -> _Open | _Done:
        target, name = str(node.target), _caller(node)
        if target in ("add", "add_"):
            return self._add(node, name)
        if target in ("relu", "relu_"):
            return self._relu(node, name, in_place=target == "relu_")
        if target in _FLATTENERS:
            return self._flat(node, name)
        if target == "mean":
            return self._average_pool(node, name)
        if target in ("contiguous", "clone"):
            return self._alias(node)
        raise Refused(f"{name} calls `.{target}()`; {_ALLOWED}")

    def _operator(self, name: str, module: Adder2d | nn.Conv2d, source: fx.Node) -> _Open:
        kind: Kind = "adder" if isinstance(module, Adder2d) else "convolution"
        for attribute, value, allowed in (
            ("dilation", tuple(module.dilation), (1, 1)),
            ("groups", module.groups, 1),
            ("padding_mode", module.padding_mode, "zeros"),
        ):
            if value != allowed:
                raise Refused(f"module `{name}` has `{attribute}` (={value!r}); allowed is {allowed!r}")
        kernel = (module.kernel_size[0], module.kernel_size[1])
        if isinstance(module.padding, str):
            if module.padding == "same" and (kernel[0] % 2 == 0 or kernel[1] % 2 == 0):
                raise Refused(f"module `{name}` has `padding` (='same') with a kernel of even size {kernel}")
            padding = (kernel[0] // 2, kernel[1] // 2) if module.padding == "same" else (0, 0)
        else:
            padding = (module.padding[0], module.padding[1])
        if padding[0] >= kernel[0] or padding[1] >= kernel[1]:
            raise Refused(f"module `{name}` has `padding` (={padding}) that is not smaller than its kernel {kernel}")
        stride = (module.stride[0], module.stride[1])
        value = self._values[source]
        if isinstance(value, _Done) and value.pooling is not None and isinstance(module, nn.Conv2d):
            return self._pooled_operator(name, module, value, kernel, padding)
        x = self._tensor(source)
        if kind == "adder" and x.tensor == 0:
            raise Refused(f"module `{name}` is an adder layer that reads the images; only a Conv2d can")
        _, height, width = x.shape
        rows = (height + 2 * padding[0] - kernel[0]) // stride[0] + 1
        columns = (width + 2 * padding[1] - kernel[1]) // stride[1] + 1
        weight = module.weight.detach().double().clone()
        ones = torch.ones(len(weight), dtype=torch.float64)
        bias = torch.zeros_like(ones) if module.bias is None else module.bias.detach().double().clone()
        shape = (len(weight), rows, columns)
        return _Open(kind, name, x.tensor, weight, ones, bias, shape, kernel, stride, padding)

    def _pooled_operator(
        self, name: str, module: nn.Conv2d, x: _Done, kernel: tuple[int, int], padding: tuple[int, int]
    ) -> _Open:
        """A convolution over a whole map that was averaged to its size: the averaging goes into its filters."""
        assert x.pooling is not None
        if kernel != x.shape[1:] or padding != (0, 0):
            raise Refused(f"module `{name}` reads an average pool to {x.shape[1:]}, but not the whole of it at once")
        inner = self._layers[x.tensor - 1].shape if x.tensor else self._image
        weight = (module.weight.detach().double().flatten(2) @ x.pooling).unflatten(2, inner[1:])
        ones = torch.ones(len(weight), dtype=torch.float64)
        bias = torch.zeros_like(ones) if module.bias is None else module.bias.detach().double().clone()
        return _Open("convolution", name, x.tensor, weight, ones, bias, (len(weight), 1, 1), (inner[1], inner[2]))

    def _linear(self, name: str, module: nn.Linear, source: fx.Node) -> _Open:
        x = self._tensor(source)
        if source.meta[VALUE].dim() != 2:
            raise Refused(f"module `{name}` is a Linear whose input is not flat")
        weight = module.weight.detach().double().clone().unflatten(1, x.shape)
        ones = torch.ones(len(weight), dtype=torch.float64)
        bias = torch.zeros_like(ones) if module.bias is None else module.bias.detach().double().clone()
        shape = (len(weight), 1, 1)
        return _Open("convolution", name, x.tensor, weight, ones, bias, shape, (x.shape[1], x.shape[2]))

    def _norm(self, node: fx.Node, name: str, norm: nn.BatchNorm2d | nn.BatchNorm1d) -> _Open:
        value = self._values[self._source(node)]
        if not isinstance(value, _Open) or value.tensor is not None or value.residual >= 0:
            raise Refused(f"module `{name}` normalises what is no layer's own output")
        self._check_alone(self._source(node), f"module `{name}`")
        if norm.running_mean is None or norm.running_var is None:
            raise Refused(f"module `{name}` has no running statistics")
        factor = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.affine:
            factor = factor * norm.weight.detach().double()
        value.scale = value.scale * factor
        value.bias = (value.bias - norm.running_mean.double()) * factor
        if norm.affine:
            value.bias = value.bias + norm.bias.detach().double()
        return value

    def _relu(self, node: fx.Node, name: str, in_place: bool) -> _Open | _Done:
        source = self._source(node)
        value = self._values[source]
        if isinstance(value, _Open) and value.tensor is None:
            if not in_place or source in self._aliases:
                self._check_alone(source, name)
            elif source in self._aliases.values():
                raise Refused(f"{name} is a ReLU in place of a tensor that has two names")
            done = self._close(value, relu=True)
        elif not isinstance(value, _Open) and value.is_non_negative and value.tensor > 0:
            done = value
        else:
            raise Refused(f"{name} is a ReLU of what is no layer's own output")
        if in_place:
            self._values[source] = done
        return done

    def _add(self, node: fx.Node, name: str) -> _Open:
        if node.kwargs.get("alpha", 1) != 1:
            raise Refused(f"{name} adds with a factor")
        given = (*node.args[:2], node.kwargs.get("other"))
        pair = [value for value in given if isinstance(value, fx.Node)]
        if len(pair) != 2 or len({value.meta[VALUE].shape for value in pair}) != 1 or pair[0] is pair[1]:
            raise Refused(f"{name} adds something other than two tensors of one shape")
        free: list[tuple[fx.Node, _Open]] = []
        for one in pair:
            value = self._values[one]
            if isinstance(value, _Open) and value.tensor is None and value.residual < 0:
                free.append((one, value))
        if not free:
            raise Refused(f"{name} adds two tensors neither of which is the output of an operator alone")
        order = list(node.graph.nodes)
        main_node, main = max(free, key=lambda item: order.index(item[0]))  # a shortcut comes first, where both are
        self._check_alone(main_node, name)
        main.residual = self._tensor(pair[1] if main_node is pair[0] else pair[0]).tensor
        return main

    def _max_pool(self, name: str, source: fx.Node, *facts: Any) -> _Done:
        kernel, stride, padding, dilation = (_pair(fact) for fact in facts[:4])
        if dilation != (1, 1) or facts[4]:
            raise Refused(f"module `{name}` has a dilation or `ceil_mode`")
        x = self._tensor(source)
        channels, height, width = x.shape
        rows = (height + 2 * padding[0] - kernel[0]) // stride[0] + 1
        columns = (width + 2 * padding[1] - kernel[1]) // stride[1] + 1
        shape = (channels, rows, columns)
        return self._append(FusedLayer("max_pool", name, x.tensor, shape, -1, kernel, stride, padding), x)

    def _average_pool(self, node: fx.Node, name: str) -> _Done:
        x = self._tensor(self._source(node))
        before, after = self._source(node).meta[VALUE], node.meta[VALUE]
        if before.dim() == after.dim() == 4 and node.target is F.adaptive_avg_pool2d and after[0, 0].numel() > 1:
            positions = math.prod(x.shape[1:])
            basis = torch.eye(positions, dtype=torch.float64).view(positions, 1, *x.shape[1:])
            pooled = F.adaptive_avg_pool2d(basis, tuple(after.shape[2:]))
            return _Done(x.tensor, (x.shape[0], *after.shape[2:]), x.is_non_negative, pooled.flatten(1).T)
        if after.numel() != before.shape[:2].numel() or not torch.allclose(
            after.flatten(), before.mean((2, 3)).flatten()
        ):
            raise Refused(f"{name} is an average pool that is not global: {tuple(after.shape[1:])} of {x.shape}")
        return self._append(FusedLayer("average_pool", _path(node), x.tensor, (x.shape[0], 1, 1)), x)

    def _flat(self, node: fx.Node, name: str) -> _Open | _Done:
        source = self._source(node)
        if tuple(node.meta[VALUE].shape) != (source.meta[VALUE].shape[0], source.meta[VALUE][0].numel()):
            raise Refused(f"{name} reshapes to {tuple(node.meta[VALUE].shape[1:])}; allowed is to flatten")
        return self._alias(node)

    def _close_classifier(self, node: fx.Node) -> None:
        result = node.args[0]
        if not isinstance(result, fx.Node) or result.meta[VALUE].dim() != 2:
            raise Refused("it does not return logits (N, classes)")
        last = self._values[result]
        if not isinstance(last, _Open) or last.tensor is not None or last.residual >= 0:
            raise Refused("its output is not that of a Conv2d or Linear (with BatchNorm)")
        if last.op != "convolution":
            raise Refused(f"module `{last.name}`, the classifier, is an adder layer; it must be a Conv2d or Linear")
        shape = self._image if last.input == 0 else self._layers[last.input - 1].shape
        if shape[1:] != last.kernel or last.padding != (0, 0):
            raise Refused(f"module `{last.name}`, the classifier, must read its whole input {shape} at once")
        last.op = "classifier"
        self._close(last, relu=False)

    def _close(self, layer: _Open, relu: bool) -> _Done:
        facts = (layer.op, layer.name, layer.input, layer.shape, layer.residual, layer.kernel, layer.stride)
        weights = (layer.padding, layer.weight, layer.scale, layer.bias, relu)
        self._layers.append(FusedLayer(*facts, *weights))
        layer.tensor = len(self._layers)
        return _Done(layer.tensor, layer.shape, relu)

    def _append(self, layer: FusedLayer, x: _Done) -> _Done:
        self._layers.append(layer)
        return _Done(len(self._layers), layer.shape, x.is_non_negative)

    def _tensor(self, node: fx.Node) -> _Done:
        """The value of a node as a tensor: closes its layer as it stands."""
        value = self._values[node]
        if isinstance(value, _Open):
            value = _Done(value.tensor, value.shape, False) if value.tensor is not None else self._close(value, False)
            self._values[node] = value
        if value.pooling is not None:
            raise Refused(f"an average pool to {value.shape[1:]} can only be read by the classifier, as a Conv2d")
        return value

    def _source(self, node: fx.Node) -> fx.Node:
        source = node.args[0] if node.args else node.kwargs.get("input")
        if not isinstance(source, fx.Node) or source not in self._values:
            raise Refused(f"{_caller(node)} reads something other than a layer's output")
        return source

    def _alias(self, node: fx.Node) -> _Open | _Done:
        self._aliases[node] = self._source(node)
        return self._values[self._aliases[node]]

    def _check_alone(self, node: fx.Node, name: str) -> None:
        """Refuses a tensor with several readers, of whichever of its names: what joins its layer changes all."""
        if self._users[node] > 1:
            raise Refused(f"{name} follows a tensor that is used elsewhere too")
        if node in self._aliases:
            self._check_alone(self._aliases[node], name)


def _reached(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that the output depends on."""
    pending = [node for node in graph.nodes if node.op == "output"]
    reached = set(pending)
    while pending:
        for node in pending.pop().all_input_nodes:
            if node not in reached:
                reached.add(node)
                pending.append(node)
    return reached


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _caller(node: fx.Node) -> str:
    """What makes a node, for messages."""
    path = _path(node)
    return f"module `{path}`" if path else "the network's forward"


def _path(node: fx.Node) -> str:
    """Of the module that a node calls, or in whose forward it stands."""
    if node.op == "call_module":
        return str(node.target)
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0] if stack else ""
