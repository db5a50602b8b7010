"""No step reads a value on the host or moves a number to the device: either would make the host wait for a GPU.

Seen without a GPU: on the meta device, where a second device shows, and on the CPU, where `torch.tensor` does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adderkit import models
from adderkit.data import augment
from adderkit.distill import Batch, TeacherNeed, method_names, method_type
from adderkit.train import config_type
from adderkit.train.distributed import ALONE
from adderkit.train.net import Net
from adderkit.train.step import Step

DEVICES = [torch.device("cpu"), torch.device("meta")]
# Reads of a value; `lift_fresh` ends `torch.tensor(...)`, whose values come from the host.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "aten.equal", "lift_fresh")
OPTIONS = {"fsp": {"progressive": True, "first_phase": 0.5}, "pkkd": {"progressive": True, "head_start": 0.5}}


class Waits(TorchDispatchMode):
    """Lists operations of `WAITS`, and those with tensors on two devices."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        is_masked = "aten.index" in str(func) and any(tensor.dtype == torch.bool for tensor in inputs[1:])
        if is_masked or any(name in str(func) for name in WAITS):
            self.found.append(str(func))
        result = func(*args, **(kwargs or {}))
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if len({tensor.device for tensor in (*inputs, *outputs)}) > 1:
            self.found.append(str(func))
        return result


def waits(work: Callable[[], Any]) -> tuple[list[str], int]:
    with Waits() as seen:
        work()
    return seen.found, seen.operations


@pytest.mark.parametrize(
    ("device", "work"),
    [
        ("cpu", lambda x: x + torch.tensor([1.0])),
        ("cpu", lambda x: x * x.new_tensor(2.0)),
        ("cpu", lambda x: x.sum().item()),
        ("cpu", lambda x: x[x > 0]),
        ("meta", lambda x: x * torch.ones(())),
    ],
)
def test_waits_are_seen(device, work):
    assert len(waits(lambda: work(torch.zeros(3, device=device)))[0]) == 1


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("name", method_names())
def test_no_step_of_a_method_waits(name, device, monkeypatch):
    # Which rate a step takes is the fused SGD's own affair on a GPU; the others read it.
    monkeypatch.setattr(sys.modules[torch.optim.SGD.__module__], "sgd", lambda *arguments, **options: None)
    config = config_type()(method=name, **({name: OPTIONS[name]} if name in OPTIONS else {}))
    method = method_type(name)(config.method_options())
    student = Net("student", models.create("resnet8", "adder", in_channels=3).to(device), config)
    teacher = None
    if method.teacher_need is not TeacherNeed.NONE:
        teacher = Net("teacher", models.create("resnet8", "conv", in_channels=3).to(device), config)
    pairs = method.tap_pairs(student.network, teacher.network if teacher else None)
    student.tap(pairs.student)
    images, labels = torch.zeros(8, 3, 8, 8, device=device), torch.zeros(8, dtype=torch.int64, device=device)
    phases = method.phases(8)
    with torch.no_grad():
        if teacher is not None:
            teacher.tap(pairs.teacher)
        taught = teacher.forward(images) if teacher else None
        method.setup(student.network, Batch(images, labels, student.forward(images), taught, phases[0]))
    method.to(device)
    student.optimise(method.parameter_groups(), is_ahead=True)
    if teacher is not None and method.teacher_need is TeacherNeed.PROGRESSIVE:
        teacher.optimise([], is_ahead=True)
    step = Step(student, teacher, method, 1, ALONE)
    for phase in phases[:3]:
        for net in step.trained(phase):
            net.set_rate(0.5)
        found, operations = waits(lambda phase=phase: step.whole([(images, labels)], phase))
        assert found == [] and operations > 100


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_no_batch_waits(device):
    images = torch.zeros(8, 3, 32, 32, dtype=torch.uint8, device=device)
    choices = torch.zeros(3, 8, dtype=torch.int64, device=device)
    augment.normalise(images, (0.5,) * 3, (0.5,) * 3)  # the first one brings scale and shift
    found, operations = waits(
        lambda: augment.normalise(augment.crop_flip(images, choices, 4), (0.5,) * 3, (0.5,) * 3),
    )
    assert found == [] and operations > 5
