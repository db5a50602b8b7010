"""What a measurement is written as: JSON with everything, CSV with a line per figure."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from adderkit import native, ops
from adderkit.train.environment import commit, processor_name, versions
from adderkit.train.files import write_atomically, write_text


def machine(threads: int) -> dict[str, Any]:
    """Processor, instruction sets, versions: what the figures depend on."""
    library = native.library()
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "kernels": ops.serving(torch.device("cpu")),
        "adderkit_isa": os.environ.get("ADDERKIT_ISA") or "not set",
        "onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA") or "not set",
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "thread_pool": library.adderkit_thread_pool().decode() if library is not None else "torch",
        "system": f"{platform.system()} {platform.release()}",
        **versions(),
        "commit": commit(),
    }


def describe(machine: Mapping[str, Any]) -> str:
    """The machine in two lines."""
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads; "
        f"torch {machine['torch']}, adderkit {machine['commit'] or machine['adderkit']}\n"
        f"adder2d: {machine['kernels']} (ADDERKIT_ISA {machine['adderkit_isa']}); "
        f"conv2d: torch {machine['torch_cpu_capability']} (ONEDNN_MAX_CPU_ISA {machine['onednn_max_cpu_isa']})"
    )


def check_writable(**files: Path | None) -> None:
    """Finds out before the measurement that a file could not be written after it.

    Raises:
        ValueError: naming the option.
    """
    for option, path in files.items():
        if path is not None and not path.absolute().parent.is_dir():
            raise ValueError(f"`{option}` (={path}) must be a file in a folder that exists")
        if path is not None and path.is_dir():
            raise ValueError(f"`{option}` (={path}) must be a file, not a folder")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> None:
    """A line per row, the machine's columns behind its own: files of several machines can be joined."""
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*columns, *machine], restval="")
            writer.writeheader()
            writer.writerows({**row, **machine} for row in rows)

    write_atomically(path, write)
