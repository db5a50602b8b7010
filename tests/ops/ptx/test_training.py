"""A training on the simulated GPU whose adder layers are the compiled kernels: all of it but torch's own kernels."""

from __future__ import annotations

from collections import Counter

import torch
from safetensors.torch import load_file

from adderkit import train
from adderkit.ops import gpu, two_dimensions
from simulated_cuda import simulated

STEPS = 5


def test_a_replayed_training_with_compiled_kernels(tmp_path, display, driver, monkeypatch):
    """Beside the same one with the processor's kernels: they sum in another order, so the bits are others."""
    config = train.config_type()(
        method="pkkd",
        pkkd={"progressive": True, "head_start": 0},
        device="cuda",
        batch_size=8,
        epochs=1,
        lr=0.01,
        data={"train_rows": f"0:{8 * STEPS}", "test_rows": "0:16"},
    )
    with simulated():
        train.train(config, tmp_path / "processor", display=display)
    assert driver.launches == []
    monkeypatch.setattr(two_dimensions, "_kernels", lambda input, output: gpu)
    with simulated() as simulation:
        train.train(config, tmp_path / "compiled", display=display)
        assert simulation.replays == STEPS - 3
    assert not [note for note in display.notes if "CUDA graph" in note]

    kernels = Counter(driver.launches)
    layers = 8  # of ResNet-8 are adder layers, and none of them reads the images themselves
    assert kernels["input_grad_kernel"] >= STEPS * layers and kernels["forward_kernel"] > kernels["input_grad_kernel"]
    ours, theirs = (load_file(tmp_path / name / "last.safetensors") for name in ("compiled", "processor"))
    for name, tensor in theirs.items():
        if name.endswith("weight"):
            assert (ours[name] - tensor).norm() < 1e-4 * tensor.norm(), name
        assert torch.isfinite(ours[name]).all(), name
