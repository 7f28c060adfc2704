r"""Spectra enter a blend linearly: solve for them exactly instead of searching.

With unit renderings :math:`M_k` (band b: :math:`M_{kb}`), data Y, inverse variance W and
Gaussian spectra :math:`A_k \sim N(m_k, \Lambda_k)`, the precision of all spectra
jointly is

.. math:: P_{kb,lb'} = \delta_{bb'} \sum W_b M_{kb} M_{lb} + \delta_{kl} (\Lambda_k^{-1})_{bb'}

and everything follows from one Cholesky factorisation of a KB x KB matrix.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jaxtyping import Array, Float


class SpectrumPrior(NamedTuple):
    """Gaussian prior of each source's spectrum (amplitudes per band).

    Attributes
    ----------
    mean
        ``[K, B]``.
    covariance
        ``[K, B, B]``, positive definite.
    """

    mean: Float[Array, "K B"]
    covariance: Float[Array, "K B B"]


class SpectrumPosterior(eqx.Module):
    """Spectra given the morphologies: a Gaussian, exactly.

    Attributes
    ----------
    mean
        ``[K, B]``, also the mode.
    cholesky
        ``[K B, K B]``, lower factor of the precision, sources outermost.
    log_profiled
        Log-density of pixels and spectra at the mode, up to a constant that depends
        on the data alone: what a MAP fit maximises.
    log_marginal
        Log-density of the pixels with the spectra integrated out, up to the same
        constant: what sampling needs.
    """

    mean: Float[Array, "K B"]
    cholesky: Float[Array, "KB KB"]
    log_profiled: Float[Array, ""]
    log_marginal: Float[Array, ""]

    def sample(self, key) -> Float[Array, "K B"]:
        """Draw spectra ``[K, B]`` given the morphologies, exactly."""
        noise = jax.random.normal(key, (self.cholesky.shape[0],), self.cholesky.dtype)
        step = jsl.solve_triangular(self.cholesky.T, noise, lower=False)
        return self.mean + step.reshape(self.mean.shape)

    def covariance(self) -> Float[Array, "K B K B"]:
        """Covariance of the spectra between all sources and bands."""
        inverse = jsl.cho_solve((self.cholesky, True), jnp.eye(self.cholesky.shape[0]))
        return inverse.reshape(*self.mean.shape, *self.mean.shape)


def spectrum_posterior(
    renderings: Float[Array, "K B H W"],
    images: Float[Array, "B H W"],
    weights: Float[Array, "B H W"],
    prior: SpectrumPrior,
) -> SpectrumPosterior:
    """Solve for all spectra jointly.

    Parameters
    ----------
    renderings
        Sources with unit spectra, from `ImageData.render`.
    images, weights
        The data.
    prior
        Gaussian prior; a wide one makes the result least squares.

    Returns
    -------
    SpectrumPosterior
    """
    num_sources, num_bands = renderings.shape[:2]
    weighted = renderings * weights
    normal = jnp.einsum("kbyx,lbyx->bkl", weighted, renderings)
    # The residual about the prior mean keeps float32 accurate where data decide little,
    # and makes chi^2 a sum of squares instead of a difference of large numbers.
    residual = images - jnp.einsum("kb,kbyx->byx", prior.mean, renderings)
    projected = jnp.einsum("kbyx,byx->kb", weighted, residual)
    # Solve for coefficients in units of the prior's widths: float32 sees numbers near one.
    width = jnp.sqrt(jnp.diagonal(prior.covariance, axis1=1, axis2=2))
    correlation = prior.covariance / (width[:, :, None] * width[:, None, :])
    factor = jnp.linalg.cholesky(correlation)
    inverse = jax.vmap(lambda f: jsl.cho_solve((f, True), jnp.eye(num_bands)))(factor)
    eye_bands, eye_sources = jnp.eye(num_bands), jnp.eye(num_sources)
    scaled = normal * width.T[:, :, None] * width.T[:, None, :]
    precision = jnp.einsum("bkl,bc->kblc", scaled, eye_bands)
    precision += jnp.einsum("kbc,kl->kblc", inverse, eye_sources)
    size = num_sources * num_bands
    precision = precision.reshape(size, size)
    # Equilibrate before factoring: bright and faint sources differ by 1e6 in curvature.
    balance = 1 / jnp.sqrt(jnp.diagonal(precision))
    # Unit diagonal plus the rounding of a float32 factorisation of this size: two sources
    # of almost one shape would otherwise make it fail.
    ridge = 4 * size * jnp.finfo(precision.dtype).eps
    balanced = precision * balance[:, None] * balance[None, :] + ridge * jnp.eye(size)
    lower = jnp.linalg.cholesky(balanced)
    right = (projected * width).reshape(size) * balance
    solution = (balance * jsl.cho_solve((lower, True), right)).reshape(num_sources, num_bands)
    # The minimum as a sum of squares: residuals at the solution plus the prior's share.
    step = solution * width
    left = residual - jnp.einsum("kb,kbyx->byx", step, renderings)
    chi2 = jnp.sum(weights * left**2) + jnp.einsum("kb,kbc,kc->", solution, inverse, solution)
    log_det_prior = 2 * jnp.sum(jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)))
    log_det_width = jnp.sum(jnp.log(width))
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(lower))) - 2 * jnp.sum(jnp.log(balance))
    norm = size * math.log(2 * math.pi) / 2
    log_profiled = -0.5 * chi2 - 0.5 * log_det_prior - log_det_width - norm
    log_marginal = -0.5 * chi2 - 0.5 * (log_det_prior + log_det)
    to_precision = (1 / (balance * width.reshape(size)))[:, None]
    return SpectrumPosterior(prior.mean + step, lower * to_precision, log_profiled, log_marginal)
