"""One run from configuration to summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from adderkit import models, ops
from adderkit.data import ImageData, load
from adderkit.distill import method_type
from adderkit.nn import warn_unnormalised
from adderkit.train import environment
from adderkit.train.config import BaseConfig
from adderkit.train.display import Display, make_display
from adderkit.train.folder import check_new, check_same_run, locked
from adderkit.train.loop import STATE_FILE, Trainer
from adderkit.train.record import read_summary, write_summary
from adderkit.train.teacher import teacher_for


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
        Interrupted: Ctrl-C; the run can go on.
    """
    display = display or make_display()
    if not resume:
        check_new(out)
    with locked(out):
        if resume:
            summary = _finished(config, out)
            if summary is not None:
                display.note(f"{out} is finished already")
                return summary
        return _train(config, out, display)


def _finished(config: BaseConfig, out: Path) -> dict[str, Any] | None:
    summary = read_summary(out)
    if summary is not None:
        check_same_run(out, config)
    return summary


def _train(config: BaseConfig, out: Path, display: Display) -> dict[str, Any]:
    device = environment.pick_device(config.device)
    data = load(config.data, device)
    data.train.steps(config.batch_size)  # refuses a batch larger than the set before anything is written
    method = method_type(config.method)(config.method_options())

    def train_first(teacher_config: BaseConfig, folder: Path) -> None:
        if read_summary(folder) is None:
            display.note(f"the fixed teacher is trained first, in {folder}")
        train(teacher_config, folder, resume=True, display=display)

    teacher = teacher_for(method.teacher_need, config, data, train_first)
    torch.manual_seed(config.seed)
    student = models.create(config.student, config.layer, num_classes=len(data.classes), in_channels=data.channels)
    check_same_run(out, config)
    for network in (student, teacher):
        if network is not None:
            network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    warn_unnormalised(student, next(iter(data.test.batches(1, seed=None)))[0])
    torch.manual_seed(config.seed)  # the method's own initial values do not depend on the nets'
    trainer = Trainer(config, data, student, teacher, method, out, display, device)
    if (out / STATE_FILE).exists():
        trainer.load()
        display.note(f"going on after epoch {trainer.epoch}, step {trainer.step}")
    trainer.fit()
    summary = _summary(config, data, trainer, device)
    write_summary(out, summary)
    return summary


def _summary(config: BaseConfig, data: ImageData, trainer: Trainer, device: torch.device) -> dict[str, Any]:
    rows = trainer.record.of("student")
    best = max(rows, key=lambda row: row["test_top1"])
    teacher_rows = trainer.record.of("teacher")
    return {
        "method": config.method,
        "dataset": data.name,
        "student": config.student,
        "teacher": (teacher_rows and trainer.teacher and trainer.teacher.network.name) or None,
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
        "kernels": next((backend.name for backend in ops.backends() if backend.active), None),
        "versions": environment.versions(),
        "commit": environment.commit(),
    }
