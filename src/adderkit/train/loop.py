"""The training loop: one student, perhaps a teacher beside it, one method that says what the student minimises."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adderkit.data import ImageData
from adderkit.distill import Batch, Method, Phase, TapPairs, TeacherNeed
from adderkit.models import Network
from adderkit.nn import start_from_twin, synchronise
from adderkit.train.ahead import BEHIND, Ahead, is_ahead, recorder_for
from adderkit.train.checkpoint import Checkpoints
from adderkit.train.config import BaseConfig
from adderkit.train.display import Display
from adderkit.train.distributed import ALONE, Processes
from adderkit.train.environment import fingerprint
from adderkit.train.evaluate import Scores, evaluate, tally
from adderkit.train.interrupt import Interrupted, Stop
from adderkit.train.net import Meter, Net
from adderkit.train.randomness import random_state, set_random_state
from adderkit.train.record import Events, Record, Row, checked_rows
from adderkit.train.schedule import Schedule
from adderkit.train.step import Figures, Step
from adderkit.train.weights import NetworkInfo, save_network


class Diverged(Exception):
    """A loss, a score or a weight became NaN or infinite; the run's last checkpoint is untouched."""


class Trainer:
    """Trains a student by a method and keeps the run's folder.

    Args:
        config: of the run.
        data: the images, on `device`.
        student: on `device`.
        teacher: on `device`; None where `method` needs none. With a progressive method it is trained too; the weights
            of a fixed one may be loaded later, before `fit`.
        method: not yet set up.
        folder: of the run; exists.
        display: told of every step.
        device: where everything lies.
        processes: those that train together; each holds all of the above.
    """

    def __init__(
        self,
        config: BaseConfig,
        data: ImageData,
        student: Network,
        teacher: Network | None,
        method: Method,
        folder: Path,
        display: Display,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        self.config, self.data, self.method = config, data, method
        self.folder, self.display, self.device = folder, display, device
        self.processes, self._share = processes, processes.share(config.accumulate)
        self.schedule = Schedule(method.phases(config.epochs))
        self.steps = data.train.steps(config.batch_size)
        self.record = Record(folder)
        self.checkpoints = Checkpoints(folder, config.keep_checkpoints)
        self.epoch = self.step = 0  # the next step's epoch and index, both from 0
        self.seconds = 0.0  # of training and evaluation, over all sittings
        self.is_progressive = method.teacher_need is TeacherNeed.PROGRESSIVE
        self.is_fixed_teacher = False  # set where another run's fixed teacher is trained first: messages say so
        if processes.count > 1 and config.sync_batchnorm:
            for network in (student, teacher):
                if network is not None:
                    synchronise(network)
        self.student = Net("student", student, config)
        self.teacher = None if teacher is None else Net("teacher", teacher, config, config.teacher_autocast)
        self._is_ahead = is_ahead(device, processes)
        self._ahead: Ahead | None = None
        self._last_save, self._unsaved_epochs = time.monotonic(), 0
        self._hooks = self._set_up()

    def _set_up(self) -> list[Any]:
        pairs = self.method.tap_pairs(self.student.network, None if self.teacher is None else self.teacher.network)
        self._tap(pairs)
        batches = self.data.train.batches(self.config.batch_size, seed=self.config.seed, share=self._share)
        images, labels = next(iter(batches))
        with torch.no_grad(), _evaluating(self.student, self.teacher):
            teacher = None if self.teacher is None else self.teacher.forward(images)
            example = Batch(images, labels, self.student.forward(images), teacher, self.schedule.phases[0])
            hooks = self.method.setup(self.student.network, example)
        self.student.optimise(self.method.parameter_groups(), self._is_ahead)
        if self.teacher is not None and self.is_progressive:
            self.teacher.optimise([], self._is_ahead)
        elif self.teacher is not None:
            self.teacher.network.requires_grad_(False)
        return hooks

    def _tap(self, pairs: TapPairs) -> None:
        self.student.tap(pairs.student)
        if self.teacher is not None:
            self.teacher.tap(pairs.teacher)

    @property
    def nets(self) -> list[Net]:
        """The student, then the teacher where there is one."""
        return [self.student] if self.teacher is None else [self.student, self.teacher]

    def fit(self, stop: Stop | None = None) -> Record:
        """Trains to the end of the schedule, from wherever the state stands.

        Args:
            stop: knows of signals; default: one that listens until this returns.

        Returns:
            The record of all epochs.

        Raises:
            Diverged: a loss, a score or a weight is NaN or infinite.
            Interrupted: a signal asked to stop; the state of that very step is saved.
            WriteError: a file could not be written; the last checkpoint is untouched.
        """
        stop = stop or Stop()
        with stop.listening(), stop.deferred():
            try:
                self._write_results()  # whatever a crash left there, they are those of this state
                self._last_save = time.monotonic()
                step = Step(self.student, self.teacher, self.method, self.config.accumulate, self.processes)
                done = self.epoch * self.steps + self.step
                self.display.start(self._title(), self.schedule.epochs, self.steps, done)
                with self._events() as events, self._running(step, stop):
                    self._fit(stop, events, step)
            finally:
                self.close()
                self.display.stop()
        return self.record

    def _events(self) -> AbstractContextManager[Events | None]:
        return Events(self.folder, self.record.rows) if self.processes.is_first else nullcontext()

    def _running(self, step: Step, stop: Stop) -> AbstractContextManager[None]:
        if not self._is_ahead:
            if self.device.type == "cuda" and self.config.cuda_graph:
                self.display.note(f"steps are not replayed as a CUDA graph: {self.processes.count} processes train")
            return nullcontext()
        recorder = recorder_for(self.device) if self.config.cuda_graph else None
        self._ahead = Ahead(step, recorder, stop, self.display.note)
        return self._ahead.running()

    def _fit(self, stop: Stop, events: Events | None, step: Step) -> None:
        while self.epoch < self.schedule.epochs:
            self._train_epoch(stop, step)
            rows = self._finish_epoch(stop)
            if events is not None:
                events.add(rows)
            self.display.epoch(rows)
            (number,) = self.processes.largest(stop.number or 0)
            if number and self.epoch < self.schedule.epochs:
                if self._unsaved_epochs:
                    self._save_all()
                raise Interrupted(f"after epoch {self.epoch}{self.whose}", number)

    def close(self) -> None:
        """Takes everything off the nets that the training put on them."""
        self._ahead = None
        for net in self.nets:
            net.taps.close()
        for hook in self._hooks:
            hook.remove()

    def _title(self) -> str:
        config = self.config
        teacher = ""
        if self.teacher is not None:
            kind = "progressive" if self.is_progressive else "fixed"
            teacher = f", {kind} teacher {self.teacher.network.name}"
        together = f", {self.processes.count} processes" if self.processes.count > 1 else ""
        return (
            f"{config.method}: {config.layer} {config.student}{teacher} on {self.data.name}"
            f" ({len(self.data.train)} + {len(self.data.test)} images), {self.schedule.epochs} epochs{together}"
        )

    def _train_epoch(self, stop: Stop, step: Step) -> None:
        config, phase = self.config, self.schedule.phase(self.epoch)
        self._set_modes(phase)
        begin = time.monotonic()
        parts = self.data.train.batches(
            config.batch_size, seed=config.seed, epoch=self.epoch, start=self.step, share=self._share
        )
        while self.step < self.steps:
            try:
                first = next(parts)
            except (ValueError, OSError):  # an image that can't be used: nothing of this step is done yet
                self._read()
                self.seconds += time.monotonic() - begin
                self._check_finite()
                self._save_state()
                raise
            if self.step == 0 and self.schedule.begins_student(self.epoch):
                self._begin_student()
            batch = chain([first], islice(parts, config.accumulate - 1))
            del first  # not held while the next one is made
            self._train_step(step, batch, phase)
            number, is_due = self.processes.largest(stop.number or 0, self._is_time_to_save())
            if number or is_due:
                self._read()
                now = time.monotonic()
                self.seconds += now - begin
                begin = now
                self._check_finite()
                self._save_state()
                if number:
                    raise self._interrupted(number)
        self._read()
        self.seconds += time.monotonic() - begin

    def _begin_student(self) -> None:
        """Before its first step, whose images are there; a run that stops before that step is done does so again."""
        if self.config.start == "teacher" and self.teacher is not None:
            start_from_twin(self.student.network, self.teacher.network)

    def _set_modes(self, phase: Phase) -> None:
        self.method.train()
        self.student.network.train(phase.trains_student)
        if self.teacher is not None:
            self.teacher.network.train(self._trains_teacher(phase))

    def _trains_teacher(self, phase: Phase) -> bool:
        return self.is_progressive and phase.trains_teacher

    def _train_step(self, step: Step, parts: Iterator[tuple[Tensor, Tensor]], phase: Phase) -> None:
        time_ = self.epoch + self.step / self.steps
        for net in step.trained(phase):
            net.set_rate(self._factor(net)(time_))
        number = self.step + 1
        if self._ahead is not None:
            self._ahead.do(number, parts, phase)
            self.step = number
            self._read(BEHIND)
            return
        figures = step.gradients(parts, phase)
        self._check_losses(figures, number)
        for net, _, _ in figures:
            net.step()
            if not self.config.sync_batchnorm:
                # After each step, not where they are needed: else the bits would depend on when checkpoints are due.
                self.processes.average_statistics(net.network)
        self.step = number
        self._count(figures)

    def _read(self, behind: int = 0) -> None:
        """Looks at the figures of all steps but the last `behind`, where the host runs ahead of the device."""
        if self._ahead is not None:
            for number, figures in self._ahead.read(behind):
                self._check_losses(figures, number)
                self._count(figures)

    def _check_losses(self, figures: list[Figures], step: int) -> None:
        for net, losses, _ in figures:
            for name, value in losses.items():
                if not math.isfinite(value):
                    raise self._diverged(f"{self._named(net)} loss term `{name}` is {value}", step)

    def _count(self, figures: list[Figures]) -> None:
        for net, losses, correct in figures:
            net.meter.add(losses, correct, self.config.batch_size)
        shown = figures[-1] if figures else Figures(self.student, {}, 0.0)
        meter = shown.net.meter
        self.display.step(self.epoch + 1, shown.losses, meter.correct / max(meter.images, 1), self.config.batch_size)

    def _factor(self, net: Net) -> Callable[[float], float]:
        return self.schedule.student_factor if net is self.student else self.schedule.teacher_factor

    def _diverged(self, what: str, step: int) -> Diverged:
        paths = self.checkpoints.paths()
        kept = f"the last good checkpoint is {paths[0]}" if paths else "there was no checkpoint yet"
        place = f" (in {self.folder})" if self.is_fixed_teacher else ""
        return Diverged(f"{what} in epoch {self.epoch + 1}, step {step}{place}; {kept}")

    def _interrupted(self, number: int) -> Interrupted:
        return Interrupted(f"in epoch {self.epoch + 1}, step {self.step}{self.whose}", number)

    @property
    def whose(self) -> str:
        """Whose epochs these are, as the end of a sentence, where that is not the run's student."""
        return f" of the fixed teacher (in {self.folder})" if self.is_fixed_teacher else ""

    def _named(self, net: Net) -> str:
        return "the fixed teacher's" if self.is_fixed_teacher else f"the {net.name}'s"

    def _finish_epoch(self, stop: Stop) -> list[Row]:
        begin = time.monotonic()
        self._check_finite()
        phase = self.schedule.phase(self.epoch)
        before = random_state(self.device)
        try:
            # Evaluation may take minutes, and whoever sends SIGTERM waits for seconds. With several processes it must
            # wait nevertheless: all of them take part to the end.
            with stop.immediate() if self.processes.count == 1 else nullcontext():
                rows = [self._row(net, phase) for net in self.nets]
        except (KeyboardInterrupt, ValueError, OSError) as error:
            if isinstance(error, KeyboardInterrupt) and (stop.number is None or stop.is_forced):
                raise
            set_random_state(before, self.device)
            self.seconds += time.monotonic() - begin
            self._save_state()  # all steps are done: going on from here, the evaluation comes next
            if not isinstance(error, KeyboardInterrupt):
                raise
            raise self._interrupted(stop.number or 0) from None
        if self.schedule.ends_phase(self.epoch):
            self.method.end_phase(phase, self.student.network)
            if self._ahead is not None:
                self._ahead.begin_phase()
        self.seconds += time.monotonic() - begin
        self.epoch, self.step = self.epoch + 1, 0
        for row in rows:
            self.record.add(row | {"seconds": self.seconds})
        for net in self.nets:
            net.meter = Meter()
        self._unsaved_epochs += 1
        is_last = self.epoch == self.schedule.epochs
        if is_last or self._unsaved_epochs >= self.config.save_every or self._is_time_to_save():
            self._save_all()
        return rows

    def _is_time_to_save(self) -> bool:
        return time.monotonic() - self._last_save > 60 * self.config.checkpoint_minutes

    def _save_all(self) -> None:
        self._save_state()  # first: a run that goes on from here writes the rest again
        self._write_results()
        self._unsaved_epochs = 0

    def _write_results(self) -> None:
        """Metrics up to this state; within an epoch, the weights of its beginning are gone and those on disk stay."""
        if not self.processes.is_first:
            return
        self.record.write()
        if self.epoch > 0 and self.step == 0:
            for net, stem in zip(self.nets, ("last", "teacher"), strict=False):
                save_network(self.folder / f"{stem}.safetensors", net.network, NetworkInfo.of(net.network, self.data))

    def _row(self, net: Net, phase: Phase) -> Row:
        row: Row = {"epoch": self.epoch + 1, "net": net.name, "phase": phase.name}
        if net.meter.images:
            row |= {"lr": self.config.lr * self._factor(net)(self.epoch)} | net.meter.row()
        epochs = self.epoch + 1
        if epochs % self.config.test_every == 0 or epochs == self.schedule.epochs:
            row |= {f"test_{name}": score for name, score in self._scores(net, phase)._asdict().items()}
        return row

    def _scores(self, net: Net, phase: Phase) -> Scores:
        earlier = self.record.tested(net.name)
        if earlier and self._stood_still(net, phase, since=earlier[-1]["phase"]):
            return Scores(*(earlier[-1][f"test_{name}"] for name in Scores._fields))
        # A fixed teacher is tested once: a graph would not pay.
        of_batch = tally if self._ahead is None or net.optimizer is None else self._ahead.tally
        scores = evaluate(net.network, self.data.test, self.processes.share(), of_batch)
        net.taps.clear()  # of the last test batch: 180 MB for ResNet-20, in the next step's way
        if not math.isfinite(scores.loss):
            raise self._diverged(f"{self._named(net)} test loss is {scores.loss}", self.step)
        return scores

    def _stood_still(self, net: Net, phase: Phase, since: str) -> bool:
        """Whether a net is the one that was tested in the phase named `since`."""
        if net is self.student:
            return not phase.trains_student and since == phase.name
        return not self.is_progressive or (not phase.trains_teacher and since == phase.name)

    def _check_finite(self) -> None:
        parts: list[tuple[str, nn.Module]] = [(self._named(net), net.network) for net in self.nets]
        flags: dict[str, Tensor] = {}
        for owner, module in [*parts, ("the method's", self.method)]:
            for name, tensor in module.state_dict().items():
                if isinstance(tensor, Tensor) and tensor.is_floating_point():
                    flags[f"{owner} `{name}`"] = tensor.isfinite().all().to(self.device)
        found = torch.stack(list(flags.values())).tolist()  # a GPU is waited for once
        for name, is_finite in zip(flags, found, strict=True):
            if not is_finite:
                raise self._diverged(f"{name} holds a NaN or an infinity", self.step)

    def _save_state(self) -> None:
        """Writes the state of the run: everything that the steps to come depend on, the same on every process."""
        self._last_save = time.monotonic()
        if not self.processes.is_first:
            return
        state = {
            "environment": fingerprint(self.device),
            "data": self.data.facts(),
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "rows": self.record.rows,
            "nets": {net.name: net.state() for net in self.nets},
            "method": self.method.state_dict(),
            "random": random_state(self.device),
        }
        self.checkpoints.save(self.epoch, self.step, state)

    def load(self) -> bool:
        """Goes back to the run's newest checkpoint that is whole.

        Returns:
            Whether there was one.

        Raises:
            ValueError: none is whole, or it is of a run on other images.
        """
        found = self.processes.from_first(self._newest)
        if found is None:
            return False
        with self.processes.agreed():
            self._go_back(*found)
        return True

    def _newest(self) -> tuple[Path, dict[str, Any]] | None:
        state = self.checkpoints.load(self.display.note)
        return None if state is None else (self.checkpoints.paths()[0], state)

    def _go_back(self, path: Path, state: dict[str, Any]) -> None:
        here = self.data.facts()
        others = [key for key, value in _group(state, "data").items() if key in here and not _same(value, here[key])]
        if others:
            there = f"{_group(state, 'data')[others[0]]!s:.200}"
            raise ValueError(
                f"`{path}` is of a run on other images: their {others[0]} is {there}, here it is {here[others[0]]}"
            )
        before = _group(state, "environment")
        changed = [
            f"{key}: {before.get(key)!s:.100}, now {now}"
            for key, now in fingerprint(self.device).items()
            if not _same(before.get(key), now)
        ]
        if changed:
            self.display.note(f"the last bits may differ from an uninterrupted run's: {'; '.join(changed)}")
        try:
            if not _group(state, "data").keys() >= here.keys() - self.data.content().keys():
                raise ValueError("it does not say of which images it is")
            self._take(state)
        except (LookupError, TypeError, AttributeError, ArithmeticError, ValueError, RuntimeError) as error:
            what = f"{error!r:.300}" if isinstance(error, KeyError) else f"{error!s:.300}"
            raise ValueError(f"`{path}` is no checkpoint of this run: {what}; train anew in another folder") from None

    def _take(self, state: dict[str, Any]) -> None:
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], float(state["seconds"])
        last = self.steps if self.epoch < self.schedule.epochs else 0
        if not (0 <= self.epoch <= self.schedule.epochs and 0 <= self.step <= last):
            raise ValueError(f"it stands after epoch {self.epoch}, step {self.step}, which this run does not have")
        if type(self.epoch) is not int or type(self.step) is not int or not 0 <= self.seconds < math.inf:
            raise ValueError("its epoch, step or seconds can't be")
        self.record.rows = checked_rows(state["rows"], self.epoch)
        for net in self.nets:
            net.load(state["nets"][net.name])
            for name, tensor in net.network.state_dict().items():
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    raise ValueError(f"the {net.name}'s `{name}` holds a NaN or an infinity")
        self.method.load_state_dict(state["method"])
        set_random_state(state["random"], self.device)


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal; the first one is from a file and may be anything."""
    try:
        return bool(one == other)
    except (TypeError, ValueError, RuntimeError):  # a tensor of several values, say
        return False


def _group(state: dict[str, Any], key: str) -> dict[str, Any]:
    value = state.get(key)
    return value if isinstance(value, dict) else {}


@contextmanager
def _evaluating(*nets: Net | None) -> Iterator[None]:
    modes: list[tuple[nn.Module, bool]] = [(net.network, net.network.training) for net in nets if net is not None]
    for module, _ in modes:
        module.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.train(was_training)
