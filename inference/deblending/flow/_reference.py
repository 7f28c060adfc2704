r"""Reference Gaussians for the moves, from the information of the data about a galaxy's noise.

About the noise :math:`\xi_0` that the flow maps to the mode, minus the log-likelihood of
one source has large curvatures :math:`\lambda_i` along few directions :math:`v_i`, and
almost none along all others.  The posterior is approximately

.. math:: N(m, C), \quad m = \sum_i a_i v_i, \quad a_i = v_i \cdot \xi_0, \quad
          C^{-1} = 1 + \sum_i \lambda_i v_i v_i^\top:

the data's along those, the prior's along the rest (Cui, Law & Marzouk 2016).  A move under
which this Gaussian is invariant, accepted by the ratio of the posterior to it, is exact for
any Gaussian (Rudolf & Sprungk 2018), and if the Gaussian is a good approximation the steps are
as large for a bright galaxy as for a faint one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scorepriors.inference.curvature._lanczos import ritz_pairs_each

#: Factor by which references are wider than the curvature implies: with one that is narrower
#: than the posterior, chains would stay for long in its tails.
WIDER = 1.5


class Reference(NamedTuple):
    """Gaussians in the noise of G galaxies, each with r directions.

    Attributes
    ----------
    basis
        Orthonormal rows ``[G, r, d]``.
    precision
        Precision along them in addition to the prior's of one, ``[G, r]``.
    place
        Coordinates of the mean along them, ``[G, r]``; in other directions it is zero.
    """

    basis: Float[Array, "G r d"]
    precision: Float[Array, "G r"]
    place: Float[Array, "G r"]

    def times(self, share) -> "Reference":
        """Return the Gaussian itself (`share` 1) or the prior of the noise (`share` 0)."""
        return self._replace(precision=share * self.precision, place=share * self.place)

    def move(self, noise, fresh, step):
        """Move noise ``[G, n, n]`` by steps ``[G]`` about the mean, in units of the width.

        White `fresh` noise is turned into a draw of the Gaussian's noise: the move leaves the
        reference distribution invariant.
        """
        shrink = 1 / jnp.sqrt(1 + self.precision) - 1
        shape = noise.shape
        noise, fresh = (a.reshape(len(a), -1) for a in (noise, fresh))
        mean = self._back(self.place)
        fresh += self._back(shrink * self._along(fresh))
        step = step[:, None]
        return (mean + jnp.sqrt(1 - step**2) * (noise - mean) + step * fresh).reshape(shape)

    def excess(self, noise):
        """Return the log-ratio ``[G]`` of the prior to this Gaussian, up to a constant."""
        along = self._along(noise.reshape(len(noise), -1))
        own = (1 + self.precision) * (along - self.place) ** 2
        return 0.5 * jnp.sum(own - along**2, -1)

    def freedom(self):
        """Return the total number of directions ``[G]`` that the data determine."""
        return jnp.sum(self.precision / (1 + self.precision), -1)

    def _along(self, noise):
        return jnp.einsum("grd,gd->gr", self.basis, noise)

    def _back(self, along):
        return jnp.einsum("grd,gr->gd", self.basis, along)


def reference(operator: Callable, noise: Float[Array, "G *n"], directions: int, key) -> Reference:
    """Return the Gaussians about one point.

    Parameters
    ----------
    operator
        Function, called once, that returns a function from ``v [G, d]`` to the curvature of
        minus the log-likelihood times v, for each galaxy by itself.  A pytree
        (`equinox.Partial`): other arrays in it recompile nothing.
    noise
        The point.
    directions
        Number of products.
    key
        Random key for the first directions.
    """
    flat = noise.reshape(len(noise), -1)
    steps = min(directions, flat.shape[-1])
    found = ritz_pairs_each(operator, flat, steps, key)
    values = np.stack([pairs.values for pairs in found])
    basis = np.stack([pairs.vectors.T for pairs in found]).astype(flat.dtype)
    # Negative curvatures are no precisions: the prior's is used there.
    precision = np.maximum(values, 0).astype(flat.dtype) / WIDER**2
    # The same below the prior's own precision: its mean is more accurate there.
    precision = np.where(precision > 1, precision, 0)
    place = np.einsum("grd,gd->gr", basis, np.asarray(flat)) * (precision > 0)
    return Reference(jnp.asarray(basis), jnp.asarray(precision), jnp.asarray(place))
