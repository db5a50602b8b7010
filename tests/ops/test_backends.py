"""Which kernels serve, what a user is told, and what the environment changes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from adderkit import native, ops
from adderkit.ops import gpu

SCRIPT = """
import warnings
import torch, adderkit
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        x = torch.arange(18.0).view(1, 2, 3, 3).requires_grad_()
        y = adderkit.adder2d(x, torch.ones(1, 2, 3, 3))
        y.sum().backward()
print(y.item())
print([str(w.message) for w in caught])
print([b.name for b in adderkit.ops.backends() if b.active and b.isa != "cuda"])
"""


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ADDERKIT_")}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=inherited | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_switched_off_the_reference_serves_and_says_so_once():
    result = run(ADDERKIT_NATIVE="off")
    value, messages, active = result.stdout.splitlines()
    assert float(value) == -137.0  # |0 - 1| + 0 + 1 + ... + 16
    assert messages.count("adder2d runs in plain torch") == 1
    assert "ADDERKIT_NATIVE=off; unset it" in messages
    assert active == "['torch reference']"


def test_what_serves_the_processor_is_known_without_a_look_at_the_gpu(monkeypatch):
    """Which would begin a CUDA context there."""
    names = [row.name for row in ops.backends() if row.active and row.isa != "cuda"]

    def look(device=0):
        raise AssertionError("looked at")

    monkeypatch.setattr(gpu, "problem", look)
    assert [ops.serving(torch.device("cpu"))] == names


@pytest.mark.skipif(native.library() is None, reason=f"no native library: {native.reason()}")
class TestNative:
    @pytest.mark.parametrize("isa", [isa.name for isa in native.isas() if not isa.reason])
    def test_the_environment_forces_a_path(self, isa):
        value, messages, active = run(ADDERKIT_ISA=isa).stdout.splitlines()
        assert float(value) == -137.0
        assert messages == "[]"
        assert active == f"['native {isa}']"

    def test_an_unknown_path_stops_the_first_call(self):
        result = run(ADDERKIT_ISA="sse9")
        assert result.returncode != 0
        assert "ValueError: `ADDERKIT_ISA` (=sse9) must be one of" in result.stderr

    def test_one_native_backend_is_active_by_default(self):
        rows = ops.backends()
        active = [row for row in rows if row.active and row.isa != "cuda"]
        assert len(active) == 1
        assert active[0].available
        assert rows[-1].name == "torch reference"
        assert all(row.reason for row in rows)

    def test_torch_and_the_kernels_share_one_pool(self):
        library = native.library()
        assert library is not None
        if sys.platform == "linux":
            assert library.adderkit_thread_pool() == b"libgomp"
