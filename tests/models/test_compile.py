"""Networks under torch.compile in a training loop of one's own."""

from __future__ import annotations

import copy

import torch
from torch.nn import functional as F

from adderkit import models
from adderkit.train import AdaptiveLocalRate


def test_a_compiled_adder_network_trains_as_the_plain_one():
    """One graph forward and one backward; the adaptive local rate acts outside of it."""
    torch.manual_seed(0)
    plain = models.create("resnet8", layer="adder", in_channels=1)
    other = copy.deepcopy(plain)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    images, labels = torch.randn(8, 1, 8, 8), torch.arange(8)
    losses: list[list[float]] = []
    for network, call in ((plain, plain), (other, compiled)):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        AdaptiveLocalRate(network).attach(optimizer)
        losses.append([])
        for _ in range(3):
            optimizer.zero_grad()
            loss = F.cross_entropy(call(images), labels)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    assert losses[1][-1] < losses[1][0]
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
