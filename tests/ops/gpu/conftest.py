"""Tests of the GPU kernels run compiled where there is a GPU, else on the processor under Triton's interpreter.

The interpreter must be chosen before anything imports Triton, so `test_gpu_interpreter.py` runs this folder in a
process of its own; without a GPU or the interpreter, nothing is collected here.
"""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    # The interpreter is NumPy, which warns of what infinities and NaN do.
    config.addinivalue_line("filterwarnings", "ignore:.*encountered in:RuntimeWarning")


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
