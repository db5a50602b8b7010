"""Adder students that begin with their twin's weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_run import assert_same, check_goes_on, weights

from adderkit import models, train
from adderkit.data import Split, load
from adderkit.nn import start_from_twin
from adderkit.train import loop
from adderkit.train.config import BaseConfig, config_type
from adderkit.train.teacher import cached_folder, teacher_config


def make_config(**values: Any) -> BaseConfig:
    data = {"name": "digits", "train_rows": "0:128", "test_rows": "0:50"}
    base = {"epochs": 2, "batch_size": 32, "device": "cpu", "data": data, "start": "teacher"}
    return config_type()(**{**base, **values})


REFUSED = {
    "no teacher": ({"method": "none"}, "`start` \\(=teacher\\): the method has no teacher; it must be own"),
    "conv": ({"method": "kd", "layer": "conv"}, "`start` \\(=teacher\\): the student has no adder layers"),
    "deeper": (
        {"method": "kd", "teacher": "resnet20", "student": "resnet8"},
        "`start` \\(=teacher\\): the teacher is not the student's twin: `layer1.1.conv1.weight` is .*, missing here",
    ),
    "another family": (
        {"method": "kd", "teacher": "resnet20", "student": "vgg_small"},
        "`start` \\(=teacher\\): the teacher is not the student's twin: its `.*` is not the convolution of that layer",
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
        train.train(
            make_config(epochs=4, pkkd={"progressive": True, "head_start": share}),
            tmp_path / str(share),
            display=display,
        )
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
    config = make_config(epochs=3, pkkd={"progressive": True, "head_start": 0.67})
    check_goes_on(config, tmp_path, display, stop_after(steps))


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


def test_a_broken_first_image_leaves_the_student_as_it_was(tmp_path, display, monkeypatch):
    """Its weights lie beside figures of its random ones; the run goes on from there to the same end."""
    config = make_config(epochs=2, pkkd={"progressive": True, "head_start": 0.5})
    train.train(config, tmp_path / "whole", display=display)
    original = Split.batches

    def breaking(self, *arguments, **options):
        if options.get("epoch") == 1 and options.get("seed") is not None:
            raise OSError("a broken image")
        return original(self, *arguments, **options)

    def lazily(self, *arguments, **options):
        yield from breaking(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Split, "batches", lazily)
        with pytest.raises(OSError, match="a broken image"):
            train.train(config, tmp_path / "parts", display=display)
    torch.manual_seed(config.seed)
    assert_same(weights(tmp_path / "parts"), models.create("resnet8", num_classes=10, in_channels=1).state_dict())
    train.train(config, tmp_path / "parts", resume=True, display=display)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
