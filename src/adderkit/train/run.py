"""One run from configuration to summary."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from adderkit import models, ops
from adderkit.data import ImageData, load
from adderkit.data.sift import describe
from adderkit.data.workers import death_of_a_worker, kill_all
from adderkit.distill import method_type
from adderkit.models import Network
from adderkit.nn import check_twin, warn_unnormalised
from adderkit.train import environment
from adderkit.train.config import BaseConfig
from adderkit.train.display import Display, SilentDisplay, make_display
from adderkit.train.distributed import LostWorker, Processes, joined
from adderkit.train.files import remove_temporary
from adderkit.train.folder import InUse, check_new, check_same_run, check_trainable, decisive, locked
from adderkit.train.interrupt import Interrupted, Stop
from adderkit.train.loop import Trainer
from adderkit.train.randomness import random_state, seed_all, set_random_state
from adderkit.train.record import SKIPPED_FILE, read_summary, write_skipped, write_summary
from adderkit.train.teacher import (
    SHARED,
    cached_folder,
    cached_teacher,
    is_teacher,
    is_tested_alike,
    new_teacher,
    take_over,
    teacher_config,
    trained_first,
)


def train(config: BaseConfig, out: Path, resume: bool = False, display: Display | None = None) -> dict[str, Any]:
    """Trains a configuration in a folder.

    Where torchrun started several processes, each calls this with the same arguments, and they train the run together:
    the first reads and writes the folder and alone shows anything, all return the summary.

    Args:
        config: of the run; `config_type()(...)` builds one.
        out: the run's folder, created where it is missing.
        resume: go on where `out` holds a run, start afresh where it holds none, do nothing where it is finished;
            without it, a folder that holds anything is refused.
        display: default: a live bar in a terminal, lines elsewhere.

    Returns:
        The summary, as it stands in `summary.json`.

    Raises:
        ValueError: anything about the configuration, the data or the folder that can't be.
        Diverged: a NaN or an infinity; the last checkpoint is untouched.
        WriteError: a full disk, say; the last checkpoint is untouched.
        Interrupted: by SIGINT (Ctrl-C), SIGTERM or SIGUSR1; the run can go on. Within the main thread, this function
            handles these signals until it returns.
        LostProcess: another process died, or (`LostWorker`) one that decodes images; the last checkpoint is untouched.
        Elsewhere: another process can't go on, and raises why.
    """
    with joined(config.device) as processes:
        with processes.agreed():
            if processes.is_first:
                check_trainable(out) if resume else check_new(out)
        return _listening(out, config, display or make_display(), processes)


def _listening(out: Path, config: BaseConfig, display: Display, processes: Processes) -> dict[str, Any]:
    stop = Stop(is_shared=processes.count > 1)
    with stop.listening():
        try:
            return _train_in(out, config, display if processes.is_first else SilentDisplay(), stop, processes, None)
        except RuntimeError as error:
            # torch raises it wherever the training stands, so the state may be half done
            death = death_of_a_worker(error)
            if death is None:
                raise
        except KeyboardInterrupt:
            if stop.number is None or stop.is_forced:
                raise
            raise Interrupted("while there was nothing to save", stop.number) from None
    # Only here, where nothing holds the failed training any longer: its other workers, which hold the folder's lock
    # too, are told to end.
    kill_all()
    raise LostWorker(death)


def _train_in(
    out: Path,
    config: BaseConfig,
    display: Display,
    stop: Stop,
    processes: Processes,
    wait: Callable[[], None] | None,
) -> dict[str, Any]:
    with ExitStack() as held:
        _hold(held, out, processes, stop, wait)
        summary = processes.from_first(lambda: _finished(out, config))
        if summary is not None:
            display.note(f"{out} is finished already")
            return summary
        with processes.agreed():
            device = environment.pick_device(config.device)
        data = processes.in_turn(lambda: load(config.data, device))
        if processes.count > 1:
            processes.together(data.facts)  # decodes the test images of a streamed set, which may take long
        with processes.agreed():
            trainer = _trainer(config, data, out, display, device, processes)
        trainer.is_fixed_teacher = wait is not None
        _open(out, config, data, trainer, processes)
        if data.skipped:
            display.note(describe(data.skipped) + f"; all are in {out / SKIPPED_FILE}")
        alone = teacher_config(config) if _is_shared(config, wait) else trained_first(config)
        if trainer.load():  # with the teacher that the checkpoint holds, wherever it came from
            display.note(f"going on after epoch {trainer.epoch}, step {trainer.step}{trainer.whose}")
        elif alone is not None and trainer.teacher is not None:
            before = random_state(device)
            weights = _trained_teacher(alone, config, data, display, stop, processes)
            trainer.teacher.network.load_state_dict(weights)
            set_random_state(before, device)  # trained now or found in the cache: the student sees the same numbers
        elif alone is not None and is_tested_alike(shared := cached_folder(alone, data), config):
            _trained_teacher(alone, config, data, display, stop, processes)
            display.note(f"taken from the fixed teacher that is trained in {shared}")
            return processes.from_first(lambda: take_over(shared, out))
        stop.check()
        trainer.fit(stop)
        return processes.from_first(lambda: _finish(out, _summary(config, data, trainer, device)))


def _is_shared(config: BaseConfig, wait: Callable[[], None] | None) -> bool:
    """Whether a run of a table is to be the training of a fixed teacher, rather than the same once more."""
    return wait is None and bool(os.environ.get(SHARED)) and is_teacher(config)


def _finish(out: Path, summary: dict[str, Any]) -> dict[str, Any]:
    write_summary(out, summary)
    return summary


def _hold(held: ExitStack, out: Path, processes: Processes, stop: Stop, wait: Callable[[], None] | None) -> None:
    """Lets the first process hold the folder's lock.

    Others that hold it are asked every second: several processes can't wait for the first for longer than they wait
    for an answer.
    """
    while True:
        is_held = 0
        with processes.agreed():
            if processes.is_first:
                try:
                    held.enter_context(locked(out))
                except InUse:
                    if wait is None:
                        raise
                    is_held = 1
        if processes.largest(is_held) == [0]:
            return
        if wait is not None:
            wait()
            wait = _patiently
        stop.check()
        time.sleep(1)


def _patiently() -> None: ...


def _finished(out: Path, config: BaseConfig) -> dict[str, Any] | None:
    summary = read_summary(out)
    if summary is not None:
        check_same_run(out, config)
    return summary


def _open(out: Path, config: BaseConfig, data: ImageData, trainer: Trainer, processes: Processes) -> None:
    """Writes the configuration of a new run: all that can be refused is behind us."""
    facts = data.facts()
    options, images = processes.from_first(lambda: (decisive(config), facts))
    with processes.agreed():
        if decisive(config) != options:
            raise ValueError(f"process {processes.rank} was started with other options than process 0")
        for key, value in facts.items():
            if value != images.get(key):
                raise ValueError(
                    f"process {processes.rank} found other images than process 0: their {key} is {value!s:.200}, there"
                    f" {images.get(key)!s:.200}; every process must find the same files"
                )
        if processes.is_first:
            remove_temporary(out)
            trainer.checkpoints.clean()
            check_same_run(out, config)
            trainer.checkpoints.check_there()
            if data.skipped:
                write_skipped(out, data.skipped)


def _trainer(
    config: BaseConfig, data: ImageData, out: Path, display: Display, device: torch.device, processes: Processes
) -> Trainer:
    if len(data.train) < 2:
        raise ValueError(f"{data.name}: one training image, but BatchNorm needs at least 2 in a batch")
    if len(data.classes) < 2:
        raise ValueError(f"{data.name}: one class ({', '.join(data.classes)}), but a classifier needs at least 2")
    data.train.steps(config.batch_size)  # refuses a batch larger than the set
    _check_share(config, processes)
    method = method_type(config.method)(config.method_options())
    teacher = new_teacher(method.teacher_need, config, data)
    seed_all(config.seed)
    student = models.create(config.student, config.layer, len(data.classes), data.channels)
    if config.start == "teacher":
        _check_start(student, teacher)
    for network in (student, teacher):
        if network is not None:
            network.to(device=device, memory_format=_layout(network, device))  # type: ignore[call-overload]
    example = next(iter(data.test.batches(1, seed=None)))[0]
    try:
        warn_unnormalised(student, example)
    except RuntimeError as error:
        raise ValueError(
            f"`student` (={config.student}) does not take images of {data.height}x{data.width} pixels: {error}"
        ) from None
    data.facts()  # decodes the test images of a streamed set: a broken one is found before anything is written
    seed_all(config.seed)  # the method's own initial values do not depend on the nets'
    return Trainer(config, data, student, teacher, method, out, display, device, processes)


def _check_start(student: Network, teacher: Network | None) -> None:
    if teacher is None:
        raise ValueError("`start` (=teacher): the method has no teacher; it must be own")
    try:
        check_twin(student, teacher)
    except ValueError as error:
        raise ValueError(f"`start` (=teacher): {error}; it must be own") from None


def _layout(network: Network, device: torch.device) -> torch.memory_format:
    """Of the filters, which decides that of the activations.

    The adder kernels of a GPU read along pixels, one sector of memory for a warp where these lie side by side. The
    convolutions of cuDNN and the kernels of the CPU are fastest in channels_last.
    """
    is_adder = network.layer == "adder" and device.type == "cuda"
    return torch.contiguous_format if is_adder else torch.channels_last


def _check_share(config: BaseConfig, processes: Processes) -> None:
    share = processes.share(config.accumulate)
    rows = share.rows(config.batch_size)[0]
    if rows.stop - rows.start < 2:
        raise ValueError(
            f"`batch_size` (={config.batch_size}) must be at least {2 * share.processes * share.parts}: BatchNorm needs"
            f" 2 images in each of {share.parts} parts (`accumulate`) for each of {share.processes} processes"
        )


def _trained_teacher(
    alone: BaseConfig, config: BaseConfig, data: ImageData, display: Display, stop: Stop, processes: Processes
) -> dict[str, Any]:
    """Weights of the fixed teacher, whose configuration is `alone`: from the cache, or trained into it now."""
    folder = cached_folder(alone, data)

    def cached() -> dict[str, Any] | None:
        teacher = cached_teacher(folder, config, data)
        return None if teacher is None else teacher.state_dict()

    weights = processes.from_first(cached)
    if weights is None:
        display.note(f"the fixed teacher is trained first, in {folder}")
        wait = f"another process is training this teacher: waiting for it (the folder is {folder})"
        _train_in(folder, alone, display, stop, processes, lambda: display.note(wait))
        weights = processes.from_first(cached)
    return weights or {}


def _summary(config: BaseConfig, data: ImageData, trainer: Trainer, device: torch.device) -> dict[str, Any]:
    rows = trainer.record.tested("student")
    best = max(rows, key=lambda row: row["test_top1"])
    teacher_rows = trainer.record.tested("teacher")
    return {
        "method": config.method,
        "dataset": data.name,
        "images": {
            "train": len(data.train),
            "test": len(data.test),
            "classes": len(data.classes),
            "digest": data.digest(),
        },
        "student": config.student,
        "teacher": trainer.teacher.network.name if trainer.teacher else None,
        "layer": config.layer,
        "seed": config.seed,
        "epochs": config.epochs,
        "final_top1": rows[-1]["test_top1"],
        "best_top1": best["test_top1"],
        "best_epoch": best["epoch"],
        "final_top5": rows[-1]["test_top5"],
        "teacher_final_top1": teacher_rows[-1]["test_top1"] if teacher_rows else None,
        "teacher_best_top1": max((row["test_top1"] for row in teacher_rows), default=None),
        "seconds": round(trainer.seconds, 2),
        "device": environment.device_name(device),
        "processes": trainer.processes.count,
        "kernels": ops.serving(device),
        "versions": environment.versions(),
        "skipped_images": len(data.skipped),
        "commit": environment.commit(),
    }
