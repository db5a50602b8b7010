"""Steps that run ahead of the host: on the CPU with a stand-in for CUDA graphs, against plain steps bit for bit."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_run import assert_same, metrics, weights

from adderkit import train
from adderkit.data.tensors import TensorSplit
from adderkit.distill import Batch, method_type
from adderkit.train import loop
from adderkit.train.ahead import BEHIND, is_ahead, recorder_for
from adderkit.train.checkpoint import load_state
from adderkit.train.config import BaseConfig, config_type
from adderkit.train.distributed import ALONE, Processes
from adderkit.train.graph import PLAIN_STEPS
from adderkit.train.graph_evaluation import PLAIN_BATCHES

STEPS = 4  # in an epoch


class StandIn:
    """Captures as CUDA graphs do, without doing anything; a replay then runs the captured function."""

    def __init__(
        self, fails: Exception | None = None, waits: str | None = None, waits_in_tests: str | None = None
    ) -> None:
        self.fails, self.waits, self.waits_in_tests = fails, waits, waits_in_tests
        self.captured = self.replayed = self.watched_steps = 0  # of steps
        self.tested = {"watched": 0, "captured": 0, "replayed": 0}  # test batches: nothing else has no gradients
        self.is_running = False

    @contextmanager
    def running(self) -> Iterator[None]:
        self.is_running = True
        yield
        self.is_running = False

    def watched(self, work: Callable[[], Any]) -> tuple[Any, str | None]:
        assert self.is_running
        if not torch.is_grad_enabled():
            self.tested["watched"] += 1
            return work(), self.waits_in_tests
        self.watched_steps += 1
        return work(), self.waits

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        assert self.is_running
        is_step = torch.is_grad_enabled()
        self.captured += is_step
        self.tested["captured"] += not is_step
        if self.fails is not None:
            raise self.fails

        def replay() -> None:
            self.replayed += is_step
            self.tested["replayed"] += not is_step
            work()

        return replay


@pytest.fixture
def ahead(monkeypatch) -> Callable[..., StandIn]:
    """From its call on, trainings run ahead of the CPU, with the kind of stand-in that is given."""

    def begin(kind: type[StandIn] = StandIn, **arguments: Any) -> StandIn:
        stand_in = kind(**arguments)
        monkeypatch.setattr(loop, "is_ahead", lambda device, processes: processes.count == 1)
        monkeypatch.setattr(loop, "recorder_for", lambda device: stand_in)
        return stand_in

    return begin


def make_config(**values: Any) -> BaseConfig:
    """PKKD in one phase, all its terms, and with parameters of its own, where `values` do not say otherwise."""
    data = {"name": "digits", "train_rows": "0:128", "test_rows": "0:50"}
    if values.get("method", "pkkd") == "pkkd":
        whole = {"progressive": True, "head_start": 0, "rho": "student", "alpha": 1, "mid_share": 1}
        values["pkkd"] = {**whole, **values.get("pkkd", {})}
    return config_type()(**{"epochs": 2, "batch_size": 32, "device": "cpu", "data": data, **values})


def plain_and_ahead(tmp_path, display, ahead, config: BaseConfig, **arguments: Any) -> StandIn:
    train.train(config, tmp_path / "plain", display=display)
    stand_in = ahead(**arguments)
    train.train(config, tmp_path / "ahead", display=display)
    same_runs(tmp_path)
    return stand_in


def same_runs(tmp_path, names: tuple[str, str] = ("plain", "ahead")) -> None:
    one, other = (tmp_path / name for name in names)
    assert_same(weights(one), weights(other))
    if (one / "teacher.safetensors").exists():
        assert_same(weights(one, "teacher"), weights(other, "teacher"))
    assert metrics(one) == metrics(other)


CASES = {
    "none": {"method": "none"},
    "cnn": {"method": "none", "layer": "conv", "momentum": 0.0},
    "pkkd": {"method": "pkkd"},
    "parts": {"method": "pkkd", "accumulate": 2, "epochs": 1},
    "kd": {"method": "kd", "teacher_autocast": True},
    "no graph": {"method": "pkkd", "epochs": 1, "cuda_graph": False},
}


@pytest.mark.parametrize("case", CASES)
def test_equals_plain_steps_to_the_last_bit(tmp_path, display, ahead, case):
    config = make_config(**CASES[case])
    stand_in = plain_and_ahead(tmp_path, display, ahead, config)
    steps = STEPS * config.epochs
    assert stand_in.replayed == (steps - PLAIN_STEPS if config.cuda_graph else 0)
    assert not [note for note in display.notes if "CUDA graph" in note]


TESTS = {"name": "digits", "train_rows": "0:128", "test_rows": "0:300"}  # batches of 256 and of 44


def test_test_batches_are_captured_for_each_net(tmp_path, display, ahead):
    """The second one is watched, the third of that size captured; smaller ones are plain."""
    stand_in = plain_and_ahead(tmp_path, display, ahead, make_config(epochs=4, data=TESTS))
    assert stand_in.tested == {"watched": 2, "captured": 2, "replayed": 2 * (4 - PLAIN_BATCHES)}
    assert not [note for note in display.notes if "CUDA graph" in note]


def test_test_batches_are_captured_anew_in_every_phase(tmp_path, display, ahead):
    config = make_config(pkkd={"progressive": True, "head_start": 0.5}, epochs=6, test_every=1, data=TESTS)
    stand_in = plain_and_ahead(tmp_path, display, ahead, config)
    # Phases of three epochs: the teacher alone (the student stands still, and is tested once), both, the student.
    assert stand_in.tested == {"watched": 1 + 2 + 1, "captured": 1 + 2 + 1, "replayed": 1 + 2 + 1}


def test_a_fixed_teacher_is_tested_once_and_never_captured(tmp_path, display, ahead, monkeypatch):
    monkeypatch.setattr(TensorSplit, "evaluated_at_once", 64)  # four whole batches and one of 44
    stand_in = plain_and_ahead(tmp_path, display, ahead, make_config(method="kd", epochs=2, data=TESTS))
    assert stand_in.tested == {"watched": 1, "captured": 1, "replayed": 2 * 4 - PLAIN_BATCHES}


def test_without_a_graph_test_batches_are_plain(tmp_path, display, ahead):
    stand_in = plain_and_ahead(tmp_path, display, ahead, make_config(cuda_graph=False, data=TESTS))
    assert not any(stand_in.tested.values())


def test_test_batches_that_a_replay_would_freeze_stay_plain(tmp_path, display, ahead):
    config = make_config(epochs=3, data=TESTS)
    stand_in = plain_and_ahead(tmp_path, display, ahead, config, waits_in_tests="a line waits")
    assert stand_in.tested == {"watched": 1, "captured": 0, "replayed": 0}
    assert stand_in.replayed > 0  # of steps, which is another matter
    notes = [note for note in display.notes if "CUDA graph" in note]
    assert notes == ["test batches are not replayed as a CUDA graph: a line waits"]


class FailsInTests(StandIn):
    """Test batches can't be captured."""

    def capture(self, work):
        if torch.is_grad_enabled():
            return super().capture(work)
        raise RuntimeError("not while testing")


