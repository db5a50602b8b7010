"""Another process that keeps one core busy while something is timed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Ends by itself where its parent is gone, so that a killed benchmark leaves nothing behind.
_SPIN = """
import os
parent = os.getppid()
print("ready", flush=True)
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@contextmanager
def busy_core() -> Iterator[None]:
    """Runs the other process, from when it is under way to the end of the block."""
    process = subprocess.Popen([sys.executable, "-c", _SPIN], stdout=subprocess.PIPE)
    try:
        if process.stdout is not None:
            process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()
