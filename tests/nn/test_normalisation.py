"""Adder layers without a normalisation are found, by the full check and by the look at the first training step."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_pre_hooks

from adderkit.nn import Adder2d, AdderLinear, unnormalised, warn_unnormalised

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class FrozenNorm(nn.Module):
    """A normalisation that torch does not know."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean()) / x.std()


class LayerNormOfChannels(nn.Module):
    """Normalises a view of what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Adder2d(3, 5, 1)
        self.norm = nn.LayerNorm(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(input=self.layer(x).permute(0, 2, 3, 1))


class Rectified(nn.Module):
    """Writes in place between the layer and its BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Adder2d(3, 5, 1)
        self.norm = nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x).relu_())


class Twice(nn.Module):
    """One layer, two calls, of which the second is not normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Adder2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.norm(self.layer(x)))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Sequential(Adder2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), []),
        (nn.Sequential(Adder2d(3, 4, 3), nn.Identity(), nn.GroupNorm(2, 4)), []),
        (nn.Sequential(Adder2d(3, 4, 3), nn.InstanceNorm2d(4)), []),
        (nn.Sequential(Adder2d(3, 4, 3), FrozenNorm()), []),
        (nn.Sequential(nn.Flatten(), AdderLinear(108, 4), nn.RMSNorm(4)), []),
        (LayerNormOfChannels(), []),
        (nn.Conv2d(3, 4, 3), []),
        (nn.Sequential(Adder2d(3, 4, 3), nn.ReLU()), ["0"]),
        (nn.Sequential(Adder2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), ["0"]),
        (nn.Sequential(nn.Sequential(Adder2d(3, 4, 3), Adder2d(4, 4, 3)), nn.BatchNorm2d(4)), ["0.0"]),
        (nn.Sequential(nn.BatchNorm2d(3), Adder2d(3, 4, 3)), ["1"]),
        (nn.Sequential(nn.Flatten(), AdderLinear(108, 4)), ["1"]),
        (Rectified(), ["layer"]),
        (Twice(), ["layer"]),
        (Adder2d(3, 4, 3), [""]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_unnormalised_names_the_layers(model, expected):
    assert unnormalised(model, X) == expected


def test_the_model_is_as_before():
    model = nn.Sequential(Adder2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU())
    model[1].eval()
    model.register_buffer("counter", torch.zeros(1))
    before, flags = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    random = torch.get_rng_state()
    unnormalised(model, (X,))
    with pytest.raises(ValueError, match="channels"):
        unnormalised(model, X[:, :2])
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(random, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_warning_lists_them_all_once():
    model = nn.Sequential(Adder2d(3, 4, 3), nn.ReLU(), Adder2d(4, 4, 3))
    with pytest.warns(
        UserWarning, match=r"no normalisation follows 0, 2; .*large and negative.*stands still"
    ) as caught:
        warn_unnormalised(model, X)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    warn_unnormalised(nn.Sequential(Adder2d(3, 4, 3), nn.BatchNorm2d(4)), X)  # a warning would be an error


@pytest.mark.parametrize(
    "follower",
    [nn.ReLU(), nn.Conv2d(4, 4, 1), Adder2d(4, 4, 1), nn.Sequential(nn.Sequential(nn.Identity(), nn.GELU()))],
    ids=lambda module: type(module).__name__,
)
def test_first_training_step_warns_by_itself(follower):
    model = nn.Sequential(Adder2d(3, 4, 3), follower, nn.BatchNorm2d(4))
    with pytest.warns(UserWarning, match=r"^Adder2d\(3, 4, .*\) feeds (ReLU|Conv2d|Adder2d|GELU) directly; ") as caught:
        model(X)
    assert len(caught) == 1
    model(X)  # once
    assert not _global_forward_pre_hooks


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = Adder2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(Adder2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Sequential(Adder2d(3, 4, 3), nn.AvgPool2d(2), nn.BatchNorm2d(4)),
        nn.Sequential(Adder2d(3, 4, 3), nn.Dropout(), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Sequential(Adder2d(3, 4, 3)), nn.Identity(), nn.Sequential(nn.BatchNorm2d(4))),
        Functional(),
    ],
    ids=["plain", "pool", "dropout", "nested", "function"],
)
def test_first_training_step_is_silent_where_there_is_doubt(model):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(X).sum().backward()
    assert caught == []
    assert not _global_forward_pre_hooks


def test_no_look_in_evaluation_or_without_gradients():
    model = nn.Sequential(Adder2d(3, 4, 3), nn.ReLU())
    model.eval()(X)
    model.train()
    with torch.no_grad():
        model(X)
    with pytest.warns(UserWarning, match="feeds ReLU"):
        model(X)


def test_a_hook_whose_tensor_is_gone_removes_itself():
    Functional()(X)
    nn.Identity()(X)
    assert not _global_forward_pre_hooks
