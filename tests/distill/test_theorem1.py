"""Theorem 1 against Python's own numbers, and its claims as properties."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adderkit.distill import theorem1

numbers = st.floats(-2, 2, allow_nan=False, width=32)
vectors = st.integers(1, 4).flatmap(lambda k: st.tuples(*[st.lists(numbers, min_size=k, max_size=k)] * 2))
sigmas = st.floats(0.5, 3)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


@given(vectors, st.integers(0, 6))
def test_features_are_the_kernel_of_their_degree(pair, degree):
    """K_n = P_n (x.f)^n / n!, with fractions, which round nothing; sigma 1, so P_n = (-1/2)^n."""
    x, f = pair
    dot = sum((Fraction(a) * Fraction(b) for a, b in zip(x, f, strict=True)), Fraction(0))
    magnitude = sum((abs(Fraction(a) * Fraction(b)) for a, b in zip(x, f, strict=True)), Fraction(0))
    expected = Fraction(-1, 2) ** degree * dot**degree / math.factorial(degree)
    scale = float(Fraction(1, 2) ** degree * magnitude**degree / math.factorial(degree))
    found = theorem1.polynomial_kernel(tensor(x), tensor(f), 1.0, degree).item()
    assert abs(found - float(expected)) <= 1e-13 * scale + 1e-300


@given(vectors, sigmas)
def test_series_comes_to_the_kernel(pair, sigma):
    """The remainder after degree n is at most |t|^(n+1)/(n+1)! max(1, e^t): Lagrange."""
    x, f = pair
    products = (tensor(x) * tensor(f)).sum()
    t = -products.item() / (2 * sigma**2)
    for degree in (0, 1, 3, 10, 60):
        error = abs(theorem1.truncated(products, sigma, degree).item() - math.exp(t))
        bound = abs(t) ** (degree + 1) / math.factorial(degree + 1) * max(1.0, math.exp(t))
        assert error <= bound * (1 + 1e-9) + 1e-14 * math.exp(abs(t))


@given(st.integers(1, 5), st.integers(0, 5))
def test_monomials_are_counted(dimensions, degree):
    exponents = [powers for powers in product(range(degree + 1), repeat=dimensions) if sum(powers) == degree]
    assert theorem1.monomials(dimensions, degree) == len(exponents)
    assert theorem1.features(torch.ones(dimensions, dtype=torch.float64), 1.0, degree).shape == (len(exponents),)


@given(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=2, max_size=5), st.integers(0, 4), sigmas)
def test_features_alone_are_positive_definite_and_the_sign_is_kept_apart(points, degree, sigma):
    """Gram matrices of |K_n| have no negative eigenvalue; with the sign, odd degrees have no positive one."""
    x = tensor(points)
    phi = theorem1.features(x, sigma, degree)
    gram = phi @ phi.T
    slack = 1e-12 * max(1.0, gram.abs().max().item())
    assert torch.linalg.eigvalsh(gram).min() >= -slack
    signed = theorem1.polynomial_kernel(x[:, None], x[None], sigma, degree)
    assert torch.allclose(signed, gram if degree % 2 == 0 else -gram, atol=slack)


def test_the_whole_is_not_positive_definite():
    """Two points are enough: exp(-x.f) of 0 and 2 has the determinant 1 exp(-4) - 1 < 0."""
    x = tensor([[0.0], [2.0]])
    gram = theorem1.exact(x @ x.T, math.sqrt(0.5))
    assert torch.linalg.eigvalsh(gram).min() < -0.1


def test_the_exact_kernel_is_not_limited():
    """exp(15): `kernels.convolution_kernel` stops at exp(10)."""
    assert theorem1.exact(tensor([-30.0]), 1.0).item() == pytest.approx(math.exp(15), rel=1e-14)
    assert theorem1.truncated(tensor([-30.0]), 1.0, 80).item() == pytest.approx(math.exp(15), rel=1e-12)


def test_features_of_high_degrees():
    """One variable, degree 200: 200! is beyond float64, Phi_200(20)^2 = 400^200 / (2^200 200!) is not."""
    found = theorem1.features(tensor([20.0]), 1.0, 200).item() ** 2
    assert found == pytest.approx(float(Fraction(200) ** 200 / math.factorial(200)), rel=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theorem1.coefficient(-1, 1.0), r"`degree` \(=-1\) must be >= 0"),
        (lambda: theorem1.coefficient(2, 0.0), r"`sigma` \(=0.0\) must be a positive number"),
        (lambda: theorem1.coefficient(2, 1e-200), r"`sigma` \(=1e-200\) must be a positive number"),
        (lambda: theorem1.coefficient(2, math.inf), r"`sigma` \(=inf\) must be a positive number"),
        (lambda: theorem1.coefficient(100, 0.01), r"`degree` \(=100\) with `sigma` \(=0.01\) gives a P_n beyond"),
        (lambda: theorem1.features(torch.ones(2), 1.0, -1), r"`degree` \(=-1\) must be >= 0"),
        (lambda: theorem1.features(torch.ones(144), 1.0, 6), r"`degree` \(=6\) gives \d+ monomials in 144 variables"),
    ],
)
def test_what_can_not_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
