"""Interface of models of the noise."""

import abc

import equinox as eqx
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Float

from scorepriors._typing import Array


class AbstractNoise(eqx.Module):
    r"""Gaussian noise of the pixels of one exposure, independent between its bands.

    Exact spectra, likelihoods and curvatures of a scene need only products with the precision
    matrix :math:`N_b^{-1}` of the pixels of band b.  A new model of the noise is a subclass with
    `precision`, `diagonal`, `sample` and `distribution`.

    Notes
    -----
    A masked pixel has no weight: its row and column of the precision matrix are zero.
    """

    @abc.abstractmethod
    def precision(self, images: Float[Array, "*N B H W"]) -> Float[Array, "*N B H W"]:
        """Multiply images by the precision matrix of the pixels; zero where masked."""

    @abc.abstractmethod
    def diagonal(self) -> Float[Array, "B H W"]:
        """Return the diagonal of the precision matrix; zero where masked."""

    @abc.abstractmethod
    def sample(self, key) -> Float[Array, "B H W"]:
        """Draw noise; zero where masked."""

    @abc.abstractmethod
    def distribution(self, model: Float[Array, "B H W"]) -> dist.Distribution:
        """Return the distribution of the pixels about a model image, for the site ``pixels``.

        With ``event_shape`` ``()`` where pixels are independent (leave-one-out then works pixel by
        pixel), and ``(H, W)`` where they are correlated within a band.
        """

    def inner(
        self, first: Float[Array, "*N B H W"], second: Float[Array, "*N B H W"]
    ) -> Float[Array, "*N B"]:
        """Return inner products of images under the precision matrix, band by band."""
        return jnp.sum(first * self.precision(second), (-2, -1))

    def log_likelihood(self, residual: Float[Array, "B H W"]) -> Float[Array, ""]:
        """Return the normalized log-density of a residual, data minus model (paper eq. 12)."""
        return jnp.sum(self.distribution(jnp.zeros_like(residual)).log_prob(residual))
