r"""Curvature at a point, as a change of variables.

In the stretched space a learned prior has one curvature, :math:`1/\sigma_0^2`, in all
directions but some fifty per source, and the data add curvature in some more.  So the Hessian
is a scale times identity plus few directions, which Lanczos finds from Hessian-vector
products of the whole log-density: prior, rendering and marginalized spectra at once,
jointly over sources that overlap.
"""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from scorepriors.inference._lanczos import ritz_pairs
from scorepriors.inference._posterior import Posterior

from ._differences import differenced_hessian, is_differentiable
from ._hessian import flat_product, hessian
from ._preconditioner import LowRankMap

#: Largest dimension for which the full Hessian is computed.
DENSE = 400

#: Largest number of elements of sites with a scale per element; larger ones have one scale.
SMALL_SITE = 64

#: Lower limit of curvatures in units of the typical one, for chains; warm-up draws determine the
#: width of the posterior in directions of smaller or negative curvature.
FLOOR = 0.01

#: Number of products by one call, which limits the memory.
BATCH = 16

#: Number of times that a full Hessian is computed at most, each in the coordinates that the one
#: before whitens.
PASSES = 3

#: Ratio of a curvature to its rounding error below which it is computed again.
ACCURATE = 100.0

#: Ratio of a curvature to its rounding error above which it is known.
KNOWN = 3.0


class Spectrum(NamedTuple):
    """Eigenvalues of the Hessian in units of its typical size per coordinate.

    Attributes
    ----------
    scale
        Widths ``[d]``, by which the coordinates are divided first.
    values
        Eigenvalues ``[r]``, ascending; all others are taken to be one.
    vectors
        Eigenvectors ``[d, r]``.
    limits
        Size ``[r]`` below which a value is taken for zero: a multiple of its rounding error
        for a full Hessian, `FLOOR` otherwise.
    differences
        Whether the Hessian is from differences of gradients: see `differenced_hessian`.
    """

    scale: np.ndarray
    values: np.ndarray
    vectors: np.ndarray
    limits: np.ndarray
    differences: bool

    @property
    def negative(self) -> int:
        """Number of values that are negative beyond their limits."""
        return int((self.values < -self.limits).sum())

    @property
    def flat(self) -> int:
        """Number of values that can't be told from zero."""
        return int((np.abs(self.values) <= self.limits).sum())


def curvature_spectrum(bound: Posterior, u: dict, *, rank: int = 400, key) -> Spectrum | None:
    """Return the spectrum of the Hessian at a point.

    Parameters
    ----------
    bound
        The posterior.
    u
        Unconstrained parameters of a mode, or near one.
    rank
        Largest number of directions to find, beyond `DENSE` dimensions.
    key
        Random key for the starting vector of Lanczos and the probes of the diagonal.

    Returns
    -------
    Spectrum or None
        The spectrum; None if the Hessian is not finite or has no positive eigenvalue.
    """
    flat, _ = ravel_pytree(u)
    dimension = len(flat)
    curve = _curve(bound, u)
    if dimension <= DENSE:
        return _full_spectrum(curve, dimension, flat.dtype)
    scale = _site_scales(curve, key)
    if scale is None:
        return None
    one = jnp.asarray(scale, flat.dtype)
    rank = map_rank(dimension, rank)
    values, vectors, _ = ritz_pairs(partial(_scaled_product, curve, one), one, rank, key)
    if not np.isfinite(values).all():
        return None
    return Spectrum(scale, values, vectors, np.full(len(values), FLOOR), curve.differences)


def _full_spectrum(curve, dimension, dtype) -> Spectrum | None:
    """Return the spectrum of the full Hessian, with small values as accurate as the density's.

    The rounding error of a Hessian's elements is a part `eps` of its largest eigenvalue, which
    leaves no digits of one that is smaller by that.  Products with a *vector* along such a soft
    direction have them: their cancelation happens in the model, where residuals are.  So the
    Hessian is computed again in the coordinates that whiten it, where all eigenvalues are
    about one; a relative error `eps` times the root of the ratio of curvatures is left.
    """
    eps = float(jnp.finfo(dtype).eps)
    whole = _products(curve, np.eye(dimension, dtype=dtype))
    if not np.isfinite(whole).all() or not (np.diagonal(whole) > 0).any():
        return None
    diagonal = np.diagonal(whole)
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, np.median(diagonal[diagonal > 0])))
    whole = whole * scale[:, None] * scale
    values, vectors = np.linalg.eigh((whole + whole.T) / 2)
    error = _asymmetry(whole) + 2 * eps * np.abs(values).max() * np.ones(dimension)
    for _ in range(PASSES - 1):
        if (np.abs(values) > ACCURATE * error).all():
            break
        size = np.maximum(np.abs(values), error)
        columns = (scale[:, None] * vectors / np.sqrt(size)).astype(dtype)
        products = _products(curve, columns.T)
        if not np.isfinite(products).all():
            break
        white = products @ columns.astype(float)
        root = np.sqrt(size)
        values, turn = np.linalg.eigh((white + white.T) / 2 * root[:, None] * root)
        vectors = vectors @ turn
        # Errors of the whitened elements, and of the root of the ratio of curvatures.
        mixed = (turn**2).T @ size
        error = _asymmetry(white) * mixed + 2 * eps * np.sqrt(np.abs(values).max() * mixed)
    return Spectrum(scale, values, vectors, KNOWN * error, curve.differences)


