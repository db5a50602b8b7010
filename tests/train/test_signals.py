"""Signals: the run stops between steps, says what to do, and goes on to the same end."""

from __future__ import annotations

import csv
import multiprocessing
import os
import random
import signal
import subprocess
import sys

import launching
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from adderkit import cli, train
from adderkit.data import stream
from adderkit.distill import method_type
from adderkit.train import distributed, loop, run
from adderkit.train.config import config_type
from adderkit.train.folder import in_use
from adderkit.train.interrupt import PARENT, Stop

OPTIONS = [
    "--data.train_rows",
    "0:128",
    "--data.test_rows",
    "0:100",
    "--batch_size",
    "32",
    "--epochs",
    "2",
    "--pkkd.progressive",
    "--pkkd.head_start",
    "0",
]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGUSR1: 75}


def make_config(**values):
    """8 steps, with both nets in each where nothing else is said."""
    data = {"name": "digits", "train_rows": "0:128", "test_rows": "0:100"}
    base = {"epochs": 2, "batch_size": 32, "device": "cpu", "data": data}
    return config_type()(**{**base, "pkkd": {"progressive": True, "head_start": 0}, **values})


def assert_same_end(first, second):
    for name in ("last", "teacher"):
        if not (first / f"{name}.safetensors").exists():
            continue
        one, other = (load_file(folder / f"{name}.safetensors") for folder in (first, second))
        assert one.keys() == other.keys()
        for key in one:
            assert torch.equal(one[key], other[key]), key


