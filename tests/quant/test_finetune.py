"""Fine-tuning: gradients reach every parameter, the loss falls, and what was trained is what integers compute."""

from __future__ import annotations

import nets
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from adderkit.quant import calibrate, calibration_images, fuse, reference, to_integers
from adderkit.quant.finetune import finetune, recentre
from adderkit.train import AdaptiveLocalRate, NetworkInfo


@pytest.fixture(scope="module")
def trained():
    """A digits network after some steps of plain training, and its data."""
    data = nets.digits("0:512")
    torch.manual_seed(0)
    network = nets.models.create("resnet8", num_classes=10, in_channels=1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    AdaptiveLocalRate(network, eta=0.2).attach(optimizer)
    for epoch in range(3):
        for images, labels in data.train.batches(64, seed=0, epoch=epoch):
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        for images, _ in data.train.batches(64, seed=0):
            network(images)
    return network.eval(), data, NetworkInfo.of(network, data)


def loss_of(simulation, data):
    with torch.no_grad():
        batches = [(simulation(images), labels) for images, labels in data.train.uint8_batches(256)]
    return F.cross_entropy(torch.cat([logits for logits, _ in batches]), torch.cat([y for _, y in batches])).item()


@pytest.mark.parametrize(("bits", "powers"), [(3, False), (8, True)])
def test_the_loss_falls_and_integers_agree(trained, bits, powers):
    network, data, info = trained
    images = calibration_images(data.train, 256)
    simulation, _ = calibrate(fuse(network, 8, 8), images, info.mean, info.std, bits, powers)
    before = loss_of(simulation, data)
    notes = []
    finetune(simulation, network, data, 4, images, notes.append)
    assert not simulation.training and len(notes) == 1 and "step 25 of 32" in notes[0]
    after = loss_of(simulation, data)
    assert after < before, (before, after)
    integers = to_integers(simulation, info, 30.0, {})
    pixels = next(data.test.uint8_batches(64))[0]
    with torch.no_grad():
        expected = simulation(pixels).numpy()
    found = reference.run(integers, pixels.permute(0, 2, 3, 1).contiguous().numpy())
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 62 / 64
    assert np.sqrt(np.square(found - expected).mean()) < 0.05 * expected.std()


def test_training_mode_computes_what_evaluation_does(trained):
    """With centres of the same images: real units in training, integers in evaluation."""
    network, data, info = trained
    images = calibration_images(data.train, 64)
    for bits, powers in ((8, False), (4, True)):
        simulation, _ = calibrate(fuse(network, 8, 8), images, info.mean, info.std, bits, powers)
        recentre(simulation, images)
        with torch.no_grad():
            expected = simulation(images)
            simulation.train()
            found = simulation(images)
        assert ((found - expected).square().mean().sqrt() < 0.05 * expected.std()).item()


def test_every_parameter_has_a_gradient(trained):
    network, data, info = trained
    images = calibration_images(data.train, 64)
    simulation, _ = calibrate(fuse(network, 8, 8), images, info.mean, info.std, 4)
    simulation.train()
    simulation(images).square().mean().backward()
    for name, parameter in simulation.named_parameters():
        if name == "step":
            assert parameter.grad is None
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_data_with_other_statistics_than_the_network(trained):
    """As after training on other rows: the network sees the same pixels, normalised as it was trained."""
    network, data, info = trained
    images = calibration_images(data.train, 64)
    mean, std = (info.mean[0] + 0.2,), (info.std[0] * 1.5,)
    simulation, _ = calibrate(fuse(network, 8, 8), images, mean, std, 8)
    seen, taught = [], []
    simulation.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach().clone()))

    def teacher(x):
        taught.append(x.clone())
        return network(x)

    finetune(simulation, teacher, data, 1, images)
    assert len(taught) == 8
    batches = data.train.batches(64, seed=0, epoch=0)
    for (batch, _), pixels, normalised in zip(batches, seen[:8], taught, strict=True):
        exact = 255 * (batch.double() * data.std[0] + data.mean[0])
        torch.testing.assert_close(pixels.double(), exact, rtol=0, atol=1e-3)
        assert torch.equal(pixels, pixels.round())
        expected = (pixels.double() / 255 - mean[0]) / std[0]
        torch.testing.assert_close(normalised.double(), expected, rtol=1e-5, atol=1e-5)


def test_too_few_images_for_a_batch(trained):
    network, _, info = trained
    data = nets.digits("0:40")
    images = calibration_images(data.train, 40)
    simulation, _ = calibrate(fuse(network, 8, 8), images, info.mean, info.std, 8)
    with pytest.raises(ValueError, match=r"`finetune_epochs` \(=1\) must be 0 with 40 training images"):
        finetune(simulation, network, data, 1, images)