def test_a_capture_of_test_batches_that_fails_has_the_steps_captured_anew(tmp_path, display, ahead):
    """It detaches other graphs from the generator of random numbers."""
    config = make_config(method="none", epochs=5, data=TESTS)
    stand_in = plain_and_ahead(tmp_path, display, ahead, config, kind=FailsInTests)
    assert stand_in.captured == 2
    assert stand_in.replayed == 5 * STEPS - 2 * PLAIN_STEPS
    notes = [note for note in display.notes if "CUDA graph" in note]
    assert notes == ["test batches are not replayed as a CUDA graph: RuntimeError: not while testing"]


class Signalled(StandIn):
    """A signal comes while test batches are captured."""

    is_whole = False

    def capture(self, work):
        if not torch.is_grad_enabled():
            signal.raise_signal(signal.SIGTERM)
            self.is_whole = True
        return super().capture(work)


def test_a_signal_waits_for_the_end_of_a_capture(tmp_path, display, ahead):
    config = make_config(method="none", epochs=4, data=TESTS)
    train.train(config, tmp_path / "plain", display=display)
    stand_in = ahead(Signalled)
    with pytest.raises(train.Interrupted):
        train.train(config, tmp_path / "ahead", display=display)
    assert stand_in.is_whole and stand_in.tested["captured"] == 1 and stand_in.tested["replayed"] == 0
    ahead()
    train.train(config, tmp_path / "ahead", resume=True, display=display)
    same_runs(tmp_path)


PHASES = {
    "fsp": {"method": "fsp", "fsp": {"progressive": True, "first_phase": 0.5}, "epochs": 4},
    "snapshot": {"method": "snapshot", "snapshot": {"cycles": 2}, "epochs": 4},
    "share": {"method": "sp", "sp": {"share": 0.5}, "epochs": 4},
    "early end": {"method": "pkkd", "pkkd": {"progressive": False, "alpha": 0, "mid_share": 0.5}, "epochs": 4},
    "head start": {"method": "pkkd", "pkkd": {"progressive": True, "head_start": 0.5}, "epochs": 4},
}


