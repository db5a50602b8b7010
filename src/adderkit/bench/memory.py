"""Peak memory of training steps, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

_STEPS = 3
_SCRIPT = "import sys; from adderkit.bench.memory import report; report(sys.argv[1])"
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")  # writing 5 resets the peak


class Request(NamedTuple):
    """A network whose training steps are measured."""

    network: str
    layer: str
    batch: int
    threads: int


def is_available() -> bool:
    """Whether this system tells a process its peak memory: Linux."""
    return _CLEAR.exists()


def peak_in_own_process(request: Request) -> float:
    """MiB that a few steps take at their peak, over the resident size after the imports: without code and libraries.

    Raises:
        ChildProcessError: where the process fails, with what it said.
    """
    command = [sys.executable, "-c", _SCRIPT, json.dumps(request._asdict())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ChildProcessError(f"measuring memory failed: {done.stderr.strip()}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def report(request: str) -> None:
    """What the process of its own runs: prints the peak of a `Request` in JSON."""
    print(json.dumps(_peak(Request(**json.loads(request)))))


def _resident_kib(field: str) -> int:
    """VmRSS (now) or VmHWM (peak)."""
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def _peak(request: Request) -> float:
    import torch

    from adderkit.bench.training import step_of

    torch.set_num_threads(request.threads)
    _CLEAR.write_text("5", encoding="utf-8")
    baseline = _resident_kib("VmRSS")
    step = step_of(request.network, request.layer, request.batch)
    for _ in range(_STEPS):
        step()
    return (_resident_kib("VmHWM") - baseline) / 1024
