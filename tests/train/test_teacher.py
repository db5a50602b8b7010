"""Teachers: beside the student, of a finished run, trained first and kept for the next run."""

from __future__ import annotations

import os
import re
import shutil
from typing import Any

import pytest
from test_run import assert_same, weights

from adderkit import train
from adderkit.distill import method_type
from adderkit.train.config import BaseConfig, config_type
from adderkit.train.teacher import SHARED


def make_config(**values: Any) -> BaseConfig:
    data = {"name": "digits", "train_rows": "0:128", "test_rows": "0:100"}
    fixed = {"student": "resnet8", "epochs": 2, "batch_size": 32, "device": "cpu", "data": data}
    return config_type()(**fixed | values)


def test_ctrl_c_while_the_teacher_trains_goes_on(tmp_path, display, stop_after):
    config = make_config(method="kd")
    with pytest.raises(train.Interrupted):
        train.train(config, tmp_path / "run", display=stop_after(5))
    assert train.load_recipe(tmp_path / "run" / "config.yaml") == config
    train.train(config, tmp_path / "run", resume=True, display=display)
    assert display.steps == 3 + 8  # what the teacher had left, then the student
    train.train(config, tmp_path / "whole", display=display)  # with the same teacher from the cache
    assert_same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_messages_about_the_fixed_teacher_name_it(tmp_path, display, stop_after, monkeypatch, home):
    config = make_config(method="kd")
    with pytest.raises(train.Interrupted) as stopped:
        train.train(config, tmp_path / "run", display=stop_after(5))
    (folder,) = (home / "teachers").iterdir()
    assert str(stopped.value) == f"in epoch 2, step 1 of the fixed teacher (in {folder})"
    cls = method_type("none")
    original = cls.losses
    monkeypatch.setattr(cls, "losses", lambda self, batch: {"ce": original(self, batch)["ce"] * float("nan")})
    with pytest.raises(train.Diverged) as diverged:
        train.train(config, tmp_path / "run", resume=True, display=display)
    assert f"going on after epoch 1, step 1 of the fixed teacher (in {folder})" in display.notes
    where = rf"the fixed teacher's loss term `ce` is nan in epoch 2, step 2 \(in {folder}\); the last good .* {folder}/"
    assert re.match(where, str(diverged.value))


def test_teachers_of_other_rows_are_others(tmp_path, display, home):
    for name, rows in (("a", "0:100"), ("b", "100:200")):
        data = {"name": "digits", "train_rows": "0:128", "test_rows": rows}
        train.train(make_config(method="kd", data=data, epochs=1), tmp_path / name, display=display)
    assert len(list((home / "teachers").iterdir())) == 2


def test_fixed_teacher_is_not_trained_for_a_refused_student(tmp_path, display, home):
    config = make_config(pkkd={"progressive": False, "taps": ["layer9"]})
    with pytest.raises(ValueError, match="tap `layer9` is no module"):
        train.train(config, tmp_path / "run", display=display)
    assert display.steps == 0
    assert not (home / "teachers").exists()


def test_adder_network_is_no_teacher(tmp_path, display):
    train.train(make_config(method="none", epochs=1), tmp_path / "adder", display=display)
    with pytest.raises(ValueError, match="holds an adder network; a teacher is convolutional"):
        train.train(make_config(method="kd", teacher_run=tmp_path / "adder"), tmp_path / "run", display=display)
    with pytest.raises(ValueError, match=r"`teacher` \(=resnet20\): `none` has no teacher"):
        train.train(make_config(method="none", teacher="resnet20"), tmp_path / "run", display=display)


def test_fixed_teacher_is_trained_once_and_reused(tmp_path, display, home):
    first = train.train(make_config(method="kd"), tmp_path / "a", display=display)
    assert any("trained first" in note for note in display.notes)
    display.notes.clear()
    second = train.train(make_config(method="kd", kd={"temperature": 2.0}), tmp_path / "b", display=display)
    assert not any("trained first" in note for note in display.notes)
    assert first["teacher_final_top1"] == second["teacher_final_top1"]
    assert len([path for path in (home / "teachers").iterdir() if (path / "summary.json").exists()]) == 1
    train.train(make_config(method="kd", seed=5), tmp_path / "c", display=display)
    assert any("trained first" in note for note in display.notes)


def test_teacher_from_a_finished_run(tmp_path, display, home):
    teacher = train.train(make_config(method="none", layer="conv"), tmp_path / "teacher", display=display)
    config = make_config(method="pkkd", pkkd={"progressive": False}, teacher_run=tmp_path / "teacher")
    summary = train.train(config, tmp_path / "student", display=display)
    assert summary["teacher_final_top1"] == teacher["final_top1"]
    assert_same(weights(tmp_path / "teacher"), weights(tmp_path / "student", "teacher"))
    assert not (home / "teachers").exists()