@pytest.mark.parametrize("case", PHASES)
def test_every_phase_is_captured_anew(tmp_path, display, ahead, case):
    """Other terms, other nets, parameters that no loss has reached before, a snapshot that was renewed."""
    stand_in = plain_and_ahead(tmp_path, display, ahead, make_config(**PHASES[case]))
    rows = {row["phase"] for row in metrics(tmp_path / "ahead")}
    assert stand_in.captured == stand_in.watched_steps == len(rows) > 1


@pytest.mark.parametrize("steps", [1, 6])
def test_interrupted_run_goes_on_to_the_same_end(tmp_path, display, stop_after, ahead, steps):
    """Whatever is on its way when a signal comes is read and saved; what goes on is captured anew."""
    config = make_config(epochs=3)
    train.train(config, tmp_path / "plain", display=display)
    stand_in = ahead()
    stopping = stop_after(steps)
    with pytest.raises(train.Interrupted):
        train.train(config, tmp_path / "ahead", display=stopping)
    assert steps <= stopping.steps <= steps + BEHIND
    seen = display.steps
    train.train(config, tmp_path / "ahead", resume=True, display=display)
    assert display.steps - seen + stopping.steps == STEPS * 3
    same_runs(tmp_path)
    assert stand_in.captured >= 1


@pytest.mark.parametrize("first", ["plain", "ahead"])
def test_checkpoints_of_one_kind_are_read_by_the_other(tmp_path, display, stop_after, ahead, monkeypatch, first):
    config = make_config(epochs=3)
    train.train(config, tmp_path / "whole", display=display)
    for kind in (first, "plain" if first == "ahead" else "ahead"):
        with monkeypatch.context() as patched:
            if kind == "ahead":
                ahead()
            else:
                patched.setattr(loop, "is_ahead", lambda *_: False)
            if kind == first:
                with pytest.raises(train.Interrupted):
                    train.train(config, tmp_path / "parts", display=stop_after(6))
                (path, *_) = sorted((tmp_path / "parts" / "checkpoints").glob("*.pt"), reverse=True)
                for net in load_state(path)["nets"].values():
                    for group in net["optimizer"]["param_groups"]:
                        assert type(group["lr"]) is float and group["fused"] is None
            else:
                train.train(config, tmp_path / "parts", resume=True, display=display)
    same_runs(tmp_path, ("whole", "parts"))


def poison(monkeypatch, call: int) -> None:
    cls, calls = method_type("pkkd"), []
    original = cls.losses

    def poisoned(self, batch):
        terms = original(self, batch)
        calls.append(1)
        return {**terms, "mid": terms["mid"] * float("nan")} if len(calls) == call else terms

    monkeypatch.setattr(cls, "losses", poisoned)


def test_nan_is_named_although_it_is_read_late(tmp_path, display, ahead, monkeypatch):
    """In the third epoch; the checkpoint of the second survives, and the run goes on from it."""
    config = make_config(epochs=3)
    train.train(config, tmp_path / "plain", display=display)
    stand_in = ahead()
    with monkeypatch.context() as patched:
        poison(patched, 10)
        message = r"student's loss term `mid` is nan in epoch 3, step 2; .*epoch-0002-step-000000\.pt"
        with pytest.raises(train.Diverged, match=message):
            train.train(config, tmp_path / "ahead", display=display)
    assert stand_in.replayed == 3 * STEPS - PLAIN_STEPS  # to the end of its epoch, where all are read
    assert len(metrics(tmp_path / "ahead")) == 2 * 2
    train.train(config, tmp_path / "ahead", resume=True, display=display)
    same_runs(tmp_path)


def test_nan_is_found_before_a_signal_saves_it(tmp_path, display, stop_after, ahead, monkeypatch):
    ahead()
    poison(monkeypatch, 2)
    with pytest.raises(train.Diverged, match="`mid` is nan in epoch 1, step 2; there was no checkpoint yet"):
        train.train(make_config(), tmp_path / "run", display=stop_after(1))


