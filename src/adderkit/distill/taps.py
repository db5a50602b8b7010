"""Taps: the outputs of a model's modules, collected by forward hooks so that models know nothing of distillation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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
    stages = stage_outputs(model)
    operators = [path for path in operator_paths(model) if ".downsample." not in path]
    lasts = ([path for path in operators if path == stage or path.startswith(f"{stage}.")] for stage in stages)
    return tuple(paths[-1] for paths in lasts if paths)


def stage_outputs(model: nn.Module | None) -> tuple[str, ...]:
    """Paths of the stages themselves: the activations that each returns.

    Raises:
        ValueError: the model does not say what its stages are (attribute `stage_paths`).
    """
    stages = getattr(model, "stage_paths", None)
    if not stages:
        raise ValueError(f"{type(model).__name__} has no attribute `stage_paths`: it does not say what its stages are")
    return tuple(stages)


def stage_beginnings(model: nn.Module | None) -> tuple[str, ...]:
    """Paths of each stage's first normalisation: its output, already rectified where a ReLU in place follows.

    Raises:
        ValueError: the model does not say what its stages are, or one has no BatchNorm.
    """
    stages = stage_outputs(model)
    norms = [path for path, module in model.named_modules() if isinstance(module, _BatchNorm)] if model else []
    firsts = [next((path for path in norms if path.startswith(f"{stage}.")), None) for stage in stages]
    missing = [stage for stage, first in zip(stages, firsts, strict=True) if first is None]
    if missing:
        raise ValueError(f"the stages {', '.join(missing)} of {type(model).__name__} have no BatchNorm")
    return tuple(first for first in firsts if first is not None)


def check_one_size(method: str, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> None:
    """Raises ValueError, naming the method, where the maps of a pair of taps differ in their pixels."""
    for (path, output), target in zip(student.items(), teacher.values(), strict=True):
        if output.shape[2:] != target.shape[2:]:
            raise ValueError(
                f"`{method}`: `{path}` gives the student {tuple(output.shape[2:])} pixels, its pair in the teacher"
                f" {tuple(target.shape[2:])}: only maps of one size can be compared"
            )
