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

from scorepriors.inference._posterior import Posterior

from ._hessian import flat_product, hessian
from ._lanczos import ritz_pairs
from ._preconditioner import LowRankMap

#: Largest dimension for which the full Hessian is computed.
DENSE = 400

#: Largest number of elements of sites with a scale per element; larger ones have one scale.
SMALL_SITE = 64

#: Lower limit of curvatures in units of the typical one; warm-up draws determine the width
#: of the posterior in directions of smaller or negative curvature.
FLOOR = 0.01


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
    """

    scale: np.ndarray
    values: np.ndarray
    vectors: np.ndarray


def curvature_spectrum(bound: Posterior, u: dict, *, rank: int = 400, key) -> Spectrum | None:
    """Return the spectrum of the Hessian at u; arguments and None as for `curvature_map`."""
    flat, _ = ravel_pytree(u)
    dimension = len(flat)
    rank = map_rank(dimension, rank)
    if dimension <= DENSE:
        whole = np.asarray(_dense(bound, u), float)
        if not np.isfinite(whole).all() or not (np.diagonal(whole) > 0).any():
            return None
        diagonal = np.diagonal(whole)
        scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, np.median(diagonal[diagonal > 0])))
        values, vectors = np.linalg.eigh(whole * scale[:, None] * scale)
    else:
        scale = _site_scales(bound, u, key)
        if scale is None:
            return None
        one = jnp.asarray(scale, flat.dtype)
        product = partial(_scaled_product, bound, u, one)
        values, vectors, _ = ritz_pairs(product, one, rank, key)
    return Spectrum(scale, values, vectors) if np.isfinite(values).all() else None


def curvature_map(bound: Posterior, u: dict, *, rank: int = 400, key) -> LowRankMap | None:
    """Return the map in whose coordinates the posterior has about unit curvature at u.

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
    LowRankMap or None
        The map; None if the Hessian is not finite or has no positive eigenvalue.
    """
    found = curvature_spectrum(bound, u, rank=rank, key=key)
    if found is None:
        return None
    return whitening_map(found, ravel_pytree(u)[0].dtype)


def whitening_map(found: Spectrum, dtype) -> LowRankMap:
    """Return the map that whitens a spectrum, with smaller values raised to `FLOOR`."""
    gain = 1 / np.sqrt(np.maximum(found.values, FLOOR))
    return LowRankMap(
        jnp.asarray(found.scale, dtype), jnp.asarray(found.vectors, dtype), jnp.asarray(gain, dtype)
    )


def whitening_error(bound: Posterior, u: dict, whiten: LowRankMap, *, key) -> float:
    """Return the deviation of the curvature from one in the coordinates of a map.

    Root mean square of the eigenvalues less one, from products with random directions.
    """
    dimension = len(whiten.scale)
    probes = jax.random.normal(key, (8, dimension), whiten.scale.dtype)
    curved = jax.vmap(whiten.transpose)(_products(bound, u, jax.vmap(whiten)(probes)))
    left = np.asarray(curved - probes, float)
    return float(np.sqrt((left**2).sum() / (np.asarray(probes, float) ** 2).sum()))


def map_rank(dimension: int, rank: int) -> int:
    """Return the number of directions of a map: all where the full Hessian is computed."""
    return dimension if dimension <= DENSE else min(rank, dimension)


def _hessian_product(bound, u, direction):
    """Return the Hessian of the potential times a flat vector."""
    return flat_product(hessian(bound.potential_fn, u), direction)


@eqx.filter_jit
def _dense(bound, u):
    flat, _ = ravel_pytree(u)
    size = len(flat)
    # Padded to full batches: a smaller last one would be compiled separately.
    rows = jnp.eye(-(-size // 16) * 16, size, dtype=flat.dtype)
    return jax.lax.map(partial(_hessian_product, bound, u), rows, batch_size=16)[:size]


def _products(bound, u, directions):
    # By the program of Lanczos: another number of directions recompiles nothing.
    one = jnp.ones(directions.shape[-1], directions.dtype)
    return jnp.stack([_scaled_product(bound, u, one, direction) for direction in directions])


def _site_scales(bound, u, key, probes: int = 8):
    """Return a scale per coordinate: per element of small sites, one for each large site."""
    flat, _ = ravel_pytree(u)
    labels = {n: np.full(v.shape, i) for i, (n, v) in enumerate(u.items())}
    label = np.concatenate([np.ravel(labels[n]) for n in sorted(u)])
    small = np.isin(label, [i for i, v in enumerate(u.values()) if v.size <= SMALL_SITE])
    where = np.flatnonzero(small)
    unit = np.zeros((len(where), len(flat)), np.float32)
    unit[np.arange(len(where)), where] = 1
    signs = np.asarray(jax.random.rademacher(key, (probes, len(flat)), jnp.float32))
    products = np.asarray(
        _products(bound, u, jnp.asarray(np.concatenate([unit, signs]), flat.dtype)), float
    )
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
def _scaled_product(bound, u, scale, direction):
    return scale * _hessian_product(bound, u, scale * direction)
