"""What tests of several processes share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import launching
import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    # A checkout that was never built trains too, far slower.
    config.addinivalue_line("filterwarnings", "ignore:adder2d runs in plain torch:RuntimeWarning")


@pytest.fixture(scope="session")
def distributed_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """`distributed_runs.py` by one process and by two: folders, results of each process, what was printed."""
    found: dict[str, Any] = {}
    for name, launcher in (("one", [sys.executable]), ("two", launching.TORCHRUN)):
        folder = tmp_path_factory.mktemp(name)
        script = Path(__file__).parent / "distributed_runs.py"
        process = launching.run([*launcher, str(script), str(folder)], folder)
        assert process.returncode == 0, process.stderr
        results = [torch.load(path, weights_only=False) for path in sorted(folder.glob("*.pt"))]
        found[name] = {"folder": folder, "results": results, "output": process.stdout, "errors": process.stderr}
    assert [len(part["results"]) for part in found.values()] == [1, 2]
    return found
