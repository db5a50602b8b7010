"""The adaptive local rate against the formula in NumPy and against the official order written by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam, AdamW

from adderkit.nn import Adder2d, AdderLinear
from adderkit.train.local_rate import AdaptiveLocalRate


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Adder2d(4, 6, 3, bias=True), nn.BatchNorm2d(6), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), AdderLinear(96, 5), nn.BatchNorm1d(5)).to(dtype)


def loss_of(model: nn.Module, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 3, 8, 8, generator=generator).to(dtype)
    return nn.functional.cross_entropy(model(x).float(), torch.arange(8) % 5)


def filters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if name in ("2.weight", "6.weight")}


def normalised(gradient: torch.Tensor, eta: float) -> np.ndarray:
    g = gradient.double().numpy()
    return eta * math.sqrt(g.size) * g / math.sqrt((g**2).sum())


@pytest.mark.parametrize("eta", [0.0, 0.1, 0.2, 7.0])
def test_the_written_formula_and_nothing_else(eta):
    model = network()
    loss_of(model).backward()
    raw = {name: p.grad.clone() for name, p in model.named_parameters()}
    optimizer = SGD(model.parameters(), lr=0.0)
    AdaptiveLocalRate(model, eta).attach(optimizer)
    optimizer.step()
    for name, parameter in model.named_parameters():
        if name in filters(model):
            np.testing.assert_allclose(parameter.grad, normalised(raw[name], eta), rtol=1e-12, atol=0)
        else:
            assert torch.equal(parameter.grad, raw[name])


def test_equals_the_official_order_step_by_step():
    """Official order: each filter's gradient is rescaled inside backward, SGD adds weight decay and momentum."""
    ours, theirs = network(), network()
    rate, momentum, decay = 0.1, 0.9, 5e-4
    optimizer = SGD(ours.parameters(), lr=rate, momentum=momentum, weight_decay=decay)
    AdaptiveLocalRate(ours, eta=0.2).attach(optimizer)
    velocity: dict[str, np.ndarray] = {}
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(ours).backward()
        optimizer.step()
        theirs.zero_grad()
        loss_of(theirs).backward()
        for name, parameter in theirs.named_parameters():
            g = normalised(parameter.grad, 0.2) if name in filters(theirs) else parameter.grad.numpy()
            g = g + decay * parameter.detach().numpy()
            velocity[name] = momentum * velocity[name] + g if name in velocity else g.copy()
            parameter.data -= rate * torch.from_numpy(velocity[name])
        for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12, msg=name)


OPTIMISERS = {
    "sgd": lambda parameters: SGD(parameters, lr=0.1, foreach=False),
    "sgd foreach": lambda parameters: SGD(parameters, lr=0.1, momentum=0.9, foreach=True),
    "sgd fused": lambda parameters: SGD(parameters, lr=0.1, momentum=0.9, fused=True),
    "adam": lambda parameters: Adam(parameters, lr=0.01, foreach=True),
    "adamw fused": lambda parameters: AdamW(parameters, lr=0.01, fused=True),
}


@pytest.mark.parametrize("build", OPTIMISERS.values(), ids=OPTIMISERS.keys())
def test_any_optimiser_sees_the_rescaled_gradient(build):
    ours, theirs = network(), network()
    optimizer = build(ours.parameters())
    AdaptiveLocalRate(ours).attach(optimizer)
    loss_of(ours).backward()
    optimizer.step()
    loss_of(theirs).backward()
    for parameter in filters(theirs).values():
        parameter.grad = torch.from_numpy(normalised(parameter.grad, 0.2))
    build(theirs.parameters()).step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("as_keyword", [False, True])
def test_closures_are_rescaled_after_each_evaluation(as_keyword):
    model = network()
    optimizer = SGD(model.parameters(), lr=0.0)
    AdaptiveLocalRate(model, 0.3).attach(optimizer)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    loss = optimizer.step(closure=closure) if as_keyword else optimizer.step(closure)
    assert loss == loss_of(model)
    for parameter in filters(model).values():
        assert parameter.grad.square().mean().sqrt().item() == pytest.approx(0.3, rel=1e-12)


