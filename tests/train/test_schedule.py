"""The rate over phases, against the cosine written out."""

from __future__ import annotations

from math import cos, pi

import pytest

from adderkit.distill import Phase
from adderkit.train.schedule import Schedule


def cosine(part: float) -> float:
    return (1 + cos(pi * part)) / 2


@pytest.mark.parametrize("time", [0.0, 0.25, 3.0, 9.99])
def test_one_phase_is_one_cosine(time):
    schedule = Schedule((Phase("train", 10),))
    assert schedule.student_factor(time) == pytest.approx(cosine(time / 10))
    assert schedule.teacher_factor(time) == pytest.approx(cosine(time / 10))


def test_cycles_restart_the_students_rate_only():
    schedule = Schedule(tuple(Phase(f"cycle {i}", 5, restarts_rate=True) for i in range(4)))
    assert schedule.student_factor(5.0) == 1.0
    assert schedule.student_factor(12.5) == pytest.approx(cosine(0.5))
    assert schedule.teacher_factor(12.5) == pytest.approx(cosine(12.5 / 20))


def test_head_start_of_the_teacher():
    schedule = Schedule((Phase("teacher", 4, trains_student=False), Phase("both", 12)))
    assert schedule.student_factor(2.0) == 0.0
    assert schedule.student_factor(4.0) == 1.0
    assert schedule.student_factor(10.0) == pytest.approx(cosine(0.5))
    assert schedule.teacher_factor(10.0) == pytest.approx(cosine(10 / 16))


def test_epochs_find_their_phase():
    schedule = Schedule((Phase("a", 2), Phase("b", 3)))
    assert schedule.epochs == 5
    assert [schedule.phase(epoch).name for epoch in range(5)] == ["a", "a", "b", "b", "b"]
    assert [schedule.ends_phase(epoch) for epoch in range(5)] == [False, True, False, False, True]
    with pytest.raises(ValueError, match="`epoch` \\(=5\\) must be < 5"):
        schedule.phase(5)


def test_the_students_first_epoch_is_found():
    ahead = Schedule((Phase("teacher", 2, trains_student=False), Phase("both", 2), Phase("student", 1)))
    assert [ahead.begins_student(epoch) for epoch in range(5)] == [False, False, True, False, False]
    cycles = Schedule(tuple(Phase(f"cycle {i}", 2, restarts_rate=True) for i in range(2)))
    assert [cycles.begins_student(epoch) for epoch in range(4)] == [True, False, False, False]
    assert not Schedule((Phase("teacher", 1, trains_student=False),)).begins_student(0)
