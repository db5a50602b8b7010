"""Some of the cases in a process of their own: the exit code is the process's, and no traceback comes from its end."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from test_bad_input import CASES, room, snapshot

__all__ = ["room"]

NAMES = [
    "truncated PNG",
    "streamed images, one truncated",
    "truncated parquet",
    "recipe with a billion values",
    "argument that is no UTF-8",
    "official checkpoint that runs code",
]


@pytest.mark.parametrize("case", [case for case in CASES if case.name in NAMES], ids=lambda case: case.name)
def test_process_ends_with_the_code(case, room, capsys):
    arguments = [word if word != "0" else "1" for word in case.build(room)]  # workers: a process of its own
    before = snapshot(room)
    done = subprocess.run(
        [os.fsencode(word) for word in (sys.executable, "-m", "adderkit", *arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        timeout=240,
        check=False,
    )
    assert done.returncode == case.code, done.stderr
    assert "Traceback" not in done.stderr and "this must never be printed" not in done.stdout
    for fragment in case.fragments:
        assert fragment in done.stderr
    assert snapshot(room) == before


def test_all_were_found():
    assert {case.name for case in CASES} >= set(NAMES)
