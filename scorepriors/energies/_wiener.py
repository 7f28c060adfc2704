"""The learned energy: a Wiener filter, corrected by a network on the principal modes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from scorepriors._defaults import NUM_MODES

from ._abstract import AbstractEnergy, tweedie


class _Block(eqx.Module):
    """Residual SwiGLU block, scaled and shifted by an embedding of the noise level."""

    modulation: eqx.nn.Linear
    gate: eqx.nn.Linear
    value: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self, width, inner, embedding, *, key):
        keys = jr.split(key, 3)
        self.modulation = _zeros(eqx.nn.Linear(embedding, 2 * width, key=keys[0]))
        self.gate = eqx.nn.Linear(width, inner, use_bias=False, key=keys[1])
        self.value = eqx.nn.Linear(width, inner, use_bias=False, key=keys[2])
        # Zero: the network starts as the identity, the energy as the Wiener filter's.
        self.out = _zeros(eqx.nn.Linear(inner, width, key=keys[0]))

    def __call__(self, h, embedded):
        scale, shift = jnp.split(self.modulation(embedded), 2)
        m = _normalize(h) * (1 + scale) + shift
        return h + self.out(jax.nn.silu(self.gate(m)) * self.value(m))


class ModeNetwork(eqx.Module):
    """Residual network on the leading principal modes of an image.

    Called with whitened modes ``[m]``, the Wiener estimate ``[m]`` and the logarithm of
    sigma; returns the field F ``[m]`` of `WienerEnergy`.
    """

    frequencies: Float[Array, " f"]
    embed: eqx.nn.Linear
    enter: eqx.nn.Linear
    blocks: tuple[_Block, ...]
    leave: eqx.nn.Linear

    def __init__(self, modes: int, width: int, inner: int, depth: int, *, key: PRNGKeyArray):
        keys = jr.split(key, depth + 3)
        embedding = 64
        # Periods from far longer than the whole range of log sigma to a third of an e-fold.
        self.frequencies = jnp.asarray(np.geomspace(0.25, 20.0, embedding // 2), jnp.float32)
        self.embed = eqx.nn.Linear(embedding, embedding, key=keys[0])
        self.enter = eqx.nn.Linear(2 * modes, width, key=keys[1])
        self.blocks = tuple(_Block(width, inner, embedding, key=k) for k in keys[2 : 2 + depth])
        self.leave = _zeros(eqx.nn.Linear(width, modes, key=keys[-1]))

    def features(self, modes, wiener, log_sigma):
        """Return features ``[width]`` of unit mean square, from which the field is linear."""
        phase = jax.lax.stop_gradient(self.frequencies) * log_sigma
        waves = jnp.concatenate([jnp.sin(phase), jnp.cos(phase)])
        embedded = jax.nn.silu(self.embed(waves))
        h = self.enter(jnp.concatenate([modes, wiener]))
        for block in self.blocks:
            h = block(h, embedded)
        return _normalize(h)

    def __call__(self, modes, wiener, log_sigma):
        """Return the field F ``[m]``."""
        return self.leave(self.features(modes, wiener, log_sigma))


class WienerEnergy(AbstractEnergy):
    r"""A learned energy whose linear part is the Wiener filter of the training set.

    With the mean mu, principal modes V and eigenvalues lambda of the training images,
    :math:`a = V^T (z - \mu)` and :math:`\hat a = a / \sqrt{\lambda + \sigma^2}`,

    .. math::
        E(z, \sigma) = \tfrac12 |\hat a|^2
            + \frac{|z - \mu - V a|^2}{2 (\lambda_\perp + \sigma^2)}
            - \langle \hat a, \tfrac{\sqrt\lambda}{\sigma} F(\hat a, \sigma) \rangle .

    Without F this is exactly the smoothed Gaussian with the covariance of the set
    (isotropic, of variance :math:`\lambda_\perp`, outside the leading modes), so the
    network learns only what a Gaussian lacks.  The factor before F makes a
    unit output correct the Wiener estimate by its own standard error in every mode.

    `Confined` makes it rise outside the region where it was learned.

    Parameters
    ----------
    mean
        Mean of the stretched training images, ``[n * n]``.
    basis, eigenvalues
        Leading principal modes ``[n * n, m]``, orthonormal, and their variances ``[m]``.
    tail
        Variance in every direction outside of the modes.
    network
        Network of the field F.

    References
    ----------
    .. [1] Karras, Aittala, Aila & Laine (2022), NeurIPS: a network that corrects a linear
       denoiser, there that of white images.
    """

    mean: Float[Array, " pixels"]
    basis: Float[Array, "pixels m"]
    eigenvalues: Float[Array, " m"]
    tail: Float[Array, ""]
    network: ModeNetwork

    @property
    def box(self) -> int:
        """Pixels on a side."""
        return round(self.mean.shape[0] ** 0.5)

    def features(self, a: Float[Array, " m"], sigma):
        """Return features of the network, and the Wiener estimate in units of its modes."""
        total = self.eigenvalues + sigma**2
        white = a / jnp.sqrt(total)
        wiener = white * jnp.sqrt(self.eigenvalues / total)
        return self.network.features(white, wiener, jnp.log(sigma)), wiener

    def mode_energy(self, a: Float[Array, " m"], sigma):
        """Return the part of the energy that depends on the leading coordinates `a`."""
        return self.energy_of_features(a, self.features(a, sigma)[0], sigma)

    def energy_of_features(self, a: Float[Array, " m"], features, sigma):
        """Return `mode_energy` from given features of the network."""
        white = a / jnp.sqrt(self.eigenvalues + sigma**2)
        field = self.network.leave(features)
        gain = jnp.sqrt(self.eigenvalues) / sigma
        return 0.5 * jnp.sum(white**2) - jnp.sum(white * gain * field)

    def split(self, z: Float[Array, "n n"], sigma):
        """Return leading coordinates ``[m]`` of an image and the energy of the rest, a scalar."""
        residual = z.ravel() - self.mean
        a = residual @ self.basis
        # The rest is formed explicitly: |z|^2 - |a|^2 loses all digits in float32.
        rest = residual - self.basis @ a
        return a, 0.5 * jnp.sum(rest**2) / (self.tail + sigma**2)

    def __call__(self, z, sigma):
        """Energy, a scalar, of one stretched image ``[n, n]``."""
        a, rest = self.split(z, sigma)
        return self.mode_energy(a, sigma) + rest

    def denoise(self, z, sigma):
        """Posterior mean of the clean image."""
        return tweedie(self, z, sigma)

    def from_white(self, white, sigma):
        """Draw ``[n, n]`` from the Gaussian part, to which the density tends at large `sigma`."""
        modes, rest = jnp.sqrt(self.eigenvalues + sigma**2), jnp.sqrt(self.tail + sigma**2)
        return self.mean.reshape(white.shape) + self._scaled(white, modes, rest)

    def to_white(self, z, sigma):
        """Undo `from_white`."""
        modes, rest = jnp.sqrt(self.eigenvalues + sigma**2), jnp.sqrt(self.tail + sigma**2)
        return self._scaled(z - self.mean.reshape(z.shape), 1 / modes, 1 / rest)

    def gaussian(self) -> "WienerEnergy":
        """Return the Gaussian part: the same with the network's output set to zero."""
        last = jax.tree.map(jnp.zeros_like, self.network.leave)
        return eqx.tree_at(lambda energy: energy.network.leave, self, last)

    def _scaled(self, image, modes, rest):
        """Scale an image ``[n, n]`` in the leading modes, and outside of them."""
        a = image.ravel() @ self.basis
        outside = image.ravel() - self.basis @ a
        return (self.basis @ (a * modes) + outside * rest).reshape(image.shape)


