"""What a run ran on: versions, device, kernels, commit."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy
import torch

import adderkit
from adderkit import collectives, ops
from adderkit.train import distributed


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda` as a device; of several processes on a machine each has a GPU of its own.

    Raises:
        ValueError: `cuda` where torch sees none, or fewer than processes.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("`device` (=cuda): torch sees no CUDA device here; allowed: auto, cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu" or not distributed.is_launched():
        return torch.device(name)
    index, found = distributed.local_rank(), torch.cuda.device_count()
    if index >= found:
        raise ValueError(
            f"`device` (={name}): torchrun started more processes here than torch sees GPUs: {found}. Start as many"
            " (--nproc_per_node), or choose cpu"
        )
    torch.cuda.set_device(index)
    return torch.device(name, index)


def processor_name() -> str:
    """The CPU's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {torch.get_num_threads()} threads"


def fingerprint(device: torch.device) -> dict[str, str]:
    """What the last bits of a step depend on beside the run's configuration."""
    return {
        "torch": str(torch.__version__),
        "adderkit": adderkit.__version__,
        "device": device_name(device),
        "kernels": ops.serving(device),
        "vectors of torch": torch.backends.cpu.get_cpu_capability(),
        "processes": str(collectives.process_count()),
    }


def commit() -> str | None:
    """The commit that this package is of, `-dirty` where tracked files differed; None where that is not known.

    A package that is tracked in a git checkout asks git; an installed one has the commit that it was built from.
    """

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", __file__) is None:
        built_from = Path(adderkit.__file__).parent / "_native" / "commit.txt"
        return (built_from.read_text(encoding="utf-8").strip() or None) if built_from.exists() else None
    head = git("rev-parse", "--short=12", "HEAD")
    return f"{head}-dirty" if git("status", "--porcelain", "--untracked-files=no") else head


def versions() -> dict[str, Any]:
    """Versions of what decides a run's figures."""
    return {
        "adderkit": adderkit.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }
