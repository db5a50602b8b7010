"""Trainings that are the same whether one process or several do them; see `test_distributed.py`.

Called with a folder, alone or by torchrun. Each process leaves what it saw in `RANK.pt`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import distributed_pieces
import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn

from adderkit import collectives, models, train
from adderkit.distill import Batch, Phase, method_type
from adderkit.models import Network, Operator
from adderkit.nn import synchronise
from adderkit.train import distributed
from adderkit.train.config import BaseConfig, config_type
from adderkit.train.loop import Trainer
from adderkit.train.net import Net
from adderkit.train.step import Step

PHASE = Phase("train", 1)


class Plain(Network):
    """A network without batch normalisation: what an image adds to the gradient depends on no other image."""

    stem_path, classifier_path, stage_paths = "stem", "fc", ("middle",)

    def __init__(self, operator: Operator, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 8, 3)
        self.fc = nn.Linear(8, num_classes)
        self.middle = nn.Sequential(operator(8, 8, 3), nn.GroupNorm(2, 8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.middle(self.stem(x)).mean((2, 3)))


@models.register
def plain(operator: Operator, num_classes: int, in_channels: int) -> Network:
    return Plain(operator, num_classes, in_channels)


def configuration(**values: Any) -> BaseConfig:
    """4 steps an epoch, both nets together with all terms; 300 test images are batches of 256 and 44. At a rate of 0.1
    the teacher is so sensitive that after 8 steps in float32 one process is 7 % from itself in float64."""
    data = {"name": "digits", "train_rows": "0:128", "test_rows": "0:300", "flip": True}
    pkkd = {"progressive": True, "head_start": 0, "rho": "both", "alpha": 1, "mid_share": 1}
    base = {"epochs": 2, "batch_size": 32, "lr": 0.01, "device": "cpu", "data": data, "pkkd": pkkd}
    return config_type()(**{**base, **values})


def updates_in_float64(method_name: str, processes: distributed.Processes) -> dict[str, Tensor]:
    """Three steps of an adder network with BatchNorm and the adaptive local rate, and of all that its method trains."""
    config = configuration(method=method_name)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 16, 1, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(10, (3, 16), generator=generator)
    torch.manual_seed(0)
    method = method_type(method_name)(config.method_options())
    networks = [models.create("resnet8", layer, 10, 1).double() for layer in ("adder", "conv")]
    nets = [Net(name, network, config) for name, network in zip(("student", "teacher"), networks, strict=True)]
    student, teacher = nets
    for net, taps in zip(nets, method.tap_pairs(*networks), strict=True):
        if processes.count > 1:
            synchronise(net.network)
        net.network.eval()
        net.tap(taps)
    example = Batch(images[0], labels[0], student.forward(images[0]), teacher.forward(images[0]), PHASE)
    method.setup(student.network, example)
    method.double()
    student.optimise(method.parameter_groups())
    teacher.optimise([])
    for part in (*networks, method):
        part.train()
    step = Step(student, teacher, method, 1, processes)
    (rows,) = processes.share().rows(16)
    for some_images, some_labels in zip(images, labels, strict=True):
        for net, _, _ in step.gradients([(some_images[rows], some_labels[rows])], PHASE):
            net.update(1.0)
    parts = {"student": student.network, "teacher": teacher.network, "method": method}
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


def raised_or(work: Callable[[], str]) -> str:
    try:
        return work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def raised(work: Callable[[], object]) -> str:
    return raised_or(lambda: f"nothing, but {work()}")


def poisoned(rank: int, config: BaseConfig, out: Path) -> str:
    """The last process meets a NaN in its fifth step."""
    kind = method_type("none")
    losses, calls = kind.losses, []

    def poison(self: Any, batch: Any) -> dict[str, Tensor]:
        calls.append(1)
        terms = losses(self, batch)
        return {"ce": terms["ce"] * float("nan")} if rank == 1 and len(calls) == 5 else terms

    kind.losses = poison
    try:
        return raised(lambda: train.train(config, out))
    finally:
        kind.losses = losses


def with_own_pictures(rank: int, folder: Path) -> BaseConfig:
    """Of the same files, the second process finds the classes exchanged, in a folder of the same name."""
    root = folder / str(rank) / "pictures"
    for index, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)):
        path = root / ("train" if index < 8 else "test") / "ab"[(index + rank) % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return configuration(batch_size=4, data={"name": "imagefolder", "root": root})


def patience(processes: distributed.Processes) -> list[str]:
    """The first process loads for longer than the others wait for an answer; then the second one can't."""
    # torch 2.15 names it anew and warns of the old name
    set_timeout: Any = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    set_timeout(timedelta(seconds=2))

    def load() -> str:
        time.sleep(4 if processes.is_first else 0)
        return "loaded"

    def fail() -> str:
        if not processes.is_first:
            raise ValueError("nothing there")
        return "loaded"

    found = [raised_or(lambda: processes.in_turn(load)), raised_or(lambda: processes.in_turn(fail))]
    set_timeout(distributed.TIMEOUT)
    return found


def main(folder: Path) -> None:
    together = distributed.is_launched()
    if together:
        dist.init_process_group("gloo")
    rank, count = collectives.process_rank(), collectives.process_count()
    ends: list[dict[str, Tensor]] = []
    close = Trainer.close

    def closing(trainer: Trainer) -> None:
        modules = {net.name: net.network for net in trainer.nets} | {"method": trainer.method}
        state = {f"{name}.{key}": value for name, part in modules.items() for key, value in part.state_dict().items()}
        ends.append({key: value.clone() for key, value in state.items()})
        close(trainer)

    Trainer.close = closing
    runs = {
        "none": configuration(method="none"),
        "pkkd": configuration(method="pkkd"),
        "kd": configuration(method="kd"),
        "sp": configuration(method="sp"),
        "dropout": configuration(method="dropout", dropout={"rate": 0.5}),
        "plain": configuration(method="none", student="plain", accumulate=2 if together else 1),
        "apart": configuration(method="none", sync_batchnorm=False, accumulate=1 if together else 2),
    }
    results: dict[str, Any] = {}
    for method in ("none", "pkkd"):
        results[f"{method} in float64"] = updates_in_float64(method, distributed.Processes(rank, count))
    for name, config in runs.items():
        ends.clear()
        results[name] = train.train(config, folder / name), list(ends)
    if together:
        often = configuration(method="none", sync_batchnorm=False, checkpoint_minutes=1e-6)
        ends.clear()
        results["apart, often saved"] = train.train(often, folder / "often"), list(ends)
        results["patience"] = patience(distributed.Processes(rank, count))
        results["pieces"] = distributed_pieces.results(rank)
        results["nan"] = poisoned(rank, configuration(method="none"), folder / "nan")
        other = configuration(method="none", seed=rank)
        results["other options"] = raised(lambda: train.train(other, folder / "other"))
        results["other images"] = raised(lambda: train.train(with_own_pictures(rank, folder), folder / "pictures"))
        results["not shared"] = raised(lambda: train.train(configuration(batch_size=31), folder / "odd"))
        results["finished"] = train.train(runs["none"], folder / "none", resume=True)
        results["taken"] = raised(lambda: train.train(runs["none"], folder / "none"))
    torch.save(results, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