def metrics(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture
def signalling(display):
    """Makes a display that calls something after so many steps."""

    def make(step, act):
        def tell(*arguments):
            display.steps += 1
            if display.steps == step:
                act()

        display.step = tell
        return display

    return make


@pytest.mark.parametrize("number", CODES)
def test_signal_in_a_step_has_its_code_and_the_run_goes_on(number, signalling, tmp_path, monkeypatch, capsys):
    shown = signalling(3, lambda: signal.raise_signal(number))
    monkeypatch.setattr(run, "make_display", lambda: shown)
    before = [signal.getsignal(one) for one in CODES]
    assert cli.main(["train", "--out", str(tmp_path / "run"), *OPTIONS]) == CODES[number]
    errors = capsys.readouterr().err
    assert errors.startswith("stopped in epoch 1, step 3. To go on: adderkit train ")
    assert cli.main(errors.split("To go on: adderkit ")[1].split()) == 0
    assert shown.steps == 8  # none is done twice
    assert [signal.getsignal(one) for one in CODES] == before


@pytest.mark.parametrize("number", CODES)
def test_signal_while_images_load_leaves_nothing(number, tmp_path, monkeypatch, capsys):
    def load(*arguments):
        signal.raise_signal(number)
        raise AssertionError("it went on")

    monkeypatch.setattr(run, "load", load)
    assert cli.main(["train", "--out", str(tmp_path / "run"), *OPTIONS]) == CODES[number]
    errors = capsys.readouterr().err
    assert errors.startswith("stopped while there was nothing to save. To go on: adderkit train --out ")
    assert errors.endswith(" --resume\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("net", [1, 2])
def test_signal_in_an_evaluation_does_not_wait_for_its_end(net, tmp_path, display, monkeypatch):
    """Whatever the broken evaluation drew of random numbers is drawn again."""
    evaluate, calls = loop.evaluate, []

    def slow(*arguments):
        calls.append(1)
        torch.rand(3), np.random.rand(3), random.random()
        if len(calls) == net:
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("it went on")
        return evaluate(*arguments)

    method = method_type("pkkd")
    losses = method.losses
    monkeypatch.setattr(method, "losses", lambda self, batch: {**losses(self, batch), "noise": torch.rand(())})
    monkeypatch.setattr(loop, "evaluate", slow)
    with pytest.raises(train.Interrupted, match="in epoch 1, step 4"):
        train.train(make_config(), tmp_path / "parts", display=display)
    assert [path.name for path in (tmp_path / "parts" / "checkpoints").glob("*.pt")] == ["epoch-0000-step-000004.pt"]
    calls += [1, 1]
    train.train(make_config(), tmp_path / "parts", resume=True, display=display)
    assert display.steps == 8
    train.train(make_config(), tmp_path / "whole", display=display)
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_sigterm_while_the_fixed_teacher_trains(tmp_path, signalling):
    shown = signalling(5, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(train.Interrupted, match="in epoch 2, step 1"):
        train.train(make_config(method="kd"), tmp_path / "run", display=shown)
    train.train(make_config(method="kd"), tmp_path / "run", resume=True, display=shown)
    assert shown.steps == 8 + 8


def test_last_epoch_is_finished_where_nothing_is_left_to_train(tmp_path, display):
    display.epoch = lambda rows: signal.raise_signal(signal.SIGTERM) if rows[0]["epoch"] == 2 else None
    train.train(make_config(), tmp_path / "run", display=display)
    assert (tmp_path / "run" / "summary.json").exists()


def test_second_sigterm_waits_and_second_ctrl_c_breaks_in():
    stop = Stop()
    with stop.listening(), stop.deferred():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.number == signal.SIGTERM and not stop.is_forced
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.is_forced


class Draws:
    """Noise from all three generators in a method's loss."""

    def __init__(self, losses):
        self.losses = losses

    def __call__(self, batch):
        factor = 1 + 0.1 * (random.random() + float(np.random.rand()) + float(torch.rand(())))
        noise = random.gauss(0, 0.01) + float(np.random.normal(0, 0.01))  # each keeps every other value for later
        return {name: term * factor + noise for name, term in self.losses(batch).items()}


@pytest.fixture
def drawing(monkeypatch):
    """PKKD and KD with `Draws`."""
    for name in ("pkkd", "kd"):
        method = method_type(name)
        losses = method.losses
        monkeypatch.setattr(
            method, "losses", lambda self, batch, losses=losses: Draws(lambda b: losses(self, b))(batch)
        )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for index, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (48, 8, 8), dtype=np.uint8)):
        path = folder / ("train" if index < 32 else "test") / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.mark.parametrize("workers", [None, 0, 2])
def test_method_that_draws_random_numbers_goes_on_with_the_same(
    workers, drawing, pictures, tmp_path, display, stop_after
):
    """From images in memory, and from a loader, whose workers get seeds as it starts."""
    data = {"name": "imagefolder", "root": pictures}
    data |= {} if workers is None else {"memory_limit_mb": 0, "workers": workers}
    config = make_config(batch_size=8, data=data)
    train.train(config, tmp_path / "whole", display=display)
    random.seed(), np.random.seed(), torch.seed()
    with pytest.raises(train.Interrupted, match="in epoch 2, step 2"):
        train.train(config, tmp_path / "parts", display=stop_after(6))
    random.seed(), np.random.seed(), torch.seed()
    train.train(config, tmp_path / "parts", resume=True, display=display)
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


def test_random_numbers_do_not_depend_on_when_the_teacher_was_trained(drawing, tmp_path, display):
    train.train(make_config(method="kd", epochs=1), tmp_path / "trained", display=display)
    train.train(make_config(method="kd", epochs=1), tmp_path / "cached", display=display)
    assert_same_end(tmp_path / "trained", tmp_path / "cached")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_all_processes_leaves_the_workers_at_work(number, pictures, tmp_path, display, signalling):
    """As Ctrl-C in a terminal does, and systems that end a job: workers that died would break into a step."""

    def signal_all():
        workers = multiprocessing.active_children()
        assert len(workers) == 2
        for worker in workers:
            os.kill(worker.pid, number)
        signal.raise_signal(number)

    data = {"name": "imagefolder", "root": pictures, "memory_limit_mb": 0, "workers": 2}
    config = make_config(batch_size=4, data=data)
    shown = signalling(2, signal_all)
    with pytest.raises(train.Interrupted, match="in epoch 1, step 2"):
        train.train(config, tmp_path / "parts", display=shown)
    assert multiprocessing.active_children() == []
    train.train(config, tmp_path / "parts", resume=True, display=shown)
    train.train(config, tmp_path / "whole", display=shown)
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


# torch tells of a death by raising from a handler of signals: within a finaliser, Python prints that and goes on.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_killed_worker_has_its_message_and_the_run_goes_on(pictures, tmp_path, signalling, monkeypatch, capsys):
    """As the system does where memory runs out."""
    options = ["--data.name", "imagefolder", "--data.root", str(pictures), "--data.memory_limit_mb", "0"]
    options += ["--data.workers", "2", "--epochs", "2", "--batch_size", "4", "--device", "cpu", "--method", "none"]
    shown = signalling(9, lambda: os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL))
    monkeypatch.setattr(run, "make_display", lambda: shown)
    assert cli.main(["train", "--out", str(tmp_path / "run"), *options]) == cli.EXIT_LOST
    assert (tmp_path / "run" / "tensorboard").exists()  # it was the run's own
    errors = capsys.readouterr().err
    assert errors.startswith("adderkit train: a process that decodes images died (")
    assert "take fewer (`data.workers`)" in errors
    assert cli.main(errors.split("To go on: adderkit ")[1].split()) == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_worker_that_torch_leaves_behind_holds_nothing_up(pictures, tmp_path, signalling, monkeypatch):
    """Beside a killed one: it would hold the folder's lock, and the process would wait for it at its end."""

    def forget(iterator):
        """Ends torch's watch alone."""
        if iterator._worker_pids_set:
            iterator._worker_pids_set = False
            signal_handling._remove_worker_pids(id(iterator))

    def kill_one_and_leave_the_other():
        monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_shutdown_workers", forget)
        one, other = multiprocessing.active_children()
        left.append(other)
        os.kill(one.pid, signal.SIGKILL)

    left = []
    options = ["--data.name", "imagefolder", "--data.root", str(pictures), "--data.memory_limit_mb", "0"]
    options += ["--data.workers", "2", "--epochs", "2", "--batch_size", "4", "--device", "cpu", "--method", "none"]
    monkeypatch.setattr(run, "make_display", lambda: signalling(5, kill_one_and_leave_the_other))
    assert cli.main(["train", "--out", str(tmp_path / "run"), *options]) == cli.EXIT_LOST
    assert not left[0].is_alive() and not in_use(tmp_path / "run")


