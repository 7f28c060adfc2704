r"""A wall that keeps samplers in the region where an energy was learned.

Denoising score matching shapes an energy where noisy galaxies are: on a thin shell around
the set of galaxies.  Elsewhere it may fall without bound, and Hamiltonian Monte Carlo finds
these regions.  So the energy gets a wall around the region where it was learned.  A small
network projects the image onto the galaxies: :math:`P(a, \sigma)` is an autoencoder with
a bottleneck of a few bounded codes, plus a correction of bounded length.  Its squared
distance from the image in units of the noise,

.. math:: q = |a - P(a, \sigma)|^2 / \sigma^2,

is that of the noise alone for every noisy galaxy, and larger for other images.  Beyond a
threshold that no training image reaches the wall adds energy, far out half of q as Gaussian
noise about P would.  Below the threshold the wall is exactly zero.

The range of P is bounded, so q grows like :math:`|a|^2 / \sigma^2` in every direction.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from ._abstract import AbstractEnergy
from ._wiener import WienerEnergy

#: Growth of the energy per unit of q far behind the wall: that of Gaussian noise.  Four
#: times as steep, a galaxy two pixels off center cost 5,285 nats instead of 611 without a
#: wall at sigma 0.15, and a foreign ring disturbed the score of the pixels around it.
SLOPE = 0.5


class Wall(eqx.Module):
    """Projection onto galaxies, and the largest distance of an image from it.

    It uses the features of the network of the energy, so it adds little to the cost.
    """

    encode: eqx.nn.Linear
    decode: tuple[eqx.nn.Linear, eqx.nn.Linear, eqx.nn.Linear]
    correct: eqx.nn.Linear
    #: Greatest length of the correction of the autoencoder's output.
    reach: Float[Array, ""]
    #: Logarithms of noise levels, in equal steps, and of the thresholds of q there.
    log_sigma: Float[Array, " levels"]
    log_threshold: Float[Array, " levels"]

    def __init__(
        self, features: int, modes: int, codes: int, width: int, reach: float, levels, *, key
    ):
        keys = jr.split(key, 5)
        self.encode = eqx.nn.Linear(features, codes, key=keys[0])
        self.decode = (
            eqx.nn.Linear(codes, width, key=keys[1]),
            eqx.nn.Linear(width, width, key=keys[2]),
            eqx.nn.Linear(width, modes, key=keys[3]),
        )
        self.correct = eqx.nn.Linear(features, modes, key=keys[4])
        self.reach = jnp.asarray(reach, jnp.float32)
        self.log_sigma = jnp.log(jnp.asarray(levels, jnp.float32))
        # Until calibrated, no image is outside: exp(70) is finite in float32, so no NaN.
        self.log_threshold = jnp.full(len(levels), 70.0, jnp.float32)

    def reconstruct(self, features, eigenvalues):
        """Return the output ``[m]`` of the autoencoder alone."""
        code = 3 * jnp.tanh(self.encode(features) / 3)
        first, second, last = self.decode
        h = jax.nn.silu(first(code))
        h = h + jax.nn.silu(second(h))
        return jnp.sqrt(eigenvalues) * last(h)

    def project(self, features, wiener, eigenvalues, sigma):
        """Return P, ``[m]``: the nearest galaxy as estimated by this small network.

        Parameters
        ----------
        features
            Result of `ModeNetwork.features`.
        wiener
            The Wiener estimate, ``[m]``, in units of ``sqrt(eigenvalues)``.
        eigenvalues, sigma
            Eigenvalues of the modes, and noise level.
        """
        rough = self.reconstruct(features, eigenvalues)
        # As in the energy: one unit is the standard error of the Wiener estimate.
        unit = jnp.sqrt(eigenvalues * sigma**2 / (eigenvalues + sigma**2))
        wanted = jnp.sqrt(eigenvalues) * wiener + unit * self.correct(features) - rough
        shrink = self.reach / jnp.sqrt(self.reach**2 + jnp.sum(wanted**2))
        return rough + shrink * wanted

    def distance(self, a, features, wiener, eigenvalues, sigma):
        """Return q: the squared distance of `a` from its projection in units of the noise."""
        projected = self.project(features, wiener, eigenvalues, sigma)
        return jnp.sum((a - projected) ** 2) / sigma**2

    def __call__(self, a, features, wiener, eigenvalues, sigma):
        """Return the energy of the wall."""
        q = self.distance(a, features, wiener, eigenvalues, sigma)
        threshold = jnp.exp(self._interpolated(jnp.log(sigma)))
        # The scatter of q of pure noise makes the foot of the wall smooth.
        scatter = (2.0 * a.shape[0]) ** 0.5
        u = jax.nn.relu((q - threshold) / scatter)
        return SLOPE * scatter * u**2 / (1 + u)

    def _interpolated(self, log_sigma):
        """Interpolate linearly in equal steps, constant beyond; `jnp.interp` would loop."""
        first, step = self.log_sigma[0], self.log_sigma[1] - self.log_sigma[0]
        last = self.log_sigma.shape[0] - 1
        place = jnp.clip((log_sigma - first) / step, 0.0, last)
        hats = jax.nn.relu(1.0 - jnp.abs(place - jnp.arange(last + 1)))
        return jnp.sum(hats * self.log_threshold)


class Confined(AbstractEnergy):
    """A learned energy inside a wall, for chains that compare densities.

    The denoiser, and so every flow, is that of the energy inside: flows start from noise and
    need no wall.  Their few coarse steps may end slightly behind the wall, which is too steep
    for them; Hamiltonian Monte Carlo rejects such a step, a flow cannot.

    Parameters
    ----------
    energy
        The energy inside; the wall uses the features of its network.
    wall
        The wall that is added to it.
    """

    energy: WienerEnergy
    wall: Wall

    @property
    def box(self) -> int:
        """Pixels on a side."""
        return self.energy.box

    def mode_energy(self, a: Float[Array, " m"], sigma):
        """Return the part of the energy that depends on the leading coordinates `a`."""
        # Evaluated once for both: the network is nearly all of the cost.
        features, wiener = self.energy.features(a, sigma)
        inner = self.energy.energy_of_features(a, features, sigma)
        return inner + self.wall(a, features, wiener, self.energy.eigenvalues, sigma)

    def __call__(self, z, sigma):
        """Return the energy, a scalar, of one stretched image ``[n, n]``."""
        a, rest = self.energy.split(z, sigma)
        return self.mode_energy(a, sigma) + rest

    def denoise(self, z, sigma):
        """Return the posterior mean of the clean image under the energy inside."""
        return self.energy.denoise(z, sigma)

    def from_white(self, white, sigma):
        """Return `from_white` of the energy inside."""
        return self.energy.from_white(white, sigma)

    def to_white(self, z, sigma):
        """Return `to_white` of the energy inside."""
        return self.energy.to_white(z, sigma)

    def gaussian(self) -> WienerEnergy:
        """Return the Gaussian part of the energy inside."""
        return self.energy.gaussian()