def test_a_capture_that_fails_leaves_the_training_as_it_was(tmp_path, display, ahead):
    config = make_config(epochs=3)
    stand_in = plain_and_ahead(tmp_path, display, ahead, config, fails=RuntimeError("not while capturing\nmore"))
    assert (stand_in.captured, stand_in.replayed) == (1, 0)
    notes = [note for note in display.notes if "CUDA graph" in note]
    why = "are not replayed as a CUDA graph: RuntimeError: not while capturing"
    assert notes == [f"steps {why}", f"test batches {why}"]


class HalfDone(StandIn):
    """Breaks off in the middle of a captured step, as a method that reads a value does."""

    def capture(self, work):
        if not torch.is_grad_enabled():
            return super().capture(work)
        self.captured += 1
        original = torch.Tensor.backward

        def breaking(*arguments):
            raise RuntimeError("operation not permitted when stream is capturing")

        torch.Tensor.backward = breaking
        try:
            work()
        finally:
            torch.Tensor.backward = original
        raise AssertionError("it should have broken off")


def test_a_step_that_breaks_off_under_capture(tmp_path, display, monkeypatch):
    """The training goes on plainly, from clean gradients and empty taps."""
    half_done = HalfDone()
    monkeypatch.setattr(loop, "is_ahead", lambda *_: True)
    monkeypatch.setattr(loop, "recorder_for", lambda device: half_done)
    train.train(make_config(), tmp_path / "run", display=display)
    assert half_done.captured == 1
    assert any("RuntimeError: operation not permitted" in note for note in display.notes)


OBSTACLES = {
    "a wait": ({"waits": "method.py, line 7, waits for the GPU"}, None, "method.py, line 7, waits for the GPU"),
    "draws": ({}, lambda self: random.random(), "it draws random numbers on the host"),
    "extra state": ({}, None, "the method's NoDistillation has state that is no tensor (`get_extra_state`)"),
}


@pytest.mark.parametrize("case", OBSTACLES)
def test_steps_that_a_replay_would_freeze_stay_plain(tmp_path, display, ahead, monkeypatch, case):
    arguments, act, why = OBSTACLES[case]
    cls = method_type("none")
    original = cls.losses

    def losses(self: Any, batch: Batch) -> dict[str, torch.Tensor]:
        if act is not None:
            act(self)
        return original(self, batch)

    monkeypatch.setattr(cls, "losses", losses)
    if case == "extra state":
        monkeypatch.setattr(cls, "get_extra_state", lambda self: {"step": 1}, raising=False)
        monkeypatch.setattr(cls, "set_extra_state", lambda self, state: None, raising=False)
    stand_in = plain_and_ahead(tmp_path, display, ahead, make_config(method="none", epochs=3), **arguments)
    assert (stand_in.watched_steps, stand_in.captured) == (1, 0)
    notes = [note for note in display.notes if "CUDA graph" in note]
    named = ["steps", "test batches"] if case == "extra state" else ["steps"]  # the others are of steps alone
    assert len(notes) == len(named)
    for what, note in zip(named, notes, strict=True):
        assert note.startswith(f"{what} are not replayed as a CUDA graph: {why}")


def test_dropout_on_the_cpu_draws_on_the_host(tmp_path, display, ahead):
    stand_in = plain_and_ahead(tmp_path, display, ahead, make_config(method="dropout", epochs=1))
    assert stand_in.captured == 0


def test_bfloat16_reaches_the_teachers_steps_alone(tmp_path, display, monkeypatch):
    """Methods see float32 values that bfloat16 can hold; the student and every test compute in float32."""
    seen: list[Batch] = []
    cls = method_type("pkkd")
    original = cls.losses
    monkeypatch.setattr(cls, "losses", lambda self, batch: seen.append(batch) or original(self, batch))
    config = make_config(epochs=1, teacher_autocast=True)
    summary = train.train(config, tmp_path / "run", display=display)
    assert len(seen) == STEPS
    for batch in seen:
        outputs = [batch.taught.logits, *batch.taught.taps.values()]
        assert all(output.dtype == torch.float32 for output in outputs)
        assert all(torch.equal(output, output.bfloat16().float()) for output in outputs)
        assert not torch.equal(batch.student.logits, batch.student.logits.bfloat16().float())
    assert all(value.dtype != torch.bfloat16 for value in load_file(tmp_path / "run" / "teacher.safetensors").values())
    assert summary["teacher_final_top1"] > 0


def test_who_runs_ahead():
    assert is_ahead(torch.device("cuda", 1), ALONE)
    assert not is_ahead(torch.device("cuda", 1), Processes(0, 2))
    assert not is_ahead(torch.device("cpu"), ALONE)
    assert recorder_for(torch.device("cpu")) is None
