"""Trainings killed at random instants end as uninterrupted ones; `fault_injection.py` does it with more of them."""

from __future__ import annotations

import os
import random
import signal

import pytest
from fault_injection import Forked, digests, finish, hit, random_fault, start_server

KILLS = 6
SEED = int(os.environ.get("ADDERKIT_TEST_SEED", random.SystemRandom().randrange(10**6)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Digests of an uninterrupted run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADDERKIT_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("OMP_NUM_THREADS", "1")
        start_server()
    folder = tmp_path_factory.mktemp("whole")
    finish(Forked, folder)
    return digests(folder)


def test_killed_runs_end_with_the_bits_of_an_uninterrupted_one(whole, tmp_path):
    print(f"ADDERKIT_TEST_SEED={SEED}")
    draw = random.Random(SEED)
    hits = 0
    for run in range(4 * KILLS):
        folder = tmp_path / str(run)
        fault = random_fault(draw, signal.SIGKILL, start=0.5)
        code = hit(Forked, folder, fault)
        print(fault, "->", code)
        assert code in (-signal.SIGKILL, None)
        hits += code is not None
        finish(Forked, folder)
        assert digests(folder) == whole
        if hits == KILLS:
            return
    raise AssertionError(f"only {hits} of {4 * KILLS} signals met a running process")
