"""White noise: independent pixels."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Float

from scorepriors._typing import Array

from ._abstract import AbstractNoise


class Diagonal(AbstractNoise):
    """Independent pixels of known inverse variance.

    Attributes
    ----------
    weights
        Inverse variances ``[B, H, W]`` in inverse image units squared; 0 where masked.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> noise = Diagonal(jnp.full((1, 2, 2), 4.0))
    >>> noise.inner(jnp.ones((1, 2, 2)), jnp.ones((1, 2, 2))).tolist()
    [16.0]
    """

    weights: Float[Array, "B H W"]

    def precision(self, images: Float[Array, "*N B H W"]) -> Float[Array, "*N B H W"]:
        """Return images times their weights."""
        return self.weights * images

    def diagonal(self) -> Float[Array, "B H W"]:
        """Return the weights."""
        return self.weights

    def sample(self, key) -> Float[Array, "B H W"]:
        """Draw noise; zero where masked."""
        white = jax.random.normal(key, self.weights.shape, self.weights.dtype)
        return jnp.where(self.weights > 0, white * self._scale(), 0.0)

    def distribution(self, model: Float[Array, "B H W"]) -> dist.Distribution:
        """Return the normal distribution of unmasked pixels."""
        return dist.Normal(model, self._scale()).mask(self.weights > 0)

    def _scale(self):
        return 1 / jnp.sqrt(jnp.where(self.weights > 0, self.weights, 1.0))
