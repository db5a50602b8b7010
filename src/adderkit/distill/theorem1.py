"""Theorem 1 of PKKD: the convolution's kernel as a sum of polynomial kernels, one for each degree.

`exp(-x.f / (2 sigma^2)) = sum over n of P_n (x.f)^n / n! = sum over n of sign(P_n) <Phi_n(x), Phi_n(f)>`,
`P_n = (-1 / (2 sigma^2))^n`, and `Phi_n` has an entry for each monomial of degree n.

Departure: the proof writes `sqrt(P_n)` into `Phi_n`, which is imaginary for odd n, where P_n is negative: K_n is not
positive definite there, and neither is the sum. Here `Phi_n` takes `sqrt(|P_n|)` and the sign stays apart.

Source: PKKD supplementary, section 1, equations 1 and 2.
"""

from __future__ import annotations

import math
from itertools import combinations_with_replacement

import torch
from torch import Tensor

__all__ = ["coefficient", "exact", "features", "monomials", "polynomial_kernel", "truncated"]

_MOST = 10_000_000  # monomials: 80 MB for each vector in float64


def coefficient(degree: int, sigma: float) -> float:
    """P_n = (-1 / (2 sigma^2))^n.

    Raises:
        ValueError: a negative degree, a sigma outside 1e-100 to 1e100, or a P_n beyond float64.
    """
    _check(degree)
    if not 1e-100 <= sigma <= 1e100:
        raise ValueError(f"`sigma` (={sigma}) must be a positive number, from 1e-100 to 1e100")
    try:
        return (-1 / (2 * sigma**2)) ** degree
    except OverflowError:
        raise ValueError(f"`degree` (={degree}) with `sigma` (={sigma}) gives a P_n beyond float64") from None


def _check(degree: int) -> None:
    if degree < 0:
        raise ValueError(f"`degree` (={degree}) must be >= 0")


def exact(products: Tensor, sigma: float) -> Tensor:
    """The kernel itself, exp(-x.f / (2 sigma^2)) (equation 1); `kernels.convolution_kernel` limits its exponent.

    Args:
        products: x.f, any shape, floating point.

    Returns:
        The shape and type of `products`.
    """
    return torch.exp(products * coefficient(1, sigma))


def truncated(products: Tensor, sigma: float, degree: int) -> Tensor:
    """The series up to and including `degree`: sum of P_n p^n / n! (equation 1).

    Args:
        products: x.f, any shape, floating point.

    Returns:
        The shape and type of `products`.
    """
    step = products * coefficient(1, sigma)
    _check(degree)
    term = torch.ones_like(products)
    total = term.clone()
    for n in range(1, degree + 1):
        term = term * step / n
        total = total + term
    return total


def monomials(dimensions: int, degree: int) -> int:
    """L = (n + k - 1)! / (n! (k - 1)!): how many monomials of degree n there are in k variables."""
    return math.comb(degree + dimensions - 1, degree)


def features(vectors: Tensor, sigma: float, degree: int) -> Tensor:
    """Phi_n: `sqrt(|P_n| / (n_1! ... n_k!)) x_1^n_1 ... x_k^n_k` for every monomial with n_1 + ... + n_k = n.

    Args:
        vectors: (..., k), floating point.

    Returns:
        (..., L), in lexicographic order of the variables.

    Raises:
        ValueError: more than 10 million monomials.
    """
    _check(degree)
    log_scale = degree * math.log(-coefficient(1, sigma))
    dimensions = vectors.shape[-1]
    if monomials(dimensions, degree) > _MOST:
        raise ValueError(
            f"`degree` (={degree}) gives {monomials(dimensions, degree)} monomials in {dimensions} variables; "
            f"at most {_MOST} are computed"
        )
    chosen = list(combinations_with_replacement(range(dimensions), degree))
    # By logarithms: 171! is beyond float64.
    factorials = [sum(math.lgamma(variables.count(i) + 1) for i in set(variables)) for variables in chosen]
    # Beyond float64 these are infinite, as their products would be.
    weights = vectors.new_tensor([(log_scale - factorial) / 2 for factorial in factorials], dtype=torch.float64).exp()
    weights = weights.to(vectors.dtype)
    index = torch.tensor(chosen, dtype=torch.int64, device=vectors.device).view(len(chosen), degree)
    return vectors[..., index].prod(-1) * weights


def polynomial_kernel(x: Tensor, f: Tensor, sigma: float, degree: int) -> Tensor:
    """K_n(x, f) = sign(P_n) <Phi_n(x), Phi_n(f)> (equation 2), (..., k) and (..., k) to (...)."""
    sign = -1.0 if degree % 2 else 1.0
    return sign * (features(x, sigma, degree) * features(f, sigma, degree)).sum(-1)
