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

from scorepriors.inference._lanczos import ritz_pairs_each

#: Factor by which references are wider than the curvature implies: with one that is narrower
#: than the posterior, chains would stay for long in its tails.
WIDER = 1.5

#: Draws of all chains during the warm-up that count as one independent one.
CORRELATED = 10.0


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
        """Return the Gaussian itself (`share` 1) or the prior of the noise (`share` 0), ``[G, 1]``."""
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


def reference(operator: Callable, noise: Float[Array, "G *n"], directions: int, key) -> Reference:  # noqa: F821
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
    basis = np.stack([pairs.vectors.T for pairs in found])
    return about_point(values, basis, flat)


def about_point(values, basis, flat: Float[Array, "G d"]) -> Reference:
    """Return the Gaussians about one point, of curvatures ``[G, r]`` along ``basis [G, r, d]``."""
    basis = np.asarray(basis).astype(flat.dtype)
    # Negative curvatures are no precisions: the prior's is used there.
    precision = np.maximum(np.asarray(values), 0).astype(flat.dtype) / WIDER**2
    # The same below the prior's own precision: its mean is more accurate there.
    precision = np.where(precision > 1, precision, 0)
    place = np.einsum("grd,gd->gr", basis, np.asarray(flat)) * (precision > 0)
    return Reference(jnp.asarray(basis), jnp.asarray(precision), jnp.asarray(place))


class Moments(NamedTuple):
    """Sums over draws of their coordinates along the directions of G references.

    Coordinates are distances from the mean in widths of the reference: of a reference that is
    right they have mean zero and covariance one.

    Attributes
    ----------
    number
        Number of draws.
    first, second
        Sums of the coordinates ``[G, r]`` and of their products ``[G, r, r]``.
    """

    number: Float[Array, ""]
    first: Float[Array, "G r"]
    second: Float[Array, "G r r"]

    @classmethod
    def none(cls, near: Reference) -> "Moments":
        """Return the sums of no draws."""
        square = near.place[..., None] * near.place[..., None, :]
        kind = near.place.dtype
        return cls(jnp.zeros((), kind), jnp.zeros_like(near.place), jnp.zeros_like(square))

    def plus(self, near: Reference, noise: Float[Array, "C G *n"]) -> "Moments":
        """Return the sums with the points of C chains."""
        flat = noise.reshape(*noise.shape[:2], -1)
        along = jnp.einsum("grd,cgd->cgr", near.basis, flat) - near.place
        own = along * jnp.sqrt(1 + near.precision)
        return Moments(
            self.number + len(noise),
            self.first + own.sum(0),
            self.second + jnp.einsum("cgr,cgs->grs", own, own),
        )


def refined(near: Reference, moments: Moments) -> Reference:
    """Return references with the mean and covariance of draws, as far as these determine them.

    Draws are averaged with the reference as it was, which counts as many draws as there are
    directions (a conjugate prior: the estimate is never singular).

    Parameters
    ----------
    near
        The references before.
    moments
        Sums over draws; `CORRELATED` of them count as one.
    """
    count = float(moments.number) / CORRELATED
    place, precision, basis = (
        np.asarray(a, float) for a in (near.place, near.precision, near.basis)
    )
    rank = place.shape[-1]
    share = count / (count + rank)
    mean = np.asarray(moments.first, float) / float(moments.number)
    second = np.asarray(moments.second, float) / float(moments.number)
    spread = second - mean[..., None] * mean[..., None, :]
    center = share * mean
    spread = share * spread + (1 - share) * np.eye(rank)
    spread += share * (1 - share) * mean[..., None] * mean[..., None, :]
    # From widths of the old reference to the noise.
    width = 1 / np.sqrt(1 + precision)
    place = place + width * center
    values, turn = np.linalg.eigh(width[..., None] * spread * width[..., None, :])
    turn = np.swapaxes(turn, -1, -2)
    kind = np.asarray(near.place).dtype
    return Reference(
        jnp.asarray((turn @ basis).astype(kind)),
        jnp.asarray((1 / values - 1).astype(kind)),
        jnp.asarray(np.einsum("gsr,gr->gs", turn, place).astype(kind)),
    )
