"""Turns the convolutions of any module into adder layers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from adderkit.nn.base import AdderLayer
from adderkit.nn.first_use import WHY
from adderkit.nn.layers import Adder1d, Adder2d, Adder3d
from adderkit.nn.normalisation import evaluation, is_normalisation, unnormalised
from adderkit.nn.transpose import AdderTranspose2d

ADDER_LAYERS: dict[type[nn.Module], type[AdderLayer]] = {
    nn.Conv1d: Adder1d,
    nn.Conv2d: Adder2d,
    nn.Conv3d: Adder3d,
    nn.ConvTranspose2d: AdderTranspose2d,
}
"""The adder layer of each convolution; it takes the same arguments."""

Skip = str | Iterable[str] | Callable[[str, nn.Module], object]

_ANY_CONVOLUTION = nn.modules.conv._ConvNd
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_GEOMETRY = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "output_padding"),
    *("dilation", "groups", "padding_mode"),
)


def convert(
    model: nn.Module,
    skip: Skip = (),
    *,
    keep_ends: bool = True,
    example: Tensor | tuple[Any, ...] | None = None,
) -> nn.Module:
    """Copies a model with adder layers in place of its convolutions; `model` itself stays as it is.

    The first convolution stays a convolution, and so does the classifier where that is one: where the last layer with
    weights (normalisations aside) is a convolution. Everything else stays too: normalisations, linear layers,
    functions. A module that the model holds twice is one adder layer in both places, as are filters that layers share.

    An adder layer has its convolution's geometry, device, dtype, memory layout, training flag, `requires_grad`, and a
    bias where that had one. Its filters are new, drawn from N(0, 1): they are points that patches are compared with,
    and a convolution's weights, about 0.05 in size, would all lie at the origin. So train the result, from an
    optimiser built for it, with `adderkit.train.AdaptiveLocalRate`.

    Only convolutions that are modules and are called can be converted. A module that calls
    `torch.nn.functional.conv2d` with a weight of its own is not seen; one that reads another's `weight` so
    finds the filters of the adder layer there.

    Args:
        model: any module. It is copied by `copy.deepcopy`, but for the convolutions.
        skip: further convolutions that stay: module paths or patterns (`"layer4"`, `"*.downsample.0"`), where a path
            stands for all below it and `*` for any characters, dots included; or a function of path and convolution
            that returns a bool.
        keep_ends: False converts the first convolution and the classifier too.
        example: an input, or a tuple of inputs. With it, first and last are those that run first and last; without,
            those that are registered first and last, which may differ. With it, too, a `UserWarning` lists the adder
            layers whose output no normalisation receives; without, a layer can tell in its first training step only.
            The model runs in evaluation mode without gradients and is left as it was.

    Returns:
        The copy.

    Raises:
        ValueError: a path in `skip` that there is not; nothing to convert; or a convolution that cannot be converted
            faithfully, with the reason: a forward of its own (a subclass), parametrised or normalised weights, hooks,
            lazy or quantised weights, a kind without an adder layer. To leave it as it is, name it in `skip`.

    Source: AdderNet (Chen et al., CVPR 2020): which layers stay, and the first values of the filters.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"`model` (a {type(model).__name__}) must be a torch.nn.Module")
    paths = _paths(model)
    convolutions = [module for module in paths if _is_convolution(module)]
    stay = _skipped(skip, paths, convolutions)
    if keep_ends:
        stay |= _ends(model, paths, convolutions, example)
    chosen = [module for module in convolutions if module not in stay]
    if not chosen:
        kept = ", ".join(paths[module][0] or "the model itself" for module in convolutions) or "it holds none"
        raise ValueError(f"`model` ({type(model).__name__}) has no convolution to convert; those that stay: {kept}")
    _check(chosen, paths)
    converted = _copy(model, {module: paths[module][0] for module in chosen})
    if example is not None:
        found = unnormalised(converted, example)
        if found:
            warnings.warn(
                f"no normalisation receives the output of {', '.join(found)} itself (one may follow later, as after a "
                f"concatenation); {WHY}, or name such layers in `skip`",
                stacklevel=2,
            )
    return converted


