"""Energies of networks that give only a score."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scorepriors._errors import InputError

from ._abstract import AbstractEnergy, tweedie


class LineEnergy(AbstractEnergy):
    r"""Energy of a network that gives only a score: its integral along a straight line.

    From a fixed reference image r, with Gauss-Legendre nodes :math:`t_i` on (0, 1),

    .. math:: -E(z) = \sum_i w_i \, s(r + t_i (z - r), \sigma) \cdot (z - r).

    This is a potential for any network: its gradient is the exact gradient of the returned
    value, so a sampler of it is correct.  Where the network's Jacobian is symmetric the
    gradient equals the score; where it is not, no density has that score, and this one
    depends on the reference.

    Parameters
    ----------
    score_network
        ``(z [n, n], sigma) -> score [n, n]``, an Equinox module or a function.
    reference
        The fixed end of the line, ``[n, n]``: typically a mean image.
    num_nodes
        Number of quadrature nodes, one batched network call each.  Four keep the error of
        posterior-sized moves near 0.01 nat; eight, the default, leave a margin.

    Raises
    ------
    InputError
        If ``num_nodes < 1``.
    """

    score_network: Callable
    reference: Float[Array, "n n"]
    num_nodes: int = eqx.field(static=True, default=8)

    @property
    def box(self) -> int:
        """Pixels on a side."""
        return self.reference.shape[-1]

    def __check_init__(self):
        if self.num_nodes < 1:
            raise InputError(f"`num_nodes` must be at least 1, got {self.num_nodes}.")

    def __call__(self, z, sigma):
        """Return minus the line integral of the score from the reference to `z`."""
        roots, quadrature = np.polynomial.legendre.leggauss(self.num_nodes)
        nodes = jnp.asarray((roots + 1) / 2, z.dtype)
        weights = jnp.asarray(quadrature / 2, z.dtype)
        step = z - self.reference
        points = self.reference + nodes[:, None, None] * step
        scores = jax.vmap(self.score_network, (0, None))(points, sigma)
        return -jnp.einsum("i,iyx,yx->", weights, scores, step)

    def denoise(self, z, sigma):
        """Return the posterior mean of the clean image under this potential."""
        return tweedie(self, z, sigma)

    def from_white(self, white, sigma):
        """Return the reference plus noise ``[n, n]``: a good approximation at large `sigma`."""
        return self.reference + sigma * white

    def to_white(self, z, sigma):
        """Undo `from_white`."""
        return (z - self.reference) / sigma


class VarianceExploding(eqx.Module):
    r"""Use a variance-preserving score network, as published, in our coordinates.

    The published process shrinks the image: at time t it is
    :math:`e^{-t/2} z + \sqrt{1 - e^{-t}}\, \epsilon` (Sampson et al. 2024, eq. 9).
    Additive noise sigma on z is the same family at :math:`t = \log(1 + \sigma^2)`,
    with the image rescaled by :math:`e^{-t/2}` and the score likewise.

    Parameters
    ----------
    network
        ``(z_t [n, n], t) -> score [n, n]`` of the variance-preserving marginals.
    """

    network: Callable

    def __call__(self, z, sigma):
        """Return the score ``[n, n]`` of the density of z plus noise of size `sigma`."""
        time = jnp.log1p(sigma**2)
        shrink = jnp.exp(-time / 2)
        return shrink * self.network(shrink * z, time)
