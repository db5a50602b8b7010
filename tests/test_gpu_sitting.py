"""`benchmarks/gpu_sitting.sh`, as far as it can run without a GPU: order, time limit, going on, failures."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_sitting.sh"
STEPS = ["tests", "check", "first", "table1", "ablation"]

# Stands in for Python: writes down its arguments, and ends as the file says that is named like the step's program.
PYTHON = """#!/usr/bin/env bash
echo "$*" >> {calls}
case "$*" in
  *"{fails}"*) exit 1 ;;
  *"{waits}"*) sleep 60 ;;
esac
"""


@pytest.fixture
def sitting(tmp_path):
    """Runs the script with a Python that does nothing, fails in one step or waits in another: exit code and calls."""
    calls = tmp_path / "calls"

    def run(seconds: int = 60, fails: str = "none", waits: str = "none") -> tuple[int, list[str]]:
        python = tmp_path / "python"
        python.write_text(PYTHON.format(calls=calls, fails=fails, waits=waits))
        python.chmod(0o755)
        calls.write_text("")
        command = [str(SCRIPT), str(tmp_path / "out"), str(seconds), "--seeds", "0", "1"]
        environment = {**os.environ, "PYTHON": str(python)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
        return done.returncode, [line for line in calls.read_text().splitlines() if "import" not in line]

    return run


def test_steps_in_their_order_and_never_twice(sitting, tmp_path):
    code, calls = sitting()
    assert code == 0
    assert [call.split()[1] for call in calls] == ["pytest", "--cases", "adderkit", "adderkit", "adderkit"]
    assert "--rows CNN ANN PKKD" in calls[2] and "--rows" not in calls[3] and " ablation " in calls[4]
    assert all(call.endswith("--save_every 10 --seeds 0 1") for call in calls[2:])
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.done")) == sorted(STEPS)
    assert sitting() == (0, [])


def test_what_failed_is_tried_again_and_does_not_hold_up_the_rest(sitting, tmp_path):
    code, calls = sitting(fails="gpu_check.py")
    assert (code, len(calls)) == (1, 5)
    assert not (tmp_path / "out" / "check.done").exists()
    code, calls = sitting()
    assert code == 0 and len(calls) == 1 and "gpu_check.py" in calls[0]


def test_the_end_of_the_time_stops_it_and_the_next_sitting_goes_on(sitting):
    code, calls = sitting(seconds=3, waits="--rows CNN")
    assert (code, len(calls)) == (75, 3)
    code, calls = sitting()
    assert code == 0 and len(calls) == 3 and "--rows CNN" in calls[0]
