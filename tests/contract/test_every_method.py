"""What every registered method must do, whoever wrote it."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

from adderkit import models
from adderkit.data import load
from adderkit.distill import TeacherNeed, method_names, method_type
from adderkit.train import Interrupted, config_type
from adderkit.train.loop import Trainer

CPU = torch.device("cpu")


def make_trainer(name, folder, display):
    epochs = {"snapshot": 8, "pkkd": 8}.get(name, 3)  # 4 cycles of 2; 2 with L_mid
    config = config_type()(method=name, epochs=epochs, batch_size=32, data={"train_rows": "0:128", "test_rows": "0:64"})
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


def hook_count(module):
    return sum(
        len(hooks)
        for part in module.modules()
        for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
    )


@pytest.mark.parametrize("name", method_names())
def test_loss_falls_and_nothing_is_left_on_the_nets(name, tmp_path, display):
    trainer = make_trainer(name, tmp_path / "run", display)
    keys = set(trainer.student.network.state_dict())
    rows = [row for row in trainer.fit().of("student") if "train_loss" in row]
    first = [row["train_loss"] for row in rows if row["phase"] == rows[0]["phase"]]  # others may have other terms
    assert len(first) > 1 and first[-1] < first[0]
    for net in trainer.nets:
        assert hook_count(net.network) == 0
    assert set(trainer.student.network.state_dict()) == keys


@pytest.mark.parametrize("name", method_names())
def test_gradients_reach_the_student_only(name, tmp_path, stop_after, monkeypatch):
    """The method gets a teacher that no gradient can reach, and a student that gradients reach everywhere."""
    stopping = stop_after(1)
    trainer = make_trainer(name, tmp_path / "run", stopping)
    alone = itertools.takewhile(lambda phase: not phase.trains_student, trainer.schedule.phases)
    stopping.stop_after += sum(phase.epochs for phase in alone) * 4  # steps of an epoch
    batches = []
    losses = trainer.method.losses
    monkeypatch.setattr(trainer.method, "losses", lambda batch: batches.append(batch) or losses(batch))
    before = {} if trainer.teacher is None else copy.deepcopy(trainer.teacher.network.state_dict())
    with pytest.raises(Interrupted):
        trainer.fit()
    (batch,) = batches
    assert all(parameter.grad is not None for parameter in trainer.student.network.parameters())
    if batch.teacher is not None:
        assert not any(output.requires_grad for output in (batch.teacher.logits, *batch.teacher.taps.values()))
    if trainer.method.teacher_need is TeacherNeed.FIXED:
        for key, value in trainer.teacher.network.state_dict().items():
            assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", method_names())
def test_state_resumes_to_the_same_weights(name, tmp_path, display, stop_after):
    whole = make_trainer(name, tmp_path / "whole", display)
    whole.fit()
    with pytest.raises(Interrupted):
        make_trainer(name, tmp_path / "parts", stop_after(6)).fit()
    resumed = make_trainer(name, tmp_path / "parts", display)
    resumed.load()
    assert (resumed.epoch, resumed.step) == (1, 2)
    resumed.fit()
    for part, expected in ((resumed.student.network, whole.student.network), (resumed.method, whole.method)):
        for key, value in part.state_dict().items():
            assert torch.equal(value, expected.state_dict()[key]), key


@pytest.mark.parametrize("name", method_names())
def test_optimiser_holds_the_student_and_what_the_method_trains(name, tmp_path, display):
    """Each parameter once: what a method forgets to declare would never be trained."""
    trainer = make_trainer(name, tmp_path / "run", display)
    trained = [id(parameter) for group in trainer.student.optimizer.param_groups for parameter in group["params"]]
    own = {id(parameter) for parameter in trainer.method.parameters() if parameter.requires_grad}
    assert set(trained) == own | {id(parameter) for parameter in trainer.student.network.parameters()}
    assert len(trained) == len(set(trained))
