"""Starts what tests of several processes run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import adderkit

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
PATIENCE = 400


def environment(folder: Path) -> dict[str, str]:
    """One thread each, this very package, and a home in `folder`."""
    source = str(Path(adderkit.__file__).parents[1])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source, "ADDERKIT_HOME": str(folder / "home")}


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment(folder), cwd=folder, capture_output=True, text=True, timeout=PATIENCE
    )
