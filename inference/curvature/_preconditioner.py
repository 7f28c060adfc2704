r"""Linear changes of variables that whiten a posterior.

Samplers use coordinates q in which the posterior has unit width in every direction,

.. math:: u = c + T_1 T_2 q, \qquad
          T q = s \odot (q + V\,((g - 1) \odot V^\top q)),

with orthonormal columns V: a scale per coordinate and a stretch g along few directions.
The first map comes from the curvature at the start, the second from warm-up draws.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class LowRankMap(eqx.Module):
    """``s * (q + V ((g - 1) * (V' q)))``, invertible in closed form.

    Attributes
    ----------
    scale
        Scale per coordinate, ``[d]``.
    basis
        Orthonormal columns ``[d, r]`` (columns of zeros have no effect).
    gain
        Stretch along each column, ``[r]``.
    """

    scale: Float[Array, " d"]
    basis: Float[Array, "d r"]
    gain: Float[Array, " r"]

    def __call__(self, q):
        """Apply to vectors ``[..., d]``."""
        return self.scale * (q + ((q @ self.basis) * (self.gain - 1)) @ self.basis.T)

    def transpose(self, x):
        """Apply the transpose to vectors ``[..., d]``."""
        y = self.scale * x
        return y + ((y @ self.basis) * (self.gain - 1)) @ self.basis.T

    def inverse(self, x):
        """Undo `__call__`."""
        q = x / self.scale
        return q + ((q @ self.basis) * (1 / self.gain - 1)) @ self.basis.T

    def gradient_before(self, gradient):
        """Return the gradient with respect to the result, from that with respect to q."""
        g = gradient + ((gradient @ self.basis) * (1 / self.gain - 1)) @ self.basis.T
        return g / self.scale


def identity_map(dimension: int, rank: int, dtype=jnp.float32) -> LowRankMap:
    """Return the identity, with arrays for `rank` directions."""
    return LowRankMap(
        jnp.ones(dimension, dtype), jnp.zeros((dimension, rank), dtype), jnp.ones(rank, dtype)
    )


def refine(draws, gradients, rank: int) -> LowRankMap:
    """Return the map that whitens draws, from draws and gradients at them.

    Seyboldt, Carlson & Carpenter 2026 (arXiv:2603.18845), Algorithm 1, as implemented
    in BlackJAX: for a Gaussian it is exact in the span of the draws for any number of them,
    so noise does not degrade a good map.

    Parameters
    ----------
    draws, gradients
        Draws ``[n, d]`` in the coordinates before the map, and gradients of the log-density.
    rank
        Number of directions of the result.
    """
    from scorepriors._compat import fisher_score_low_rank

    dtype = np.asarray(draws).dtype
    # The geometric mean of two covariances loses half the digits, so it is in float64.
    with jax.enable_x64(True):
        count = min(rank, *np.shape(draws))
        metric = jax.jit(fisher_score_low_rank, static_argnums=2)(
            jnp.asarray(draws, jnp.float64), jnp.asarray(gradients, jnp.float64), count
        )
        scale, basis, variance = (np.asarray(a, dtype) for a in metric)
    basis = np.pad(basis, ((0, 0), (0, rank - count)))
    gain = np.pad(np.sqrt(variance), (0, rank - count), constant_values=1.0)
    return LowRankMap(jnp.asarray(scale), jnp.asarray(basis), jnp.asarray(gain))