def test_teacher_run_that_can_not_serve(tmp_path, display):
    with pytest.raises(ValueError, match="holds no finished run"):
        train.train(make_config(method="kd", teacher_run=tmp_path / "no"), tmp_path / "a", display=display)
    with pytest.raises(ValueError, match="has no fixed teacher, but one trained beside the student"):
        config = make_config(method="pkkd", pkkd={"progressive": True}, teacher_run=tmp_path / "no")
        train.train(config, tmp_path / "b", display=display)


@pytest.mark.parametrize("head_start", [0, 0.5])
def test_a_progressive_teacher_is_trained_as_if_alone(head_start, tmp_path, display):
    """By its own cross entropy and nothing else: bit for bit the CNN of a run without a student."""
    train.train(make_config(method="none", layer="conv"), tmp_path / "alone", display=display)
    options = {"progressive": True, "head_start": head_start, "alpha": 1, "mid_share": 1}
    train.train(make_config(method="pkkd", pkkd=options), tmp_path / "beside", display=display)
    assert_same(weights(tmp_path / "alone"), weights(tmp_path / "beside", "teacher"))


def test_a_run_goes_on_without_the_cache_of_teachers(tmp_path, display, stop_after, home):
    """Its checkpoint holds the teacher: none is trained again."""
    config = make_config(method="kd")
    train.train(config, tmp_path / "whole", display=display)
    with pytest.raises(train.Interrupted):
        train.train(config, tmp_path / "parts", display=stop_after(5))
    shutil.rmtree(home / "teachers")
    display.notes.clear()
    train.train(config, tmp_path / "parts", resume=True, display=display)
    assert display.notes == ["going on after epoch 1, step 1"] and not (home / "teachers").exists()
    for name in ("last", "teacher"):
        assert_same(weights(tmp_path / "whole", name), weights(tmp_path / "parts", name))


def test_the_folder_of_a_teacher_may_move(tmp_path, display, stop_after):
    """A run goes on with the same weights from elsewhere, not with others."""
    for name, seed in (("teacher", 0), ("other", 1)):
        train.train(make_config(method="none", layer="conv", seed=seed), tmp_path / name, display=display)
    config = make_config(method="kd", teacher_run=tmp_path / "teacher")
    train.train(config, tmp_path / "whole", display=display)
    with pytest.raises(train.Interrupted):
        train.train(config, tmp_path / "parts", display=stop_after(5))
    os.rename(tmp_path / "teacher", tmp_path / "moved")
    with pytest.raises(ValueError, match=r"`teacher_run` \(=.*teacher\) holds no finished run"):
        train.train(config, tmp_path / "parts", resume=True, display=display)
    other = make_config(method="kd", teacher_run=tmp_path / "other")
    for name in ("parts", "whole"):  # the one under way, the finished one
        with pytest.raises(ValueError, match=r"holds another run: `teacher_run` is '.*teacher' there and '.*other' "):
            train.train(other, tmp_path / name, resume=True, display=display)
        moved = make_config(method="kd", teacher_run=tmp_path / "moved")
        train.train(moved, tmp_path / name, resume=True, display=display)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_a_cnn_of_a_table_is_the_fixed_teacher(tmp_path, display, stop_after, home, monkeypatch):
    """Trained once, whichever comes first, to the bits of a run of its own; told otherwise, it is such a run."""
    cnn = make_config(method="none", layer="conv", eta=0.1)  # eta is of adder layers
    alone = train.train(cnn, tmp_path / "alone", display=display)
    assert not (home / "teachers").exists()
    monkeypatch.setenv(SHARED, "1")
    with pytest.raises(train.Interrupted):
        train.train(cnn, tmp_path / "cnn", display=stop_after(5))
    assert sorted(path.name for path in (tmp_path / "cnn").iterdir()) == [".lock", "config.yaml"]
    display.steps = 0
    shared = train.train(cnn, tmp_path / "cnn", resume=True, display=display)
    assert display.steps == 3
    train.train(make_config(method="kd"), tmp_path / "taught", display=display)
    assert display.steps == 3 + 8  # the student's
    assert_same(weights(tmp_path / "alone"), weights(tmp_path / "cnn"))
    assert_same(weights(tmp_path / "cnn"), weights(tmp_path / "taught", "teacher"))
    again = train.train(cnn, tmp_path / "cnn", resume=True, display=display)
    assert again == shared and shared | {"seconds": 0} == alone | {"seconds": 0}
    files = {name: {path.name for path in (tmp_path / name).iterdir()} for name in ("alone", "cnn")}
    assert files["alone"] - files["cnn"] == {"checkpoints"}
    # tested in other epochs, the teacher's metrics are not this run's
    rare = train.train(make_config(method="none", layer="conv", test_every=2), tmp_path / "rare", display=display)
    assert display.steps == 3 + 8 + 8 and rare["final_top1"] == alone["final_top1"]
