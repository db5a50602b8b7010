"""One step of training: which nets it runs."""

from __future__ import annotations

import pytest
import torch

from adderkit import models
from adderkit.distill import Batch, TeacherNeed, method_type
from adderkit.train.config import config_type
from adderkit.train.distributed import ALONE
from adderkit.train.net import Net
from adderkit.train.step import Step

# Forward passes of the teacher in each phase, which is a step here.
RUNS = {
    "pkkd, fixed": ("pkkd", {"progressive": False, "alpha": 0.0, "mid_share": 0.5}, [1, 0]),
    "pkkd, fixed, soft labels": ("pkkd", {"progressive": False, "alpha": 1.0, "mid_share": 0.5}, [1, 1]),
    # alone, together, together without L_mid (trained, not read), teacher done
    "pkkd, ahead": ("pkkd", {"progressive": True, "head_start": 0.5, "alpha": 0.0, "mid_share": 0.25}, [1, 1, 1, 0]),
    "fsp, two phases": ("fsp", {"first_phase": 0.5}, [1, 0]),
    "kd": ("kd", {}, [1]),
}


@pytest.mark.parametrize("case", RUNS)
def test_a_teacher_runs_where_it_is_trained_or_read(case):
    name, options, expected = RUNS[case]
    config = config_type()(method=name, **{name: options})
    method = method_type(name)(config.method_options())
    student = Net("student", models.create("resnet8", "adder", in_channels=3), config)
    teacher = Net("teacher", models.create("resnet8", "conv", in_channels=3), config)
    pairs = method.tap_pairs(student.network, teacher.network)
    student.tap(pairs.student)
    teacher.tap(pairs.teacher)
    images, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    phases = method.phases(8)
    with torch.no_grad():
        outputs = student.forward(images), teacher.forward(images)
        method.setup(student.network, Batch(images, labels, *outputs, phases[0]))
    student.optimise(method.parameter_groups())
    if method.teacher_need is TeacherNeed.PROGRESSIVE:
        teacher.optimise([])
    step = Step(student, teacher, method, 1, ALONE)
    runs = 0

    def count(*_: object) -> None:
        nonlocal runs
        runs += 1

    teacher.network.register_forward_hook(count)
    seen = []
    for phase in phases:
        runs = 0
        trained = {net.name for net, _, _ in step.gradients([(images, labels)], phase)}
        assert ("student" in trained) == phase.trains_student
        assert ("teacher" in trained) == (phase.trains_teacher and method.teacher_need is TeacherNeed.PROGRESSIVE)
        seen.append(runs)
    assert seen == expected


def test_a_group_of_the_method_has_its_own_share_of_the_rate():
    config = config_type()(lr=0.5, momentum=0, weight_decay=0)
    net = Net("student", models.create("resnet8", "conv", in_channels=3), config)
    slow, plain = torch.nn.Parameter(torch.tensor(1.0)), torch.nn.Parameter(torch.tensor(1.0))
    net.optimise([{"params": [slow], "lr_scale": 0.01}, {"params": [plain]}])
    weight = net.network.get_parameter("conv1.weight")
    before = weight.detach().clone()
    for parameter in (slow, plain, weight):
        parameter.grad = torch.ones_like(parameter)
    net.update(0.25)
    assert slow.item() == pytest.approx(1 - 0.5 * 0.25 * 0.01, rel=1e-6)
    assert plain.item() == pytest.approx(1 - 0.5 * 0.25, rel=1e-6)
    assert torch.allclose(weight, before - 0.5 * 0.25, atol=1e-6)
