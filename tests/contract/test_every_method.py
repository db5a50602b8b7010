"""What every registered method must do, whoever wrote it."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

from adderkit import models
from adderkit.data import load
from adderkit.distill import TeacherNeed, method_type
from adderkit.train import Interrupted, config_type
from adderkit.train.loop import Trainer
from courses import COURSES

CPU = torch.device("cpu")
STEPS = 4  # of an epoch


def make_trainer(course, folder, display):
    name, options, epochs = COURSES[course]
    data = {"train_rows": "0:128", "test_rows": "0:64"}
    config = config_type()(method=name, epochs=epochs, batch_size=32, data=data, **({name: options} if options else {}))
    data = load(config.data, CPU)
    method = method_type(name)(config.method_options())
    nets = []
    for layer in ("adder", "conv"):
        torch.manual_seed(0)
        nets.append(models.create("resnet8", layer, in_channels=1))
    student, teacher = nets
    folder.mkdir(exist_ok=True)
    has_teacher = method.teacher_need is not TeacherNeed.NONE
    return Trainer(config, data, student, teacher if has_teacher else None, method, folder, display, CPU)


def taught(trainer):
    """The phases that train the student, each with the number of the step that it begins with."""
    starts = itertools.accumulate((phase.epochs * STEPS for phase in trainer.schedule.phases), initial=0)
    return [
        (phase, start) for phase, start in zip(trainer.schedule.phases, starts, strict=False) if phase.trains_student
    ]


def hook_count(module):
    return sum(
        len(hooks)
        for part in module.modules()
        for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
    )


@pytest.mark.parametrize("course", COURSES)
def test_loss_falls_and_nothing_is_left_on_the_nets(course, tmp_path, display):
    trainer = make_trainer(course, tmp_path / "run", display)
    keys = set(trainer.student.network.state_dict())
    rows = [row for row in trainer.fit().of("student") if "train_loss" in row]
    for phase, _ in taught(trainer):  # they may have other terms
        losses = [row["train_loss"] for row in rows if row["phase"] == phase.name]
        assert len(losses) == phase.epochs > 1 and losses[-1] < losses[0], phase.name
    for net in trainer.nets:
        assert hook_count(net.network) == 0
    assert set(trainer.student.network.state_dict()) == keys


@pytest.mark.parametrize("course", COURSES)
def test_gradients_reach_the_student_only(course, tmp_path, stop_after, monkeypatch, display):
    """In each phase the method gets a teacher that none can reach, and a student that they reach everywhere.

    FSP's matrices alone do not reach the classifier and the normalisation behind it.
    """
    for number, (phase, start) in enumerate(taught(make_trainer(course, tmp_path / "none", display))):
        trainer = make_trainer(course, tmp_path / f"run-{number}", stop_after(start + 1))
        batches = []
        losses = trainer.method.losses
        monkeypatch.setattr(
            trainer.method, "losses", lambda batch, of=losses, to=batches: to.append(batch) or of(batch)
        )
        before = {} if trainer.teacher is None else copy.deepcopy(trainer.teacher.network.state_dict())
        with pytest.raises(Interrupted):
            trainer.fit()
        batch = batches[-1]
        assert batch.phase == phase and (batch.teacher is None) == (trainer.teacher is None or not phase.reads_teacher)
        unreached = {key for key, parameter in trainer.student.network.named_parameters() if parameter.grad is None}
        assert unreached == ({"fc.weight", "bn2.weight", "bn2.bias"} if phase.name == "flow" else set())
        if batch.teacher is not None:
            assert not any(output.requires_grad for output in (batch.teacher.logits, *batch.teacher.taps.values()))
        if trainer.method.teacher_need is TeacherNeed.FIXED:
            for key, value in trainer.teacher.network.state_dict().items():
                assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("course", COURSES)
def test_state_resumes_to_the_same_weights(course, tmp_path, display, stop_after):
    """Stopped within each phase, for each may have a state of its own: a snapshot, running statistics."""
    whole = make_trainer(course, tmp_path / "whole", display)
    whole.fit()
    for number, (_, start) in enumerate(taught(whole)):
        folder = tmp_path / f"parts-{number}"
        with pytest.raises(Interrupted):
            make_trainer(course, folder, stop_after(start + 6)).fit()
        resumed = make_trainer(course, folder, display)
        resumed.load()
        assert (resumed.epoch, resumed.step) == divmod(start + 6, STEPS)
        resumed.fit()
        for part, expected in ((resumed.student.network, whole.student.network), (resumed.method, whole.method)):
            for key, value in part.state_dict().items():
                assert torch.equal(value, expected.state_dict()[key]), (number, key)


@pytest.mark.parametrize("course", COURSES)
def test_optimiser_holds_the_student_and_what_the_method_trains(course, tmp_path, display):
    """Each parameter once: what a method forgets to declare would never be trained."""
    trainer = make_trainer(course, tmp_path / "run", display)
    trained = [id(parameter) for group in trainer.student.optimizer.param_groups for parameter in group["params"]]
    own = {id(parameter) for parameter in trainer.method.parameters() if parameter.requires_grad}
    assert set(trained) == own | {id(parameter) for parameter in trainer.student.network.parameters()}
    assert len(trained) == len(set(trained))
