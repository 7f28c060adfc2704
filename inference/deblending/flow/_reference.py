r"""Where in the space of its noise the data look at a galaxy: Gaussians that moves refer to.

About the noise :math:`\xi_0` that the flow makes the mode from, minus the log-likelihood of
one source has large curvatures :math:`\lambda_i` along few directions :math:`v_i`, and next
to none along all others.  The posterior is about

.. math:: N(m, C), \quad m = \sum_i a_i v_i, \quad a_i = v_i \cdot \xi_0, \quad
          C^{-1} = 1 + \sum_i \lambda_i v_i v_i^\top:

the data's along those, the prior's along the rest (Cui, Law & Marzouk 2016).  A move that
leaves this Gaussian as it is, accepted by what it lacks, is right whatever the Gaussian
(Rudolf & Sprungk 2018), and as bold for a bright galaxy as for a faint one if it fits.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scorepriors.inference.curvature._lanczos import ritz_pairs_each

#: By this factor references are wider than the curvature makes them: one that is narrower
#: than the posterior would hold chains for long where it is thin.
WIDER = 1.5


class Reference(NamedTuple):
    """Gaussians in the noise of G galaxies, each with r directions of its own.

    Attributes
    ----------
    basis
        ``[G, r, d]``, orthonormal rows.
    precision
        ``[G, r]``, what the data add to the prior's precision of one along them.
    place
        ``[G, r]``, coordinates of the mean along them; outside it is zero.
    """

    basis: Float[Array, "G r d"]
    precision: Float[Array, "G r"]
    place: Float[Array, "G r"]

    def times(self, share) -> "Reference":
        """The Gaussian itself (`share` 1) or the prior of the noise (`share` 0)."""
        return self._replace(precision=share * self.precision, place=share * self.place)

    def move(self, noise, fresh, step):
        """Noise ``[G, n, n]`` turned by steps ``[G]`` about the mean, in units of the width.

        White `fresh` noise makes the Gaussian's own of it: what is distributed as the
        reference stays so.
        """
        shrink = 1 / jnp.sqrt(1 + self.precision) - 1
        shape = noise.shape
        noise, fresh = (a.reshape(len(a), -1) for a in (noise, fresh))
        mean = self._back(self.place)
        fresh += self._back(shrink * self._along(fresh))
        step = step[:, None]
        return (mean + jnp.sqrt(1 - step**2) * (noise - mean) + step * fresh).reshape(shape)

    def excess(self, noise):
        """Log-density of the prior over that of this Gaussian ``[G]``, up to a constant."""
        along = self._along(noise.reshape(len(noise), -1))
        own = (1 + self.precision) * (along - self.place) ** 2
        return 0.5 * jnp.sum(own - along**2, -1)

    def freedom(self):
        """Number of directions ``[G]`` that the data decide, in all."""
        return jnp.sum(self.precision / (1 + self.precision), -1)

    def _along(self, noise):
        return jnp.einsum("grd,gd->gr", self.basis, noise)

    def _back(self, along):
        return jnp.einsum("grd,gr->gd", self.basis, along)


def reference(operator: Callable, noise: Float[Array, "G *n"], directions: int, key) -> Reference:
    """The Gaussians about one point.

    Parameters
    ----------
    operator
        Called once, gives a function from ``v [G, d]`` to the curvature of minus the
        log-likelihood times v, for each galaxy by itself.  A pytree (`equinox.Partial`): other
        arrays in it compile nothing.
    noise
        The point.
    directions
        How many products to make.
    key
        For the first directions.
    """
    flat = noise.reshape(len(noise), -1)
    steps = min(directions, flat.shape[-1])
    found = ritz_pairs_each(operator, flat, steps, key)
    values = np.stack([pairs.values for pairs in found])
    basis = np.stack([pairs.vectors.T for pairs in found]).astype(flat.dtype)
    # Negative curvatures are no widths: there the prior decides.
    precision = np.maximum(values, 0).astype(flat.dtype) / WIDER**2
    # Nor are those that the prior outweighs: its mean is the better one.
    precision = np.where(precision > 1, precision, 0)
    place = np.einsum("grd,gd->gr", basis, np.asarray(flat)) * (precision > 0)
    return Reference(jnp.asarray(basis), jnp.asarray(precision), jnp.asarray(place))
