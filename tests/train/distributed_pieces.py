"""What the processes of a job compute together; `distributed_runs.py` calls it, `test_distributed_pieces.py` looks."""

from __future__ import annotations

import torch
from torch import nn

from adderkit import collectives
from adderkit.data import DataConfig, Share, load
from adderkit.distill.kernels import RunningScale
from adderkit.nn import SyncBatchNorm, batch_norm_of_all, synchronise
from adderkit.train.evaluate import evaluate


def inputs(dtype: torch.dtype, offset: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten images far from 0, as adder outputs are, and a gradient for each output."""
    generator = torch.Generator().manual_seed(0)
    shape = (10, 4, 5, 3)
    images = torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + offset
    return images.to(dtype), torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def rows_of(rank: int) -> slice:
    return slice(0, 6) if rank == 0 else slice(6, 10)  # not the same number for each


def similarity(rows: torch.Tensor) -> torch.Tensor:
    """A loss between all pairs of images."""
    flat = nn.functional.normalize(rows.flatten(1))
    return (flat @ flat.T).exp().mean()


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def batch_norms(rank: int) -> dict[str, object]:
    results: dict[str, object] = {}
    for name, dtype, offset in (("float64", torch.float64, 0.0), ("float32", torch.float32, -500.0)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.BatchNorm2d(4), nn.Identity()).to(dtype)
        nn.init.normal_(model[0].weight)
        parameter = model[0].weight
        synchronise(model)
        assert isinstance(model[0], SyncBatchNorm) and model[0].weight is parameter
        images, gradients = inputs(dtype, offset)
        mine = images[rows_of(rank)].requires_grad_()
        output = model(mine)
        output.backward(gradients[rows_of(rank)])
        state = {key: value.clone() for key, value in model.state_dict().items()}
        sums = [collectives.summed(tensor.grad) for tensor in model.parameters()]
        model.eval()
        results[name] = [output.detach(), mine.grad, sums, state, model(images).detach()]
    images, _ = inputs(torch.float64, -5.0)
    results["plain"] = batch_norm_of_all(images[rows_of(rank)])
    return results


def results(rank: int) -> dict[str, object]:
    """Of one of two processes."""
    found = batch_norms(rank)
    images, _ = inputs(torch.float64, 0.0)
    half = images[5 * rank : 5 * rank + 5].clone().requires_grad_()
    rows = collectives.gathered_rows(half)
    similarity(rows).backward()
    found["rows"], found["rows_gradient"] = rows.detach(), half.grad
    for name, channels in (("scale", None), ("scale_by_channel", 4)):
        scale = RunningScale(channels=channels)
        for offset in (-100.0, -110.0):
            scale(inputs(torch.float32, offset)[0][rows_of(rank)])
        found[name] = scale.state_dict()
    data = load(DataConfig(name="digits", train_rows="0:64"))
    found["scores"] = tuple(evaluate(net(), data.test, Share(rank, 2)))
    return found
