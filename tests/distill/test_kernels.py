"""The kernels against NumPy in float64."""

from __future__ import annotations

import numpy as np
import torch

from adderkit.distill.kernels import RunningScale, adder_kernel, convolution_kernel


def test_convolution_kernel_is_theorem_1s_left_side():
    output = np.linspace(-4, 4, 50)
    found = convolution_kernel(torch.from_numpy(output), 0.8).numpy()
    np.testing.assert_allclose(found, np.exp(-output / (2 * 0.8**2)), rtol=1e-12)


def test_adder_kernel_rises_with_similarity():
    output = np.linspace(-9, 0, 50)
    found = adder_kernel(torch.from_numpy(output), 1.7).numpy()
    np.testing.assert_allclose(found, np.exp(output / 1.7), rtol=1e-12)
    assert (np.diff(found) > 0).all()


def test_exponents_are_limited():
    far = torch.tensor([-1e4, 1e4])
    for kernel in (convolution_kernel, adder_kernel):
        for sign in (-1.0, 1.0):
            assert sorted(kernel(far, 1.0, sign).tolist()) == [0.0, np.float32(np.exp(10.0))]


def test_gradients_of_kernels_end_at_the_limit():
    rng = np.random.default_rng(0)
    output, weight = rng.normal(0, 6, (3, 4, 5, 5)), rng.normal(0, 1, (3, 4, 5, 5))
    for sigma in (np.array(0.9), rng.uniform(0.5, 2, (4, 1, 1))):  # of the layer, of each channel
        raw, width = torch.from_numpy(output).requires_grad_(), torch.from_numpy(sigma).requires_grad_()
        for kernel, factor, slope in (
            (adder_kernel, 1 / sigma, -1 / sigma**2),
            (convolution_kernel, -1 / (2 * sigma**2), 1 / sigma**3),
        ):
            value = np.exp(np.minimum(output * factor, 10))
            inner = weight * value * (output * factor < 10)
            of_sigma = (inner * output).sum((0, 2, 3), keepdims=True)[0] if sigma.shape else (inner * output).sum()
            found = torch.autograd.grad((kernel(raw, width) * torch.from_numpy(weight)).sum(), (raw, width))
            assert (output * factor > 10).any()
            np.testing.assert_allclose(found[0].numpy(), inner * factor, rtol=1e-10)
            np.testing.assert_allclose(found[1].numpy(), of_sigma * slope, rtol=1e-10)


def test_running_scale_follows_the_data():
    rng = np.random.default_rng(0)
    first, second = rng.normal(-300, 20, (4, 3, 5, 5)), rng.normal(-280, 30, (4, 3, 5, 5))
    scale = RunningScale(momentum=0.1)
    centred = scale(torch.from_numpy(first)).double().numpy()
    np.testing.assert_allclose(centred, first - first.mean(), atol=1e-4)
    np.testing.assert_allclose(scale.deviation.item(), first.std(), rtol=1e-5)
    scale(torch.from_numpy(second))
    mean = 0.9 * first.mean() + 0.1 * second.mean()
    deviation = 0.9 * first.std() + 0.1 * second.std()
    np.testing.assert_allclose([scale.mean.item(), scale.deviation.item()], [mean, deviation], rtol=1e-5)


def test_running_scale_of_each_channel():
    rng = np.random.default_rng(0)
    offsets = np.array([-300.0, 5.0, 80.0]).reshape(3, 1, 1)
    first, second = rng.normal(0, 20, (4, 3, 5, 5)) + offsets, rng.normal(7, 30, (4, 3, 5, 5)) + offsets
    scale = RunningScale(momentum=0.1, channels=3)
    centred = scale(torch.from_numpy(first)).double().numpy()
    np.testing.assert_allclose(centred, first - first.mean((0, 2, 3), keepdims=True), atol=1e-4)
    scale(torch.from_numpy(second))
    for found, statistic in ((scale.mean, np.mean), (scale.deviation, np.std)):
        expected = 0.9 * statistic(first, (0, 2, 3)) + 0.1 * statistic(second, (0, 2, 3))
        np.testing.assert_allclose(found.flatten().numpy(), expected, rtol=1e-5)


def test_running_scale_stands_still_in_evaluation():
    scale = RunningScale().eval()
    before = {name: value.clone() for name, value in scale.state_dict().items()}
    scale(torch.randn(2, 3, 4, 4) * 50)
    assert all(torch.equal(value, before[name]) for name, value in scale.state_dict().items())


def test_no_gradient_through_the_statistics():
    output = torch.randn(8, requires_grad=True)
    scale = RunningScale()
    (scale(output) / scale.deviation).sum().backward()
    assert output.grad is not None
    torch.testing.assert_close(output.grad, torch.full((8,), 1 / scale.deviation.item()))
