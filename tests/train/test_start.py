"""Adder students that begin with their twin's weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_run import assert_same, metrics, weights

from adderkit import models, train
from adderkit.data import load
from adderkit.nn import Adder2d
from adderkit.train import loop
from adderkit.train.config import BaseConfig, config_type
from adderkit.train.start import check_twin, start_from_twin
from adderkit.train.teacher import cached_folder, teacher_config


def make_config(**values: Any) -> BaseConfig:
    data = {"name": "digits", "train_rows": "0:128", "test_rows": "0:50"}
    base = {"epochs": 2, "batch_size": 32, "device": "cpu", "data": data, "start": "teacher"}
    return config_type()(**{**base, **values})


@pytest.mark.parametrize("name", ["resnet8", "vgg_small", "resnet18", "resnet50"])
def test_filters_are_the_twins_standardised_and_the_rest_is_as_it_is(name):
    torch.manual_seed(1)
    teacher = models.create(name, "conv", 10)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.normal_(0.3, 0.02)
    student = models.create(name, "adder", 10)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    check_twin(student, teacher)
    start_from_twin(student, teacher)
    twins = teacher.state_dict()
    adders = {f"{path}.weight" for path, module in student.named_modules() if isinstance(module, Adder2d)}
    assert len(adders) > 3
    copied = {key for key, _ in student.named_parameters()} & twins.keys()
    for key, value in student.state_dict().items():
        if key in adders:
            filters = twins[key].double().numpy()
            expected = (filters - np.mean(filters)) / np.sqrt(np.mean((filters - np.mean(filters)) ** 2))
            np.testing.assert_allclose(value.numpy(), expected, atol=2e-5)
        elif key in copied:
            assert torch.equal(value, twins[key]), key
        else:  # running statistics, and a normalisation that the adder network has alone
            assert torch.equal(value, before[key]), key


def test_all_alike_filters_become_zero():
    student, teacher = (models.create("resnet8", layer, 10) for layer in ("adder", "conv"))
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.fill_(0.5)
    start_from_twin(student, teacher)
    layer = next(module for module in student.modules() if isinstance(module, Adder2d))
    assert torch.equal(layer.weight, torch.zeros_like(layer.weight))


REFUSED = {
    "no teacher": ({"method": "none"}, "`start` \\(=teacher\\): the method has no teacher; it must be own"),
    "conv": ({"method": "kd", "layer": "conv"}, "`start` \\(=teacher\\) is for adder students"),
    "other depth": (
        {"method": "kd", "teacher": "resnet20", "student": "vgg_small"},
        "`start` \\(=teacher\\): the teacher must be the student's twin, but has no convolution `",
    ),
    "unknown": ({"start": "twin"}, "start"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_written(tmp_path, display, case):
    values, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        train.train(make_config(**values), tmp_path / "run", display=display)
    assert not (tmp_path / "run").exists()


class Seen:
    """Records what a student was started from."""

    def __init__(self, monkeypatch) -> None:
        self.teachers: list[dict[str, torch.Tensor]] = []
        monkeypatch.setattr(loop, "start_from_twin", self)

    def __call__(self, student: torch.nn.Module, teacher: torch.nn.Module) -> None:
        self.teachers.append({key: value.clone() for key, value in teacher.state_dict().items()})
        start_from_twin(student, teacher)


def test_of_a_fixed_teacher_the_trained_weights(tmp_path, display, monkeypatch):
    seen = Seen(monkeypatch)
    train.train(make_config(method="kd"), tmp_path / "run", display=display)
    (teacher,) = seen.teachers
    assert_same(teacher, weights(tmp_path / "run", "teacher"))


def test_of_a_teacher_ahead_the_weights_that_it_has_by_then(tmp_path, display, monkeypatch):
    """Two epochs of four steps, or all four epochs."""
    seen = Seen(monkeypatch)
    for share in (0.5, 1.0):
        train.train(make_config(epochs=4, pkkd={"head_start": share}), tmp_path / str(share), display=display)
    half, whole = seen.teachers
    assert_same(whole, weights(tmp_path / "1.0", "teacher"))
    assert (half["bn1.num_batches_tracked"], whole["bn1.num_batches_tracked"]) == (8, 16)


def test_own_is_the_default(tmp_path, display, monkeypatch):
    seen = Seen(monkeypatch)
    train.train(make_config(method="kd", start=config_type()().start), tmp_path / "run", display=display)
    assert seen.teachers == []


@pytest.mark.parametrize("steps", [3, 8, 9, 11])
def test_goes_on_to_the_same_end(tmp_path, display, stop_after, steps):
    """Stopped while the teacher is alone (3), at the end of that (8), in the student's first epoch, and later."""
    config = make_config(epochs=3, pkkd={"head_start": 0.67})
    train.train(config, tmp_path / "whole", display=display)
    with pytest.raises(train.Interrupted):
        train.train(config, tmp_path / "parts", display=stop_after(steps))
    train.train(config, tmp_path / "parts", resume=True, display=display)
    for name in ("last", "teacher"):
        assert_same(weights(tmp_path / "whole", name), weights(tmp_path / "parts", name))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_runs_that_start_differently_share_a_teacher():
    folders = set()
    for start in ("own", "teacher"):
        config = teacher_config(make_config(method="kd", start=start))
        folders.add(cached_folder(config, load(config.data)))
    assert len(folders) == 1


def test_a_run_can_not_go_on_with_another_start(tmp_path, display, stop_after):
    with pytest.raises(train.Interrupted):
        train.train(make_config(), tmp_path / "run", display=stop_after(1))
    with pytest.raises(ValueError, match="start"):
        train.train(make_config(start="own"), tmp_path / "run", resume=True, display=display)