def gaussian_of(z: np.ndarray, num_modes: int = NUM_MODES) -> WienerEnergy:
    """Return the Gaussian with mean and covariance of stretched images ``[N, n, n]``.

    See `principal_modes`; the number of modes is limited to that of the pixels.
    """
    modes = min(num_modes, z[0].size)
    # An untrained network gives zero, so the smallest one suffices.
    network = ModeNetwork(modes, 1, 1, 0, key=jr.key(0))
    mean, basis, values, tail = (jnp.asarray(a, jnp.float32) for a in principal_modes(z, modes))
    return WienerEnergy(mean, basis, values, tail, network)


def principal_modes(images: np.ndarray, num_modes: int):
    """Return mean, leading modes and eigenvalues, averaged over the square's symmetries.

    Parameters
    ----------
    images
        Stretched images ``[N, n, n]``.
    num_modes
        Number of leading modes to return.

    Returns
    -------
    mean, basis, eigenvalues, tail
        Mean ``[n * n]``, modes ``[n * n, m]``, eigenvalues ``[m]`` in descending order, and
        the mean of the remaining eigenvalues.  Float64.
    """
    pixels = images[0].size
    mean, second = np.zeros(pixels), np.zeros((pixels, pixels))
    for turned in dihedral(images):
        flat = turned.reshape(len(images), pixels).astype(np.float32)
        mean += flat.mean(0, dtype=np.float64) / 8
        second += (flat.T @ flat).astype(np.float64) / len(images) / 8
    values, vectors = np.linalg.eigh(second - np.outer(mean, mean))
    values, vectors = values[::-1], vectors[:, ::-1]
    # Rounding error of the float32 products: smaller variances are not measured.
    floor = 1e-7 * values[0]
    leading = np.maximum(values[:num_modes], floor)
    tail = max(values[num_modes:].mean(), floor) if num_modes < pixels else floor
    return mean, np.ascontiguousarray(vectors[:, :num_modes]), leading, tail


def dihedral(images: np.ndarray):
    """Yield the eight rotations and reflections of a stack ``[N, n, n]``."""
    for quarter in range(4):
        turned = np.rot90(images, quarter, axes=(1, 2))
        yield turned
        yield turned[:, :, ::-1]


def _normalize(h):
    return h / jnp.sqrt(jnp.mean(h**2) + 1e-6)


def _zeros(linear: eqx.nn.Linear) -> eqx.nn.Linear:
    return jax.tree.map(jnp.zeros_like, linear)
