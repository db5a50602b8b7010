"""One run from configuration to summary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from adderkit import models, ops
from adderkit.data import ImageData, load
from adderkit.distill import TeacherNeed, method_type
from adderkit.nn import warn_unnormalised
from adderkit.train import environment
from adderkit.train.config import BaseConfig
from adderkit.train.display import Display, make_display
from adderkit.train.files import remove_temporary
from adderkit.train.folder import check_new, check_same_run, locked
from adderkit.train.interrupt import Interrupted, Stop
from adderkit.train.loop import Trainer
from adderkit.train.randomness import random_state, seed_all, set_random_state
from adderkit.train.record import read_summary, write_summary
from adderkit.train.teacher import cached_folder, new_teacher, teacher_config, teacher_from_run


def train(config: BaseConfig, out: Path, resume: bool = False, display: Display | None = None) -> dict[str, Any]:
    """Trains a configuration in a folder.

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
    """
    if not resume:
        check_new(out)
    stop = Stop()
    with stop.listening():
        try:
            return _train_in(out, config, display or make_display(), stop, None)
        except KeyboardInterrupt:
            if stop.number is None or stop.is_forced:
                raise
            raise Interrupted("while there was nothing to save", stop.number) from None


def _train_in(
    out: Path, config: BaseConfig, display: Display, stop: Stop, wait: Callable[[], None] | None
) -> dict[str, Any]:
    with locked(out, wait):
        summary = read_summary(out)
        if summary is not None:
            check_same_run(out, config)
            display.note(f"{out} is finished already")
            return summary
        device = environment.pick_device(config.device)
        data = load(config.data, device)
        trainer = _trainer(config, data, out, display, device)
        remove_temporary(out)
        trainer.checkpoints.clean()
        check_same_run(out, config)  # writes the configuration of a new run: all that can be refused is behind us
        if trainer.teacher is not None and _is_trained_first(config, trainer):
            before = random_state(device)
            trainer.teacher.network.load_state_dict(_trained_teacher(config, data, display, stop))
            set_random_state(before, device)  # trained now or found in the cache: the student sees the same numbers
        if trainer.load():
            display.note(f"going on after epoch {trainer.epoch}, step {trainer.step}")
        stop.check()
        trainer.fit(stop)
        summary = _summary(config, data, trainer, device)
        write_summary(out, summary)
        return summary


def _trainer(config: BaseConfig, data: ImageData, out: Path, display: Display, device: torch.device) -> Trainer:
    data.train.steps(config.batch_size)  # refuses a batch larger than the set
    method = method_type(config.method)(config.method_options())
    teacher = new_teacher(method.teacher_need, config, data)
    seed_all(config.seed)
    student = models.create(config.student, config.layer, len(data.classes), data.channels)
    for network in (student, teacher):
        if network is not None:
            network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    example = next(iter(data.test.batches(1, seed=None)))[0]
    try:
        warn_unnormalised(student, example)
    except RuntimeError as error:
        raise ValueError(
            f"`student` (={config.student}) does not take images of {data.height}x{data.width} pixels: {error}"
        ) from None
    seed_all(config.seed)  # the method's own initial values do not depend on the nets'
    return Trainer(config, data, student, teacher, method, out, display, device)


def _is_trained_first(config: BaseConfig, trainer: Trainer) -> bool:
    return trainer.method.teacher_need is TeacherNeed.FIXED and config.teacher_run is None


def _trained_teacher(config: BaseConfig, data: ImageData, display: Display, stop: Stop) -> dict[str, Any]:
    """Weights of the fixed teacher: from the cache, or trained into it now."""
    alone = teacher_config(config)
    folder = cached_folder(alone, data)
    if read_summary(folder) is None:
        display.note(f"the fixed teacher is trained first, in {folder}")
        wait = f"another process is training this teacher: waiting for it (the folder is {folder})"
        _train_in(folder, alone, display, stop, lambda: display.note(wait))
    return teacher_from_run(folder, config, data).state_dict()


def _summary(config: BaseConfig, data: ImageData, trainer: Trainer, device: torch.device) -> dict[str, Any]:
    rows = trainer.record.of("student")
    best = max(rows, key=lambda row: row["test_top1"])
    teacher_rows = trainer.record.of("teacher")
    kernels = next((backend.name for backend in ops.backends() if backend.active), None)
    return {
        "method": config.method,
        "dataset": data.name,
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
        "kernels": kernels if device.type == "cpu" else None,
        "versions": environment.versions(),
        "commit": environment.commit(),
    }
