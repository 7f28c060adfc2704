"""The energy of a Gaussian, with all properties in closed form."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._abstract import AbstractEnergy, tweedie


class GaussianEnergy(AbstractEnergy):
    """The exact energy of a Gaussian field smoothed by sigma, in closed form, for tests.

    Parameters
    ----------
    mean
        Mean image ``[n, n]``.
    variance
        Variance of each pixel before smoothing: a scalar or ``[n, n]``.
    """

    mean: Float[Array, "n n"]
    variance: Float[Array, "..."]

    @property
    def box(self) -> int:
        """Pixels on a side."""
        return self.mean.shape[-1]

    def __call__(self, z, sigma):
        """Return half the squared distance from the mean in units of the total variance."""
        return 0.5 * jnp.sum((z - self.mean) ** 2 / (self.variance + sigma**2))

    def denoise(self, z, sigma):
        """Return the posterior mean of the clean image."""
        return tweedie(self, z, sigma)

    def from_white(self, white, sigma):
        """Draw ``[n, n]`` from the smoothed density, given white noise."""
        return self.mean + jnp.sqrt(self.variance + sigma**2) * white

    def to_white(self, z, sigma):
        """Undo `from_white`."""
        return (z - self.mean) / jnp.sqrt(self.variance + sigma**2)