def test_lbfgs_evaluates_and_steps():
    model = network()
    optimizer = LBFGS(model.parameters(), lr=0.1, max_iter=3)
    AdaptiveLocalRate(model).attach(optimizer)
    start = filters(model)["2.weight"].detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    optimizer.step(closure)
    moved = filters(model)["2.weight"]
    assert torch.isfinite(moved).all() and not torch.equal(moved, start)
    assert moved.grad.square().mean().sqrt().item() == pytest.approx(0.2, rel=1e-12)


@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler_does_not_change_the_step(fused):
    plain, scaled = network(torch.float32), network(torch.float32)
    for model, scaler in ((plain, None), (scaled, torch.amp.GradScaler("cpu", init_scale=1024.0))):
        optimizer = SGD(model.parameters(), lr=0.1, fused=fused)
        AdaptiveLocalRate(model).attach(optimizer)
        loss = loss_of(model, torch.float32)
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    for p, q in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_parameter_groups_keep_their_rates():
    model = network()
    own = list(filters(model).values())
    others = [p for p in model.parameters() if all(p is not f for f in own)]
    optimizer = SGD([{"params": others, "lr": 0.0}, {"params": own, "lr": 0.5}])
    AdaptiveLocalRate(own, eta=1.0).attach(optimizer)
    before = [p.detach().clone() for p in own]
    loss_of(model).backward()
    optimizer.step()
    for old, new in zip(before, own, strict=True):
        assert (new - old).square().mean().sqrt().item() == pytest.approx(0.5, rel=1e-12)


def test_shared_filters_are_rescaled_once_and_none_is_skipped():
    layer = AdderLinear(4, 4).double()
    other = AdderLinear(4, 4).double()
    other.weight = layer.weight
    idle = AdderLinear(4, 2).double()
    model = nn.Sequential(layer, nn.BatchNorm1d(4).double(), other, idle)
    optimizer = SGD(model.parameters(), lr=0.0)
    AdaptiveLocalRate(model, eta=3.0).attach(optimizer)
    x = torch.randn(6, 4, dtype=torch.float64)
    (model[:3](x) * x).sum().backward()
    raw = layer.weight.grad.clone()
    optimizer.step()
    np.testing.assert_allclose(layer.weight.grad, normalised(raw, 3.0), rtol=1e-12)
    assert idle.weight.grad is None


def test_extreme_gradients():
    layer = AdderLinear(4, 2)
    optimizer = SGD(layer.parameters(), lr=0.0)
    AdaptiveLocalRate(layer, 0.2).attach(optimizer)
    layer.weight.grad = torch.zeros(2, 4)
    optimizer.step()
    assert torch.equal(layer.weight.grad, torch.zeros(2, 4))
    for dtype, size in ((torch.float16, 6e4), (torch.bfloat16, 1e15), (torch.float16, 1e-7)):
        half = AdderLinear(4, 2, dtype=dtype)
        half.weight.grad = torch.full((2, 4), size, dtype=dtype)
        AdaptiveLocalRate(half, 0.5).rescale()
        torch.testing.assert_close(half.weight.grad, torch.full((2, 4), 0.5, dtype=dtype))


def test_remove_ends_it():
    model = network()
    optimizer = SGD(model.parameters(), lr=0.0)
    handle = AdaptiveLocalRate(model, 5.0).attach(optimizer)
    handle.remove()
    loss_of(model).backward()
    raw = filters(model)["2.weight"].grad.clone()
    optimizer.step()
    assert torch.equal(filters(model)["2.weight"].grad, raw)


def test_a_model_without_adder_layers_is_left_alone():
    model = nn.Linear(3, 2)
    optimizer = SGD(model.parameters(), lr=1.0)
    AdaptiveLocalRate(model).attach(optimizer)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert torch.equal(model.weight.grad, torch.ones(2, 3))


@pytest.mark.parametrize("eta", [-0.1, math.nan, math.inf])
def test_impossible_eta_is_refused(eta):
    with pytest.raises(ValueError, match=r"`eta` \(=.*\) must be finite and >= 0"):
        AdaptiveLocalRate([], eta)


def test_an_optimiser_that_lacks_filters_is_refused():
    model = network()
    optimizer = SGD([filters(model)["2.weight"]], lr=0.1)
    with pytest.raises(ValueError, match=r"`optimizer` \(holds 1 of the 2 filter tensors\) must hold them all"):
        AdaptiveLocalRate(model).attach(optimizer)
    model[6].requires_grad_(False)  # frozen filters need no optimiser
    AdaptiveLocalRate(model).attach(optimizer)
