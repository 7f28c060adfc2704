r"""The likelihood of a blend from inner products of its sources, without its pixels.

A sampler that proposes other shapes for one source after the other needs the likelihood of
many combinations of the same few images.  With the spectra integrated out it depends on the
images through their weighted inner products alone,

.. math:: \sum_p W_{bp} M_{kbp} M_{lbp}, \quad \sum_p W_{bp} M_{kbp} r_{bp}, \quad
          \sum_p W_{bp} r_{bp}^2,

which are computed once.  Here r is a residual: with the data themselves the sums would be
differences of large numbers, for which single precision is not enough.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float

from scorepriors._typing import Array
from scorepriors.models.noise._abstract import AbstractNoise

from ._spectra import SpectrumPrior, _by_band, normal_equations


class Products(NamedTuple):
    """Weighted inner products of N images and a residual, band by band.

    Attributes
    ----------
    normal
        Products of the images with each other, ``[B, N, N]``.
    projected
        Products of the images with the residual, ``[B, N]``.
    square
        Products of the residual with itself, ``[B]``.
    """

    normal: Float[Array, "B N N"]
    projected: Float[Array, "B N"]
    square: Float[Array, " B"]


def inner_products(
    drawn: Sequence[Float[Array, "N _ _ _"]],
    residual: Sequence[Float[Array, "_ _ _"]],
    noise: Sequence[AbstractNoise],
) -> Products:
    """Return all weighted inner products of images and a residual, over all exposures.

    Parameters
    ----------
    drawn, residual, noise
        Images ``[N, B, H, W]``, residual ``[B, H, W]`` and noise of every exposure.
    """
    found = []
    for images, left, model in zip(drawn, residual, noise, strict=True):
        weighted = _by_band(model.precision(images))
        found.append(
            Products(
                weighted @ jnp.swapaxes(_by_band(images), 1, 2),
                jnp.einsum("bnp,bp->bn", weighted, left.reshape(len(left), -1)),
                model.inner(left, left),
            )
        )
    return Products(*(jnp.concatenate(parts) for parts in zip(*found, strict=True)))


def chosen(products: Products, before: Float[Array, "K B"], taken: Bool[Array, " K"]) -> Products:
    """Return the products of K images, some of them changed, with their residual.

    Parameters
    ----------
    products
        Products of K images and then, in the same order, of the change of each, with the
        residual of the unchanged images.  (Not of the changed images themselves: where the two
        are nearly equal, as for a bright galaxy, their difference would be rounding error.)
    before
        Amplitudes ``[K, B]`` with which images are subtracted before and after.
    taken
        Whether each image is changed.
    """
    size = len(before)
    share = jnp.asarray(taken, products.normal.dtype)
    old, cross = products.normal[:, :size, :size], products.normal[:, :size, size:] * share
    change = products.normal[:, size:, size:] * share * share[:, None]
    # The residual is smaller by the changes times their amplitudes.
    added = before.T * share
    projected = products.projected[:, :size] - jnp.einsum("bkl,bl->bk", cross, added)
    along = share * products.projected[:, size:]
    moved = along - jnp.einsum("bkl,bl->bk", change, added)
    square = products.square - jnp.sum(added * (along + moved), 1)
    return Products(old + cross + jnp.swapaxes(cross, 1, 2) + change, projected + moved, square)


def log_marginal(
    products: Products, prior: SpectrumPrior, before: Float[Array, "K B"]
) -> Float[Array, ""]:
    """Return the log-density of the pixels with the spectra integrated out.

    Parameters
    ----------
    products
        Products of the K sources, with their residual for amplitudes `before`.
    prior
        Prior of the amplitudes.
    before
        Amplitudes ``[K, B]``, for precision near the solution where the data determine it.

    Returns
    -------
    Array
        Value of `SpectrumPosterior.log_marginal`, up to rounding.
    """
    equations, solution = _solved(products, prior, before)
    # The solution is relative to the prior's mean, near it where the prior dominates; chi^2 is
    # relative to `before`, near the solution where the pixels dominate.
    step = equations.step(solution) - (before - prior.mean)
    moved = jnp.einsum("bkl,lb->kb", products.normal, step)
    chi2 = products.square.sum() + jnp.sum(step * (moved - 2 * products.projected.T))
    chi2 += jnp.sum(equations.pull(solution) * solution)
    return -0.5 * (chi2 + equations.log_det_prior + equations.log_det)


def mean_spectra(
    products: Products, prior: SpectrumPrior, before: Float[Array, "K B"]
) -> Float[Array, "K B"]:
    """Return the posterior mean of the amplitudes; arguments as for `log_marginal`."""
    equations, solution = _solved(products, prior, before)
    return prior.mean + equations.step(solution)


def _solved(products: Products, prior: SpectrumPrior, before):
    """Return the equations of the spectra, and their solution in units of the prior's widths."""
    equations = normal_equations(products.normal, prior)
    away = jnp.einsum("bkl,lb->kb", products.normal, before - prior.mean)
    return equations, equations.solve(products.projected.T + away)
