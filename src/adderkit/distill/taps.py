"""Taps: the outputs of a model's modules, collected by forward hooks so that models know nothing of distillation."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

from torch import Tensor, nn

from adderkit.nn import Adder2d, AdderTranspose2d


class Taps:
    """Records what the modules at `paths` return, once per forward pass of `model`.

    A context manager: leaving it removes the hooks.

    Args:
        model: any module.
        paths: dotted module paths, as in `model.named_modules()`.

    Raises:
        ValueError: a path that the model does not have.
    """

    def __init__(self, model: nn.Module, paths: Iterable[str]) -> None:
        modules = dict(model.named_modules())
        self._outputs: dict[str, Tensor] = {}
        self._paths = tuple(paths)
        for path in self._paths:
            if path not in modules:
                has = ", ".join(filter(None, modules))
                raise ValueError(f"tap `{path}` is no module of {type(model).__name__}; it has: {has}")
        self._handles = [modules[path].register_forward_hook(self._recorder(path)) for path in self._paths]

    def _recorder(self, path: str):
        def record(module: nn.Module, inputs: tuple[object, ...], output: Tensor) -> None:
            self._outputs[path] = output

        return record

    def take(self) -> dict[str, Tensor]:
        """The outputs since the last call, in the order of `paths`; they are forgotten here, to free their memory."""
        missing = [path for path in self._paths if path not in self._outputs]
        if missing:
            raise ValueError(f"the forward pass did not run the tapped modules {', '.join(missing)}")
        outputs = {path: self._outputs[path] for path in self._paths}
        self.clear()
        return outputs

    def clear(self) -> None:
        """Forgets what was recorded since."""
        self._outputs.clear()

    def close(self) -> None:
        """Removes the hooks."""
        self.clear()
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> Taps:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()


def operator_paths(model: nn.Module) -> tuple[str, ...]:
    """Paths of the convolutions and adder layers that twins differ in: all but the model's stem and classifier."""
    fixed = {getattr(model, "stem_path", None), getattr(model, "classifier_path", None)}
    operators = (Adder2d, AdderTranspose2d, nn.Conv2d, nn.ConvTranspose2d)
    return tuple(path for path, module in model.named_modules() if isinstance(module, operators) and path not in fixed)


def stage_paths(model: nn.Module) -> tuple[str, ...]:
    """Paths of the last operator of each stage's main branch: one raw map per resolution.

    Raises:
        ValueError: the model does not say what its stages are (attribute `stage_paths`).
    """
    stages = getattr(model, "stage_paths", None)
    if not stages:
        raise ValueError(f"{type(model).__name__} has no attribute `stage_paths`: name the taps by module path instead")
    operators = [path for path in operator_paths(model) if ".downsample." not in path]
    lasts = ([path for path in operators if path == stage or path.startswith(f"{stage}.")] for stage in stages)
    return tuple(paths[-1] for paths in lasts if paths)
