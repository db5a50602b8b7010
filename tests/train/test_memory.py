"""500 steps take no more memory than 100."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from adderkit import train
from adderkit.train.config import config_type
from adderkit.train.display import SilentDisplay

STATM = Path("/proc/self/statm")
GROWTH = 4e6  # bytes: 10 kB a step, of a process of 450 MB. Measured over 700 steps: 0.1 MB


def held():
    """Tensors alive and their bytes, Python objects that the garbage collector tracks, resident bytes."""
    gc.collect()
    objects = gc.get_objects()
    tensors = [each for each in objects if issubclass(type(each), torch.Tensor)]
    resident = int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return len(tensors), sum(each.numel() * each.element_size() for each in tensors), len(objects), resident


class Measured(SilentDisplay):
    """Measures at two steps; at the same step of an epoch, so that all counts may be the same."""

    def __init__(self):
        self.steps = 0
        self.found = []

    def step(self, *arguments):
        self.steps += 1
        if self.steps in (105, 505):
            self.found.append(held())


def main(folder):
    """PKKD with both nets together, their evaluations and a hundred or so checkpoints on the way."""
    data = {"name": "digits", "train_rows": "0:80", "test_rows": "0:20"}
    saving = {"checkpoint_minutes": 0.005, "pkkd": {"progressive": True, "head_start": 0}}
    config = config_type()(data=data, batch_size=8, epochs=51, device="cpu", **saving)
    display = Measured()
    train.train(config, Path(folder), display=display)
    print(json.dumps(display.found))


@pytest.mark.skipif(not STATM.exists(), reason="needs /proc")
def test_memory_does_not_grow(tmp_path):
    """In a process of its own: pytest keeps what torch logs once other tests have compiled something."""
    command = [sys.executable, __file__, str(tmp_path / "run")]
    process = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert process.returncode == 0, process.stderr
    tensors, size, objects, resident = zip(*json.loads(process.stdout.splitlines()[-1]), strict=True)
    assert tensors[0] == tensors[1] > 100
    assert size[0] == size[1]
    assert objects[1] - objects[0] < 400  # rows of metrics stay: 2 an epoch of 10 steps
    assert resident[1] - resident[0] < GROWTH


if __name__ == "__main__":
    main(sys.argv[1])
