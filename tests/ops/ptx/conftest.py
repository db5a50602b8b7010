"""The GPU kernels as Triton compiles them, run on the processor: Linux, Triton and a C compiler are needed.

Triton must not have been told to interpret kernels, so these tests belong to an ordinary process.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path

import pytest
import torch

# Its tests run here too.
sys.path.append(str(Path(__file__).parents[1] / "gpu"))


def why_not() -> str:
    """Why nothing here runs on this machine, or ""."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return "needs Linux on x86-64 or 64-bit Arm"
    if importlib.util.find_spec("triton") is None:
        return "needs triton"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "Triton interprets its kernels here"
    return "" if compiler() else "needs a C compiler"


def compiler() -> str | None:
    return next(filter(None, (shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang"))), None)


@pytest.fixture(scope="session")
def c_compiler() -> str:
    found = compiler()
    if reason := why_not():
        pytest.skip(reason)
    assert found
    return found


@pytest.fixture(scope="session")
def session_driver(c_compiler, tmp_path_factory):
    from ptx_driver import Driver

    return Driver(tmp_path_factory.mktemp("ptx"), c_compiler)


@pytest.fixture
def driver(session_driver, tmp_path_factory, monkeypatch):
    """Kernels that are launched meanwhile run here; they are compiled once a session."""
    from triton import runtime

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    monkeypatch.setattr(runtime.driver, "_active", session_driver)
    session_driver.launches.clear()
    return session_driver


@pytest.fixture
def device(driver) -> torch.device:
    return torch.device("cpu")
