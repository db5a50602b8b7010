"""`adderkit doctor`: what is installed, which kernels run and why, where data goes."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from adderkit import ops, paths
from adderkit.train import environment

# Each with what it is for: a missing one is no fault, only a limit.
_OPTIONAL = {
    "torchvision": "CIFAR and Fashion-MNIST downloads (extra `vision`)",
    "triton": "GPU kernels",
    "onnxruntime": "comparison with integer CNNs (extra `bench`)",
}


def report(console: Console) -> bool:
    """Prints the report.

    Returns:
        Whether all that a training needs is there.
    """
    console.print(_versions())
    try:
        console.print(_kernels())
        has_kernels = True
    except ValueError as error:  # ADDERKIT_ISA names a path that can't run here
        console.print(f"[bold red]kernels of adder2d: {error}", highlight=False, soft_wrap=True)
        has_kernels = False
    _device(console)
    return _data_folder(console) and has_kernels


def _versions() -> Table:
    table = Table(title="versions", title_justify="left")
    table.add_column("package")
    table.add_column("version")
    for name, version in environment.versions().items():
        table.add_row(name, str(version))
    for name, use in _OPTIONAL.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = f"not installed: {use}"
        table.add_row(name, version)
    return table


def _kernels() -> Table:
    table = Table(title="kernels of adder2d", title_justify="left")
    for column in ("kernel", "state", "why"):
        table.add_column(column, overflow="fold")
    for backend in ops.backends():
        state = "runs" if backend.active else "available" if backend.available else "not available"
        table.add_row(backend.name, f"[bold green]{state}" if backend.active else state, backend.reason)
    return table


def _device(console: Console) -> None:
    console.print(f"CPU: {environment.device_name(torch.device('cpu'))}", highlight=False)
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        console.print(f"GPU: {', '.join(names)}", highlight=False)
    elif torch.version.cuda is None:
        console.print("GPU: none (this torch is built without CUDA)", highlight=False)
    else:
        console.print(f"GPU: none (torch is built for CUDA {torch.version.cuda}, but sees no device)", highlight=False)


def _data_folder(console: Console) -> bool:
    folder = paths.home()
    source = "$ADDERKIT_HOME" if "ADDERKIT_HOME" in os.environ else "default; $ADDERKIT_HOME changes it"
    problem = _write_problem(folder)
    state = f"[bold red]not writable: {problem}" if problem else "writable"
    console.print(f"data and cached teachers: {folder} ({source}): {state}", highlight=False, soft_wrap=True)
    return problem is None


def _write_problem(folder: Path) -> str | None:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return None
    except OSError as error:
        return str(error)
