"""Runs the tests of the GPU kernels where there is no GPU; what a call falls back to, and why."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from adderkit.ops import gpu

FOLDER = Path(__file__).parent / "gpu"


def is_interpreter_broken() -> bool:
    """Triton 3.6's fails on loops to a bound that NumPy 2.4 no longer makes an integer; from 3.7 on it works."""
    numbers = [importlib.metadata.version("triton"), np.__version__]
    triton, numpy = (tuple(int(part) for part in number.split(".")[:2]) for number in numbers)
    return triton < (3, 7) and numpy >= (2, 4)


@pytest.mark.timeout(900)  # 45 s of a core that is free
@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU runs them")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_the_kernels_under_the_interpreter():
    if is_interpreter_broken():
        # A bound that was too wide once left this out unseen.
        (pytest.fail if os.environ.get("CI") else pytest.skip)("this Triton's interpreter fails with this NumPy")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER)],
        env=inherited | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=880,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def stub(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, is_cuda: bool = True) -> SimpleNamespace:
    return SimpleNamespace(shape=shape, dtype=dtype, is_cuda=is_cuda)


def test_what_has_no_kernel_is_refused_with_the_reason():
    small = (2, 3, 4, 5)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert gpu.refusal(stub(small, dtype)) == ""
    assert gpu.refusal(stub(small, torch.float64)) == "float64 has no kernel"
    assert gpu.refusal(stub(small, is_cuda=False)) == "not on a GPU"
    assert gpu.refusal(stub(small), stub((2**17, 1, 128, 128))) == "more than 2^31 positions"
    assert gpu.refusal(stub((2**15, 4096, 128, 128))) == ""  # elements may be more


def test_the_processor_goes_on_without_triton():
    script = "import sys, torch, adderkit.ops; adderkit.ops.backends()\n"
    script += "x = torch.ones(1, 4, 4, 4); adderkit.ops.adder2d(x, x)\nprint('triton' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == str(torch.cuda.is_available())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_reason_is_given():
    assert gpu.problem() in ("no CUDA device", "the kernels are for NVIDIA GPUs")


def test_steps_that_lanes_would_take_out_of_32_bits_are_not_compiled_in(monkeypatch):
    monkeypatch.setattr(gpu, "_constants", set())
    most = max(tile.lanes for tile in (*gpu.FORWARD_TILES, *gpu.INPUT_GRAD_TILES))
    for step in (1, 32 * 32, 2**25, 2**27, 12_000 * 12_000, 2**31):
        assert gpu._constant(step, 1 << 40) == (step if step * most < 2**31 else 0)