@pytest.mark.parametrize("error", [EOFError, ConnectionResetError])
def test_worker_that_dies_while_it_answers_is_lost_too(error, pictures, tmp_path, monkeypatch, capsys, display):
    """The queue then raises before torch's watch does, which may also never tell."""
    monkeypatch.setattr(stream, "_DEATH_IS_KNOWN_S", 0.01)
    options = ["--data.name", "imagefolder", "--data.root", str(pictures), "--data.memory_limit_mb", "0"]
    options += ["--data.workers", "2", "--epochs", "2", "--batch_size", "4", "--device", "cpu", "--method", "none"]
    monkeypatch.setattr(run, "make_display", lambda: display)
    get = _MultiProcessingDataLoaderIter._try_get_data
    calls = []

    def reset(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 9:
            raise error  # a new one: its traceback holds the loader
        return get(self, *arguments, **options)

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_try_get_data", reset)
    assert cli.main(["train", "--out", str(tmp_path / "run"), *options]) == cli.EXIT_LOST
    errors = capsys.readouterr().err
    assert "a process that decodes images died (DataLoader worker broke off its answer)" in errors
    assert cli.main(errors.split("To go on: adderkit ")[1].split()) == 0


def test_broken_answer_waits_for_torch_to_tell_of_the_death(pictures, tmp_path, monkeypatch, display):
    """What it tells would else come later, out of whatever runs then."""

    def break_off(*arguments):
        raise EOFError

    def tell(seconds):
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_try_get_data", break_off)
    monkeypatch.setattr(stream, "sleep", tell)
    data = {"name": "imagefolder", "root": pictures, "memory_limit_mb": 0, "workers": 2}
    with pytest.raises(distributed.LostWorker, match=r"\(pid 1\) is killed"):
        train.train(make_config(batch_size=4, data=data), tmp_path / "run", display=display)


def test_other_commands_tell_of_a_dead_worker(monkeypatch, capsys):
    def die(arguments):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setitem(cli._COMMANDS, "eval", die)
    assert cli.main(["eval", "run"]) == cli.EXIT_LOST
    assert capsys.readouterr().err.startswith(
        "adderkit eval: a process that decodes images died (DataLoader worker (pid 7)"
    )


def test_closed_pipe_of_a_display_is_no_lost_worker(tmp_path, display, monkeypatch):
    def start(*arguments):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(display, "start", start)
    with pytest.raises(BrokenPipeError):
        train.train(make_config(), tmp_path / "run", display=display)


def test_closed_pipe_does_not_end_a_training(tmp_path):
    """`adderkit train ... 2>&1 | head -1`."""
    command = [sys.executable, "-m", "adderkit", "train", "--out", str(tmp_path / "run"), *OPTIONS]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=launching.environment(tmp_path), text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline().startswith("pkkd: ")
        process.stdout.close()
        assert process.wait(launching.PATIENCE) == 0
    assert len(metrics(tmp_path / "run")) == 4


def test_orphan_of_torchrun_stops(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    other, parent = Stop(is_shared=True), os.getppid()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    stop = Stop(is_shared=True)
    assert stop.number is None
    monkeypatch.setattr(os, "getppid", lambda: parent + 1)
    assert stop.number == signal.SIGTERM and other.number is None


def test_a_training_ends_with_who_started_it(monkeypatch):
    """`adderkit table` names itself; one that is gone before the training looks is noticed too."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv(PARENT, str(os.getppid()))
    assert Stop().number is None
    monkeypatch.setenv(PARENT, str(os.getppid() + 1))
    assert Stop().number == signal.SIGTERM


def test_sigterm_by_which_torchrun_ends_the_others_does_not_cut_off_a_message():
    stop, received = Stop(is_shared=True), []
    before = signal.signal(signal.SIGTERM, lambda *arguments: received.append(1))
    try:
        with pytest.raises(RuntimeError), stop.listening():
            raise RuntimeError("connection lost")
        signal.raise_signal(signal.SIGTERM)
        assert not received
        signal.raise_signal(signal.SIGTERM)
        assert received
    finally:
        signal.signal(signal.SIGTERM, before)
