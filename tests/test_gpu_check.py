"""`benchmarks/gpu_check.py` runs, as far as it can without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

import adderkit

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_check.py"


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    source = str(Path(adderkit.__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source}
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--quick", "--seconds", "0", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=240, check=False)


def test_quick_check_on_the_processor(tmp_path):
    done = run("--json", "check.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "check.json").read_text())
    assert [row["ok"] for row in report["equality"]] == [True] * 3
    assert all(0 <= row["forward"] < 1e-5 for row in report["equality"] if row["dtype"] == "torch.float32")
    (layer,) = report["layers"]
    assert layer["forward"] < 1e-5 and layer["adder ms"] > 0 and layer["official ms"] > 0
    (step,) = report["steps"]
    assert step["method"] == "pkkd" and step["step ms"] > 0


def test_a_part_alone(tmp_path):
    done = run("--only", "equality", "--json", "check.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "check.json").read_text())
    assert len(report["equality"]) == 3 and report["layers"] == report["steps"] == []


def test_a_lost_device_ends_the_cases(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from gpu_checks import equality

    monkeypatch.setattr(equality, "is_lost", lambda device: True)
    (row,) = equality.check(equality.FIXED[:3], torch.device("cpu"))
    assert not row["ok"] and "lost" in row["then"]
