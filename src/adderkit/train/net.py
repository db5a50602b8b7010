"""A network in training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adderkit.distill import NetOutput, Taps
from adderkit.models import Network
from adderkit.nn import adder_parameters
from adderkit.train.config import BaseConfig
from adderkit.train.local_rate import AdaptiveLocalRate
from adderkit.train.record import Row


@dataclass
class Meter:
    """Sums over the steps of one epoch, for one net."""

    images: int = 0
    correct: float = 0.0
    terms: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Meter:
        """From a checkpoint, whose values may be anything."""
        terms = {str(name): float(value) for name, value in values["terms"].items()}
        meter = cls(int(values["images"]), float(values["correct"]), terms)
        if meter.images < 0 or not all(map(math.isfinite, (meter.correct, *terms.values()))):
            raise ValueError("its sums over the epoch can't be")
        return meter

    def add(self, terms: Mapping[str, float], correct: float, images: int) -> None:
        self.images += images
        self.correct += correct
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + value * images

    def row(self) -> Row:
        means = {name: value / self.images for name, value in self.terms.items()}
        row: Row = {"train_loss": sum(means.values()), "train_top1": self.correct / self.images}
        return row | {f"loss.{name}": value for name, value in means.items()}


class Net:
    """A network in training: its optimiser, with the adaptive local rate on adder filters, its taps and its meter."""

    def __init__(self, name: str, network: Network, config: BaseConfig) -> None:
        self.name = name
        self.network = network
        self.config = config
        self.taps = Taps(network, ())
        self.meter = Meter()
        self.optimizer: torch.optim.Optimizer | None = None

    def tap(self, paths: tuple[str, ...]) -> None:
        self.taps = Taps(self.network, paths)

    def optimise(self, extra_groups: list[dict[str, Any]]) -> None:
        """Builds SGD over the network's parameters and `extra_groups`."""
        config = self.config
        groups = [{"params": list(self.network.parameters())}, *extra_groups]
        self.optimizer = torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        if adder_parameters(self.network):
            AdaptiveLocalRate(self.network, eta=config.eta).attach(self.optimizer)

    def forward(self, images: Tensor) -> NetOutput:
        return NetOutput(self.network(images), self.taps.take())

    def forget_gradients(self) -> None:
        """Before the first part of a step."""
        self._trained.zero_grad(set_to_none=True)

    def update(self, factor: float) -> None:
        """One step down the gradients, at `factor` times the run's rate."""
        for group in self._trained.param_groups:
            group["lr"] = self.config.lr * factor * group.get("lr_scale", 1.0)
        self._trained.step()

    @property
    def _trained(self) -> torch.optim.Optimizer:
        if self.optimizer is None:
            raise RuntimeError(f"the {self.name} is not trained")
        return self.optimizer

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
            "momenta": 0 if self.optimizer is None else len(self.optimizer.state),
            "meter": vars(self.meter),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        if self.optimizer is not None:
            settings = _settings(self.optimizer)
            self.optimizer.load_state_dict(state["optimizer"])
            pairs = zip(settings, self.optimizer.param_groups, strict=True)
            found = [{key: group.get(key) for key in own} for own, group in pairs]
            if found != settings:
                raise ValueError(f"the {self.name}'s optimiser has other settings there")
            self._check_momentum(self.optimizer)
            # Parameters that no loss has reached have no momentum, so the number of those that have is saved.
            if state.get("momenta", len(self.optimizer.state)) != len(self.optimizer.state):
                raise ValueError(f"the {self.name}'s optimiser lacks momentum there")
        self.meter = Meter.of(state["meter"])

    def _check_momentum(self, optimizer: torch.optim.Optimizer) -> None:
        """A buffer of another shape would fail in the first step, one with a NaN some steps later."""
        for parameter, values in optimizer.state.items():
            if values.keys() != {"momentum_buffer"}:
                raise ValueError(f"the {self.name}'s optimiser has other values there than momentum")
            for key, value in values.items():
                if value is None and self.config.momentum == 0:
                    continue
                if not isinstance(value, Tensor) or value.shape != parameter.shape or not value.isfinite().all():
                    raise ValueError(f"the {self.name}'s `{key}` does not fit its weights, or holds a NaN")


def _settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What a checkpoint must not change: all but the rate, which the schedule sets."""
    return [
        {key: value for key, value in group.items() if key not in ("params", "lr", "initial_lr")}
        for group in optimizer.param_groups
    ]
