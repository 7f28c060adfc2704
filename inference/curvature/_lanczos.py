"""Eigenvalues and vectors of a symmetric operator from its products with vectors."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal


class RitzPairs(NamedTuple):
    """Approximate eigenpairs, by ascending eigenvalue.

    Attributes
    ----------
    values
        ``[m]``.
    vectors
        ``[d, m]``, orthonormal columns.
    residuals
        ``[m]``, norms of H v - lambda v: some eigenvalue lies that close to each value.
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray


def lanczos(product: Callable, dimension: int, steps: int, *, seed, rounding: float) -> RitzPairs:
    """Ritz pairs of a symmetric operator.

    With full reorthogonalization in float64 on the host, and a fresh direction where
    the Krylov space is exhausted: a bulk of equal eigenvalues exhausts it early, and
    libraries for accelerators go on with noise there.

    Parameters
    ----------
    product
        From a vector ``[d]`` to the operator times it, both NumPy.
    dimension
        d.
    steps
        Number of products m.
    seed
        Of `numpy.random.default_rng`, for the first vector.
    rounding
        Relative accuracy of the products.
    """
    rng = np.random.default_rng(seed)
    basis = np.zeros((steps, dimension))
    diagonal, beside = np.zeros(steps), np.zeros(steps)
    vector = _fresh(rng, basis[:0])
    for i in range(steps):
        basis[i] = vector
        image = np.asarray(product(vector), float)
        diagonal[i] = image @ vector
        rest = image
        for _ in range(2):  # once is not enough in finite precision
            rest = rest - basis[: i + 1].T @ (basis[: i + 1] @ rest)
        beside[i] = np.linalg.norm(rest)
        noise = 10 * rounding * np.linalg.norm(image)
        if not np.isfinite(beside[i]):
            nothing = np.full(steps, np.nan)
            return RitzPairs(nothing, basis.T, nothing)
        if beside[i] > noise * np.sqrt(dimension):
            vector = rest / beside[i]
        else:
            beside[i] = 0.0
            vector = _fresh(rng, basis[: i + 1])
    values, vectors = eigh_tridiagonal(diagonal, beside[:-1])
    return RitzPairs(values, basis.T @ vectors, np.abs(beside[-1] * vectors[-1]))


def _fresh(rng, basis):
    """A random unit vector orthogonal to the rows of a basis."""
    vector = rng.normal(size=basis.shape[1])
    for _ in range(2):
        vector -= basis.T @ (basis @ vector)
    return vector / np.linalg.norm(vector)
