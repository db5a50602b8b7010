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

    def __init__(self, name: str, network: Network, config: BaseConfig, in_bfloat16: bool = False) -> None:
        self.name = name
        self.network = network
        self.config = config
        self._in_bfloat16 = in_bfloat16
        self._is_ahead = False
        self.taps = Taps(network, ())
        self.meter = Meter()
        self.optimizer: torch.optim.Optimizer | None = None

    def tap(self, paths: tuple[str, ...]) -> None:
        self.taps = Taps(self.network, paths)

    def optimise(self, extra_groups: list[dict[str, Any]], is_ahead: bool = False) -> None:
        """Builds SGD over the network's parameters and `extra_groups`.

        Args:
            extra_groups: the method's.
            is_ahead: the host does not wait for the steps: their rates lie on the device, in tensors that stay.
        """
        config = self.config
        groups = [{"params": list(self.network.parameters())}, *extra_groups]
        self.optimizer = torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        self._is_ahead = is_ahead
        self._place_rates(self.optimizer)
        if adder_parameters(self.network):
            AdaptiveLocalRate(self.network, eta=config.eta).attach(self.optimizer)

    def _place_rates(self, optimizer: torch.optim.Optimizer) -> None:
        if not self._is_ahead:
            return
        place = next(self.network.parameters()).device
        for group in optimizer.param_groups:
            group["lr"] = torch.zeros((), device=place)  # set before every step
            group["fused"] = place.type == "cuda"  # the other implementations read the rate on the host

    def forward(self, images: Tensor) -> NetOutput:
        if not self._in_bfloat16:
            return NetOutput(self.network(images), self.taps.take())
        # Each filter is used once a step, so a cache of their halves would only hold memory.
        with torch.autocast(images.device.type, torch.bfloat16, cache_enabled=False):
            logits = self.network(images)
        return NetOutput(logits.float(), {path: tap.float() for path, tap in self.taps.take().items()})

    def forget_gradients(self) -> None:
        """Before the first part of a step."""
        self._trained.zero_grad(set_to_none=True)

    def set_rate(self, factor: float) -> None:
        """The next steps are taken at `factor` times the run's rate."""
        for group in self._trained.param_groups:
            rate = self.config.lr * factor * group.get("lr_scale", 1.0)
            if self._is_ahead:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def step(self) -> None:
        """One step down the gradients, at the rate that is set."""
        if self._is_ahead:
            self._begin_momentum()
        self._trained.step()

    def update(self, factor: float) -> None:
        """One step down the gradients, at `factor` times the run's rate."""
        self.set_rate(factor)
        self.step()

    def _begin_momentum(self) -> None:
        """From 0, which gives SGD's own first step.

        The fused one can't begin by itself where some parameters of a group have momentum and others have none yet, as
        when a loss reaches them in a later phase.
        """
        if self.config.momentum == 0:
            return
        for group in self._trained.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None or "momentum_buffer" in self._trained.state[parameter]:
                    continue
                if parameter.is_cuda and torch.cuda.is_current_stream_capturing():
                    raise RuntimeError("a loss reached a parameter for the first time")  # replays would begin again
                self._trained.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @property
    def _trained(self) -> torch.optim.Optimizer:
        if self.optimizer is None:
            raise RuntimeError(f"the {self.name} is not trained")
        return self.optimizer

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": None if self.optimizer is None else _saved(self.optimizer),
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
            self._place_rates(self.optimizer)
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
                if self._is_ahead and value.stride() != parameter.stride():  # of another device, say
                    values[key] = torch.empty_like(parameter).copy_(value)


def _saved(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its state as every device takes it: rates are numbers, and which implementation steps is left open."""
    state = optimizer.state_dict()
    groups = [{**group, "lr": float(group["lr"]), "fused": None} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


def _settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What a checkpoint must not change: all but the rate, which the schedule sets, and SGD's implementation."""
    return [
        {key: value for key, value in group.items() if key not in ("params", "lr", "initial_lr", "fused")}
        for group in optimizer.param_groups
    ]
