r"""Second derivatives of a scene's log-likelihood, its spectra maximized or integrated out.

With the spectra given see `scorepriors.models.rendering._information`.  Louis' identity [1]_
gives the additional terms: for an expectation over the spectra A given the morphologies,

.. math:: \partial^2 \log m = E[\partial^2 \ell] + \mathrm{Cov}[\partial \ell],

in which :math:`\ell(x, A)` is quadratic in A and A is Gaussian, so both terms are finite
sums.  (For maximized spectra the covariance is taken to leading order only.)

References
----------
.. [1] Louis (1982), Journal of the Royal Statistical Society B 44.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from scorepriors._typing import Array
from scorepriors.models.rendering._exposure import Exposure
from scorepriors.models.rendering._information import by_exposure, gather, unit_diagonal
from scorepriors.models.spectra._spectra import SpectrumPosterior, SpectrumPrior


class SceneCurvature(NamedTuple):
    """Second derivatives of a blend's log-likelihood with respect to its morphologies.

    Attributes
    ----------
    products
        Expectations of the products of two spectra, ``[K, B, K, B]``.
    slope
        Derivative of each pixel's gradient by the spectra, ``[K, n, n, K, B]``.
    shape
        Products of each pixel's image with the sources, ``[K, n, n, K, B]``, the coefficients
        of the gradient's quadratic form in the spectra.
    own
        Contribution of the spectra's prior to that, ``[K, B, B]``, the same for all pixels.
    constant
        Contribution of the spectra's prior to the second derivative, ``[K]``.
    covariance
        Covariance of the spectra, ``[K, B, K, B]``.
    marginal
        Whether the spectra are integrated out (else maximized).
    """

    products: Float[Array, "K B K B"]
    slope: Float[Array, "K n n K B"]
    shape: Float[Array, "K n n K B"]
    own: Float[Array, "K B B"]
    constant: Float[Array, " K"]
    covariance: Float[Array, "K B K B"]
    marginal: Array


def scene_curvature(
    exposures: Sequence[Exposure],
    morphology: Float[Array, "K n n"],
    corner: Int[Array, "K 2"],
    flux_prior: SpectrumPrior,
    solved: SpectrumPosterior,
    *,
    marginal: bool = True,
) -> SceneCurvature:
    """Compute the terms of the second derivatives at given morphologies.

    Parameters
    ----------
    exposures, morphology, corner
        Exposures, and boxes with their first pixels.
    flux_prior
        Prior of the *fluxes* (amplitudes times pixel sums), which does not depend on the
        morphologies.
    solved
        Spectra for these morphologies, from `spectrum_posterior` with the prior that
        `flux_prior` implies for the amplitudes.
    marginal
        Whether spectra are integrated out (else maximized).
    """
    box = morphology.shape[-1]
    mean, covariance = solved.mean, solved.covariance()
    count = len(corner)
    sources = jnp.arange(count)
    seen, rest = [], []
    for one, amplitudes in zip(exposures, by_exposure(mean, exposures), strict=True):
        unit = one.render(morphology, corner)
        residual = one.images - jnp.einsum("kb,kbyx->byx", amplitudes, unit)
        weighed = one.noise.precision(unit)
        look = partial(gather, one, corner=corner, box=box)
        seen.append(
            jnp.stack([look(jnp.broadcast_to(each, unit.shape)) for each in weighed], axis=-1)
        )
        rest.append(look(jnp.broadcast_to(one.noise.precision(residual), unit.shape)))
    shape = jnp.moveaxis(jnp.concatenate(seen, 1), 1, -1)
    left = jnp.concatenate(rest, 1)
    area = morphology.sum((-2, -1))
    precision = jnp.linalg.inv(flux_prior.covariance)
    own = area[:, None, None] * precision
    pull = jnp.einsum("kbc,kc->kb", precision, area[:, None] * mean - flux_prior.mean)
    pull += area[:, None] * jnp.einsum("kbc,kc->kb", precision, mean)
    slope = shape * -mean[:, None, None, None, :]
    slope = slope.at[sources, :, :, sources].add(jnp.moveaxis(left, 1, -1) - pull[:, None, None, :])
    products = mean[:, :, None, None] * mean
    own_products = jnp.einsum("kb,kc->kbc", mean, mean)
    if marginal:
        products += covariance
        own_products += jnp.einsum("kbkc->kbc", covariance)
    constant = jnp.einsum("kbc,kbc->k", precision, own_products) + mean.shape[1] / area**2
    return SceneCurvature(products, slope, shape, own, constant, covariance, jnp.asarray(marginal))


def scene_diagonal(
    exposures: Sequence[Exposure], curvature: SceneCurvature, corner: Int[Array, "K 2"]
) -> Float[Array, "K n n"]:
    """Return the diagonal of minus the second derivative, ``[K, n, n]``, inverse intensity^2.

    Parameters
    ----------
    exposures, corner
        Exposures, and first pixels of the boxes.
    curvature
        Result of `scene_curvature`.
    """
    count, box = curvature.shape.shape[:2]
    squares = jnp.einsum("kbkb->kb", curvature.products)
    given = jnp.einsum("kb,kbyx->kyx", squares, unit_diagonal(exposures, corner, box))
    given += curvature.constant[:, None, None]
    size = curvature.covariance.shape[0] * curvature.covariance.shape[1]
    covariance = curvature.covariance.reshape(size, size)
    slope = curvature.slope.reshape(count, box * box, size)
    linear = jnp.einsum("kic,cd,kid->ki", slope, covariance, slope)
    bands = curvature.own.shape[-1]

    def spread(source, shape):
        """Return 2 tr(Q S Q S) of one pixel, Q the matrix of its gradient's quadratic form."""
        form = jnp.zeros((count, bands, count, bands), shape.dtype)
        each = jnp.arange(bands)
        form = form.at[source, each, :, each].add(-0.5 * shape.T)
        form = form.at[:, each, source, each].add(-0.5 * shape)
        form = form.at[source, :, source, :].add(-curvature.own[source])
        product = form.reshape(size, size) @ covariance
        return 2 * jnp.sum(product * product.T)

    shape = curvature.shape.reshape(count, box * box, count, bands)
    scatter = jax.lax.map(
        lambda k: jax.lax.map(lambda one: spread(k, one), shape[k], batch_size=64),
        jnp.arange(count),
    )
    explained = linear + jnp.where(curvature.marginal, scatter, 0.0)
    return given - explained.reshape(given.shape)
