r"""Curvature at a point, as a change of variables.

In the stretched space a learned prior has one curvature, :math:`1/\sigma_0^2`, in most
directions, and the data add curvature in some more: several hundred per source where that is bright.
So the Hessian is a scale times identity plus directions that are fewer than all.  They come from
Hessian-vector products of the whole log-density (prior, rendering and marginalized spectra at once,
jointly over sources that overlap): by Lanczos, and where these leave much, from all products.
"""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from scorepriors.inference._posterior import Posterior

from ._differences import differenced_hessian, is_differentiable
from ._hessian import flat_product, hessian
from ._lanczos import ritz_pairs
from ._preconditioner import LowRankMap

#: Largest dimension for which the full Hessian is computed, as accurate as the density.
DENSE = 400

#: Largest number of directions that Lanczos finds beyond.
LANCZOS = 400

#: Deviation of the curvature from one, in the coordinates that these whiten, above which the full
#: Hessian is computed after all, once: 1.04 in a scene of 3,115 dimensions with two galaxies of a
#: signal to noise of 1,000, in which draws took 81 steps, and 12 with all directions; .02 in one of
#: 5,125 dimensions with galaxies of up to 195.
ROUGH = 0.3

#: Largest dimension in which it is, and the number of its directions that are kept unless asked for more.
WHOLE, RANK = 4500, 1200

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


def curvature_spectrum(bound: Posterior, u: dict, *, rank: int = RANK, key) -> Spectrum | None:
    """Return the spectrum of the Hessian at a point.

    Parameters
    ----------
    bound
        The posterior.
    u
        Unconstrained parameters of a mode, or near one.
    rank
        Largest number of directions beyond `DENSE` dimensions: `LANCZOS` at most where these are
        enough, or where there are more than `WHOLE` dimensions, unless it is above `RANK`.
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
    asked = rank > RANK
    most = rank if asked and dimension > WHOLE else min(rank, LANCZOS)
    found = _outer_spectrum(curve, flat, most, key)
    if found is None or dimension > WHOLE or rank <= LANCZOS:
        return found
    # Not the key of Lanczos' first vector, along which the map is right.
    other = jax.random.fold_in(key, 1)
    if not asked and _left(curve, whitening_map(found, flat.dtype), other) < ROUGH:
        return found
    return _leading_spectrum(curve, dimension, rank, flat.dtype) or found


def _outer_spectrum(curve, flat, rank, key) -> Spectrum | None:
    """Return the directions of the Hessian that Lanczos finds first: those at its ends."""
    scale = _site_scales(curve, key)
    if scale is None:
        return None
    one = jnp.asarray(scale, flat.dtype)
    rank = min(rank, len(flat))
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
    found = _scaled_hessian(curve, dimension, dtype)
    if found is None:
        return None
    scale, whole = found
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


def _leading_spectrum(curve, dimension, rank, dtype) -> Spectrum | None:
    """Return the directions of the full Hessian whose curvature is furthest from the typical one."""
    found = _scaled_hessian(curve, dimension, dtype)
    if found is None:
        return None
    scale, whole = found
    values, vectors = np.linalg.eigh((whole + whole.T) / 2)
    away = np.abs(np.log(np.maximum(values, FLOOR)))
    kept = np.sort(np.argsort(away)[-rank:])
    limits = np.full(len(kept), FLOOR)
    return Spectrum(scale, values[kept], vectors[:, kept], limits, curve.differences)


def _scaled_hessian(curve, dimension, dtype) -> tuple[np.ndarray, np.ndarray] | None:
    """Return widths ``[d]`` from the diagonal of the Hessian, and that in units of them, ``[d, d]``.

    None if it is not finite or has no positive diagonal element.
    """
    whole = _many_products(curve, np.eye(dimension, dtype=dtype))
    if not np.isfinite(whole).all() or not (np.diagonal(whole) > 0).any():
        return None
    scale = _scale_of(np.diagonal(whole))
    return scale, whole * scale[:, None] * scale


def _scale_of(diagonal) -> np.ndarray:
    """Return widths from the diagonal of a Hessian, the typical one where that is not positive."""
    positive = diagonal > 0
    return 1 / np.sqrt(np.where(positive, diagonal, np.median(diagonal[positive])))


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
    return _left(_curve(bound, u), whiten, key)


def _left(curve, whiten: LowRankMap, key) -> float:
    dimension = len(whiten.scale)
    probes = jax.random.normal(key, (8, dimension), whiten.scale.dtype)
    curved = whiten.transpose(jnp.asarray(_products(curve, whiten(probes)), probes.dtype))
    left = np.asarray(curved - probes, float)
    return float(np.sqrt((left**2).sum() / (np.asarray(probes, float) ** 2).sum()))


def map_rank(dimension: int, rank: int) -> int:
    """Return the usual number of directions of a map: all of few dimensions, those of Lanczos."""
    return dimension if dimension <= DENSE else min(rank, LANCZOS, dimension)


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
    """Return the products with a few ``directions [n, d]``, in double precision."""
    directions = np.asarray(directions)
    if directions.shape[1] <= DENSE:
        return _many_products(curve, directions)
    # By the program of Lanczos: another number of directions recompiles nothing.
    one = jnp.ones(directions.shape[1], directions.dtype)
    found = [np.asarray(_scaled_product(curve, one, jnp.asarray(d))) for d in directions]
    return np.stack(found).astype(float)


def _many_products(curve, directions) -> np.ndarray:
    """Return the products with many ``directions [n, d]``, in double precision."""
    count, dimension = directions.shape
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
    return _scale_of(diagonal) if (diagonal > 0).any() else None


@eqx.filter_jit
def _scaled_product(curve, scale, direction):
    return scale * curve.product(scale * direction)
