"""500 steps take no more memory than 100."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch

from adderkit import train
from adderkit.train.config import config_type

STATM = Path("/proc/self/statm")
GROWTH = 4e6  # bytes: 10 kB a step, of a process of 450 MB. Measured over 700 steps: 0.1 MB


def held():
    """Tensors alive and their bytes, Python objects that the garbage collector tracks, resident bytes."""
    gc.collect()
    objects = gc.get_objects()
    tensors = [each for each in objects if issubclass(type(each), torch.Tensor)]
    resident = int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return len(tensors), sum(each.numel() * each.element_size() for each in tensors), len(objects), resident


@pytest.mark.skipif(not STATM.exists(), reason="needs /proc")
def test_memory_does_not_grow(tmp_path, display):
    """PKKD with both nets, their evaluations and a hundred or so checkpoints on the way."""
    found = {}

    def step(*arguments):
        display.steps += 1
        if display.steps in (105, 505):  # at the same step of an epoch, so that all counts may be the same
            found[display.steps] = held()

    display.step = step
    data = {"name": "digits", "train_rows": "0:80", "test_rows": "0:20"}
    config = config_type()(data=data, batch_size=8, epochs=51, checkpoint_minutes=0.005, device="cpu")
    train.train(config, tmp_path / "run", display=display)
    tensors, size, objects, resident = zip(found[105], found[505], strict=True)
    assert tensors[0] == tensors[1] > 100
    assert size[0] == size[1]
    assert objects[1] - objects[0] < 400  # rows of metrics stay: 2 an epoch of 10 steps
    assert resident[1] - resident[0] < GROWTH