def _paths(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Every module with all paths that lead to it."""
    paths: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    return paths


def _is_convolution(module: nn.Module) -> bool:
    return isinstance(module, _ANY_CONVOLUTION) or _is_quantised(module)


def _is_quantised(module: nn.Module) -> bool:
    kind = type(module)
    return "Conv" in kind.__name__ and kind.__module__.startswith(("torch.ao.nn.", "torch.nn.quantized."))


def _skipped(skip: Skip, paths: dict[nn.Module, list[str]], convolutions: list[nn.Module]) -> set[nn.Module]:
    if callable(skip):
        return {module for module in convolutions if any(skip(path, module) for path in paths[module])}
    if not isinstance(skip, Iterable):
        raise ValueError(f"`skip` (={skip!r}) must be module paths, or a function (path, module) -> bool")
    patterns = [skip] if isinstance(skip, str) else list(skip)
    known = [path for found in paths.values() for path in found if path]
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ValueError(f"`skip` (holds {pattern!r}) must be module paths, or a function (path, module) -> bool")
        if not any(fnmatchcase(path, pattern) for path in known):
            near = get_close_matches(pattern, known)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"`skip` (={pattern!r}): the model has no such module.{hint}")

    def is_named(path: str) -> bool:
        names = path.split(".")
        upwards = [".".join(names[: length + 1]) for length in range(len(names))]
        return any(fnmatchcase(parent, pattern) for parent in upwards for pattern in patterns)

    return {module for module in convolutions if any(is_named(path) for path in paths[module])}


def _ends(
    model: nn.Module,
    paths: dict[nn.Module, list[str]],
    convolutions: list[nn.Module],
    example: Tensor | tuple[Any, ...] | None,
) -> set[nn.Module]:
    """The first convolution, and the last layer with weights where that is a convolution."""
    layers = [module for module in paths if module in convolutions or _has_weights(module)]
    order = layers if example is None else _running_order(model, layers, example)
    first = next((module for module in order if module in convolutions), None)
    if first is None:
        if example is not None and convolutions:
            raise ValueError("`example`: the model calls none of its convolutions for it")
        return set()
    if example is None:
        _warn_of_order(first, convolutions, paths)
    return {first, order[-1]} & set(convolutions)


def _has_weights(module: nn.Module) -> bool:
    own = module.parameters(recurse=False)
    return not is_normalisation(module) and any(is_lazy(tensor) or tensor.dim() >= 2 for tensor in own)


def _running_order(model: nn.Module, layers: list[nn.Module], example: Tensor | tuple[Any, ...]) -> list[nn.Module]:
    """`layers` by their first call; those that are not called are left out."""
    order: dict[nn.Module, None] = {}
    for module in layers:
        if any(is_lazy(tensor) for tensor in module.parameters(recurse=False)):
            raise ValueError(f"`model`: {module} has no shape yet; run the model once before")
    handles = [module.register_forward_pre_hook(lambda module, _: order.setdefault(module)) for module in layers]
    try:
        with evaluation(model), torch.no_grad():
            model(*example) if isinstance(example, tuple) else model(example)
    finally:
        for handle in handles:
            handle.remove()
    return list(order)


def _warn_of_order(first: nn.Module, convolutions: list[nn.Module], paths: dict[nn.Module, list[str]]) -> None:
    """Images have fewer channels than maps, so a convolution that reads fewer than the first may be the true first."""
    channels = {module: getattr(module, "in_channels", 0) for module in convolutions}
    fewest = min(convolutions, key=lambda module: channels[module] or channels[first])  # 0: not known yet
    if 0 < channels[fewest] < channels[first]:
        warnings.warn(
            f"{paths[first][0]} is registered first and stays a convolution, but {paths[fewest][0]} reads fewer "
            "channels: give an `example`, so that the order of the run decides",
            stacklevel=4,
        )


def _check(chosen: list[nn.Module], paths: dict[nn.Module, list[str]]) -> None:
    faults = [f"{paths[module][0] or 'the model itself'}: {why}" for module in chosen if (why := _obstacle(module))]
    held_elsewhere = {
        id(tensor): path
        for module, (path, *_) in paths.items()
        if module not in chosen
        for tensor in module.parameters(recurse=False)
    }
    for module in chosen:
        other = next((held_elsewhere[id(p)] for p in module.parameters() if id(p) in held_elsewhere), None)
        if other is not None:
            faults.append(f"{paths[module][0]}: its parameters are those of `{other}` too, which stays as it is")
    if faults:
        raise ValueError(
            "`model` holds convolutions that cannot be converted faithfully (to leave one as it is, name it in "
            "`skip`):\n  " + "\n  ".join(faults)
        )


def _obstacle(conv: nn.Module) -> str | None:
    """Why `conv` has no adder layer that computes what it says; None where it has one."""
    kind = type(conv)
    if is_parametrized(conv):
        return "its weights are parametrised; torch.nn.utils.parametrize.remove_parametrizations makes them plain"
    if _is_quantised(conv):
        return f"it is quantised ({kind.__module__}.{kind.__name__})"
    base = next((base for base in ADDER_LAYERS if isinstance(conv, base)), None)
    if base is None:
        return f"there is no adder layer for {kind.__name__}"
    if any(is_lazy(tensor) for tensor in conv.parameters()):
        return "it has no shape yet; run the model once before"
    own = [name for name in ("forward", "_conv_forward", "__call__") if _differs(conv, base, name)]
    if own:
        return f"{kind.__module__}.{kind.__name__} computes in a way of its own (it defines `{own[0]}`)"
    more = sorted({*conv._parameters, *conv._buffers, *conv._modules} - {"weight", "bias"})
    if more or "weight" not in conv._parameters:
        return f"it holds {', '.join(more)}: undo weight normalisation, spectral normalisation or pruning before"
    weight = conv._parameters["weight"]
    if type(weight) is not nn.Parameter or not weight.is_floating_point():
        return f"its weight is a {type(weight).__name__} of {getattr(weight, 'dtype', None)}, no plain real tensor"
    # Hooks on the state dict, as parametrisations leave them behind, concern weights that go.
    hooks = [name for name in _HOOKS if getattr(conv, name, None)]
    if hooks:
        return f"it carries hooks ({', '.join(hooks)}), which would be lost: remove them before"
    return None


def _differs(conv: nn.Module, base: type[nn.Module], name: str) -> bool:
    return name in vars(conv) or getattr(type(conv), name, None) is not getattr(base, name, None)


def _copy(model: nn.Module, chosen: dict[nn.Module, str]) -> nn.Module:
    """A deep copy that finds an adder layer wherever `model` refers to a chosen convolution."""
    tensors: dict[int, nn.Parameter] = {}  # of filters and biases that layers share
    layers = {module: _adder_layer(module, tensors) for module in chosen}
    try:
        copied = copy.deepcopy(model, {id(module): layer for module, layer in layers.items()})
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"`model` ({type(model).__name__}) can't be copied: {error}") from error
    for module, path in chosen.items():
        if copied.get_submodule(path) is not layers[module]:
            raise ValueError(f"`model` ({type(model).__name__}): a `__deepcopy__` of its own keeps `{path}` as it is")
    return copied


def _adder_layer(conv: nn.Module, tensors: dict[int, nn.Parameter]) -> AdderLayer:
    kind = next(kind for base, kind in ADDER_LAYERS.items() if isinstance(conv, base))
    geometry = {name: getattr(conv, name) for name in _GEOMETRY}
    if not conv.transposed:
        del geometry["output_padding"]
    layer: AdderLayer = kind(**geometry, bias=conv.bias is not None, device="meta")  # type: ignore[arg-type]
    for name, old in conv.named_parameters():
        if id(old) not in tensors:  # empty_like: device, dtype and memory layout
            tensors[id(old)] = nn.Parameter(torch.empty_like(old), requires_grad=old.requires_grad)
        setattr(layer, name, tensors[id(old)])
    with torch.no_grad():
        layer.reset_parameters()
    return layer.train(conv.training)