def _asymmetry(matrix) -> float:
    """Return the norm of a matrix less its transpose: twice the rounding error of either."""
    return float(np.linalg.norm(matrix - matrix.T, 2)) / 2


def whitening_map(found: Spectrum, dtype, *, exact: bool = False) -> LowRankMap:
    """Return the map that whitens a spectrum.

    Parameters
    ----------
    found
        The spectrum.
    dtype
        Type of the map.
    exact
        Whether only values below their limits are raised to `FLOOR`, instead of all smaller ones:
        for a Gaussian about a mode.
    """
    low = found.values <= found.limits if exact else found.values < FLOOR
    gain = 1 / np.sqrt(np.where(low, FLOOR, found.values))
    return LowRankMap(
        jnp.asarray(found.scale, dtype), jnp.asarray(found.vectors, dtype), jnp.asarray(gain, dtype)
    )


def whitening_error(bound: Posterior, u: dict, whiten: LowRankMap, *, key) -> float:
    """Return the deviation of the curvature from one in the coordinates of a map.

    Root mean square of the eigenvalues less one, from products with random directions.
    """
    dimension = len(whiten.scale)
    probes = jax.random.normal(key, (8, dimension), whiten.scale.dtype)
    curved = whiten.transpose(
        jnp.asarray(_products(_curve(bound, u), whiten(probes)), probes.dtype)
    )
    left = np.asarray(curved - probes, float)
    return float(np.sqrt((left**2).sum() / (np.asarray(probes, float) ** 2).sum()))


def map_rank(dimension: int, rank: int) -> int:
    """Return the number of directions of a map: all where the full Hessian is computed."""
    return dimension if dimension <= DENSE else min(rank, dimension)


class _Curve(eqx.Module):
    """A posterior at a point, for products with its Hessian."""

    bound: Posterior
    point: dict
    differences: bool = eqx.field(static=True, default=False)

    def product(self, direction):
        """Return the Hessian of the potential times a flat vector."""
        make = differenced_hessian if self.differences else hessian
        return flat_product(make(self.bound.potential_fn, self.point), direction)


def _curve(bound, u) -> _Curve:
    """Return a curve with derivatives that the model has."""
    curve = _Curve(bound, u)
    flat, _ = ravel_pytree(u)
    # The compiled program that is traced here keeps its trace.
    if len(flat) <= DENSE:
        rows = jax.ShapeDtypeStruct((_batch(len(flat)), len(flat)), flat.dtype)
        works = is_differentiable(_block, curve, rows)
    else:
        one = jax.ShapeDtypeStruct((1, len(flat)), flat.dtype)
        works = is_differentiable(jax.vmap(partial(_scaled_product, curve)), one, one)
    return curve if works else _Curve(bound, u, differences=True)


def _batch(dimension: int) -> int:
    """Return the number of products by one call for the full Hessian."""
    return min(BATCH, dimension)


def _products(curve, directions) -> np.ndarray:
    """Return the products with ``directions [n, d]``, in double precision."""
    directions = np.asarray(directions)
    count, dimension = directions.shape
    if dimension > DENSE:
        # By the program of Lanczos: another number of directions recompiles nothing.
        one = jnp.ones(dimension, directions.dtype)
        found = [np.asarray(_scaled_product(curve, one, jnp.asarray(d))) for d in directions]
        return np.stack(found).astype(float)
    batch = _batch(dimension)
    # Padded to full batches: a smaller last one would be compiled separately.
    rows = np.pad(directions, ((0, -count % batch), (0, 0)))
    parts = [np.asarray(_block(curve, rows[i : i + batch])) for i in range(0, len(rows), batch)]
    return np.concatenate(parts)[:count].astype(float)


@eqx.filter_jit
def _block(curve, rows):
    return jax.vmap(curve.product)(rows)


def _site_scales(curve, key, probes: int = 8):
    """Return a scale per coordinate: per element of small sites, one for each large site."""
    u = curve.point
    flat, _ = ravel_pytree(u)
    labels = {n: np.full(v.shape, i) for i, (n, v) in enumerate(u.items())}
    label = np.concatenate([np.ravel(labels[n]) for n in sorted(u)])
    small = np.isin(label, [i for i, v in enumerate(u.values()) if v.size <= SMALL_SITE])
    where = np.flatnonzero(small)
    unit = np.zeros((len(where), len(flat)), np.float32)
    unit[np.arange(len(where)), where] = 1
    signs = np.asarray(jax.random.rademacher(key, (probes, len(flat)), jnp.float32))
    products = _products(curve, np.concatenate([unit, signs]).astype(flat.dtype))
    if not np.isfinite(products).all():
        return None
    # Hutchinson's estimate of the diagonal is noisy per element, its median much less.
    diagonal = (products[len(where) :] * signs).mean(0)
    diagonal[where] = products[np.arange(len(where)), where]
    for i in np.unique(label[~small]):
        diagonal[label == i] = np.median(diagonal[label == i])
    positive = diagonal > 0
    if not positive.any():
        return None
    return 1 / np.sqrt(np.where(positive, diagonal, np.median(diagonal[positive])))


@eqx.filter_jit
def _scaled_product(curve, scale, direction):
    return scale * curve.product(scale * direction)
