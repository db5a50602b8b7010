"""A few hundred of the fuzzer's inputs; `python tests/fuzz/fuzz.py` runs as many as one likes."""

from __future__ import annotations

import pytest
import targets

import fuzz
from adderkit import native

SEED = 0


@pytest.mark.parametrize("kind", sorted(targets.TARGETS))
@pytest.mark.filterwarnings("ignore")
def test_spoilt_inputs_are_read_or_refused(kind):
    if kind == "integers" and native.library() is None:
        pytest.skip(f"no native library: {native.reason()}")
    with fuzz.limits():
        found, faults, _ = fuzz.fuzz(kind, SEED, range(12 if kind == "resumed" else 60))  # 0.3 s each
    assert not faults, f"again by: python tests/fuzz/fuzz.py --kind {kind} --seed {SEED} --only {min(faults.values())}"
    assert found["refused"] >= 5


def test_inputs_depend_on_their_number_alone(tmp_path):
    seeds, _ = targets.TARGETS["recipes"](tmp_path)
    once, again = ([fuzz.made("recipes", 3, number, seeds) for number in range(20)] for _ in range(2))
    assert once == again
    assert len(set(once)) == 20


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "accepted"),
        (ValueError("no"), "refused"),
        (ValueError(), "without a message"),
        (KeyError("x"), "KeyError"),
    ],
)
def test_outcomes(tmp_path, error, outcome):
    def target(folder, data):
        if error is not None:
            raise error

    assert outcome in fuzz.outcome(target, tmp_path, b"")


def test_a_hang_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 1)

    def target(folder, data):
        while True:
            pass

    with fuzz.limits():
        assert fuzz.outcome(target, tmp_path, b"") == "longer than 1 s"
