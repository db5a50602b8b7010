"""`benchmarks/gpu_sitting.py`, as far as it can run without a GPU: order, time limit, signals, going on, failures."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from adderkit import cli

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_sitting.py"
CHECKS = 6  # before the trainings of tables

# Stands in for Python: writes down its arguments, then fails in one step, and in another waits for SIGTERM.
PYTHON = """#!/usr/bin/env bash
echo "$*" >> "{calls}"
case "$*" in
  *"{fails}"*) exit 1 ;;
  *"{waits}"*) trap 'echo saved; exit 75' TERM; echo waiting; for i in {{1..600}}; do sleep 0.1; done ;;
esac
"""


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_sitting", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sit(script, tmp_path) -> Callable[..., tuple[int, list[str]]]:
    """One sitting with a Python that does nothing but what it is told: exit code, and the arguments of its calls."""
    out, calls = tmp_path / "o u t", tmp_path / "calls"
    out.mkdir()

    def run(
        seconds: float = 60, fails: str = "none", waits: str = "none", seeds: str = "0", number: int = 0
    ) -> tuple[int, list[str]]:
        python = tmp_path / "python"
        python.write_text(PYTHON.format(calls=calls, fails=fails, waits=waits))
        python.chmod(0o755)
        calls.write_text("")
        sitting = script.Sitting(out, seconds, str(python))
        if number:
            threading.Thread(target=_when_waiting, args=(out / "first.log", lambda: sitting.stop(number, None))).start()
        code = sitting.run(list(script.steps(out, ["--seeds", seeds])))
        return code, calls.read_text().splitlines()

    return run


def _when_waiting(log: Path, act: Callable[[], None]) -> None:
    for _ in range(600):
        if log.exists() and "waiting" in log.read_text():
            return act()
        time.sleep(0.05)


def test_steps_in_their_order_and_never_twice(sit):
    code, calls = sit()
    assert code == 0
    assert [call.split()[:3] for call in calls] == [
        ["-m", "pytest", "-q"],
        *[["benchmarks/gpu_check.py", "--only", part] for part in ("equality", "steps", "layers")],
        *[["-m", "pytest", "-q"]] * 2,
        *[["-m", "adderkit", "table"]] * 3,
    ]  # fmt: skip
    assert sit() == (0, [])
    assert [len(calls) for _, calls in (sit(seeds="1"), sit(seeds="1"))] == [3, 0]  # other trainings, the same checks


def test_what_failed_is_tried_again_after_the_rest(sit):
    code, calls = sit(fails="--only steps", waits="--rows", seconds=2)
    assert (code, len(calls)) == (75, CHECKS + 1)
    code, calls = sit(fails="--only steps")
    assert (code, len(calls)) == (1, 4) and "--only steps" in calls[-1]
    code, calls = sit()
    assert (code, len(calls)) == (0, 1)


def test_the_end_of_the_time_stops_a_step_and_the_next_sitting_goes_on(sit, tmp_path):
    code, calls = sit(seconds=3, waits="--rows CNN")
    assert (code, len(calls)) == (75, CHECKS + 1)
    assert (tmp_path / "o u t" / "first.log").read_text().endswith("waiting\nsaved\n")
    code, calls = sit()
    assert code == 0 and len(calls) == 3 and "--rows CNN" in calls[0]


def test_a_check_that_hangs_costs_its_own_time_alone(sit, script, monkeypatch, tmp_path):
    wanted = script.steps
    monkeypatch.setattr(script, "steps", lambda *given: (step._replace(seconds=1) for step in wanted(*given)))
    code, calls = sit(waits="--only equality")
    assert (code, len(calls)) == (1, CHECKS + 3)
    ends = json.loads((tmp_path / "o u t" / "sitting.json").read_text())
    assert {name: end["code"] for name, end in ends.items() if end["code"]} == {"equality": 124}
    code, calls = sit()
    assert (code, len(calls)) == (0, 1)


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_signals_reach_the_step_and_no_other_begins(sit, tmp_path, number, expected):
    code, calls = sit(waits="--rows CNN", number=number)
    assert (code, len(calls)) == (expected, CHECKS + 1)
    assert (tmp_path / "o u t" / "first.log").read_text().endswith("waiting\nsaved\n")
    assert "first" not in json.loads((tmp_path / "o u t" / "sitting.json").read_text())


def test_the_commands_are_ones_that_are_understood(script, tmp_path, monkeypatch):
    """Tables, rows and options exist, and so do the tests and the script that are named."""
    trained = []
    monkeypatch.setattr("adderkit.tables.run_cells", lambda wanted, *others: trained.extend(wanted) or [])
    for name, arguments, _ in script.steps(tmp_path, ["--seeds", "0", "1", "--data.name", "cifar10"]):
        for word in arguments:
            if word.startswith(("tests/", "benchmarks/")):
                path, _, test = word.partition("::")
                assert (script.ROOT / path).exists(), name
                assert not test or f"\ndef {test}(" in (script.ROOT / path).read_text(), test
        if "table" in arguments:
            assert cli.main(arguments[2:]) == 0, name
    assert {cell.seed for cell in trained} == {0, 1} and len(trained) > 10
    assert {(cell.config.save_every, cell.config.data.name) for cell in trained} == {(10, "cifar10")}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_begins(tmp_path):
    command = [sys.executable, str(SCRIPT), str(tmp_path / "out"), "5"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (2, "torch sees no CUDA device here\n")
    assert not (tmp_path / "out").exists()
    done = subprocess.run([*command[:3], "10m"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "SECONDS" in done.stderr
