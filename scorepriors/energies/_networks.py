r"""Energies: scalar functions of a stretched image whose gradient is minus the score.

An energy :math:`E(z, \sigma)` stands for the density :math:`\exp(-E)`, up to a
constant, of stretched images plus Gaussian noise of standard deviation sigma.  Every
class here is an Equinox module called as ``energy(z, sigma)`` for one image
``z [n, n]``, returning a scalar; batches are made with ``jax.vmap``.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from scorepriors._errors import InputError

from ._confinement import Confinement


def score(energy: Callable, z: Float[Array, "n n"], sigma: Float[Array, ""]):
    """Gradient of the log-density, ``-dE/dz``, of one stretched image ``[n, n]``."""
    return -jax.grad(energy)(z, sigma)


def denoise(energy: Callable, z: Float[Array, "n n"], sigma: Float[Array, ""]):
    r"""Posterior mean of the clean image, :math:`z + \sigma^2 \nabla\log p` (Tweedie).

    Without the wall of `scorepriors.confinement`, whose gradient is no denoiser's.
    """
    return z + sigma**2 * score(unconfined(energy), z, sigma)


def unconfined(energy: Callable) -> Callable:
    """The energy without its wall, if it has one: what follows noise needs none.

    A few coarse steps of a sampler may land a hair behind the wall, which is steeper
    than they can follow; Hamiltonian Monte Carlo rejects such a step, they cannot.
    """
    if getattr(energy, "confinement", None) is None:
        return energy
    return eqx.tree_at(lambda e: e.confinement, energy, None)


class GaussianEnergy(eqx.Module):
    """The exact energy of a Gaussian field smoothed by sigma; a closed form to test with.

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
        """Half the squared distance from the mean in units of the total variance."""
        return 0.5 * jnp.sum((z - self.mean) ** 2 / (self.variance + sigma**2))

    def start(self, key, sigma):
        """Draw an image ``[n, n]`` from the smoothed density at a large `sigma`."""
        return self.color(jr.normal(key, self.mean.shape, self.mean.dtype), sigma)

    def color(self, white, sigma):
        """Turn white noise ``[n, n]`` into what `start` draws."""
        return self.mean + jnp.sqrt(self.variance + sigma**2) * white

    def whiten(self, z, sigma):
        """Undo `color`."""
        return (z - self.mean) / jnp.sqrt(self.variance + sigma**2)


class LineEnergy(eqx.Module):
    r"""Energy of a network that gives only a score: its integral along a straight line.

    From a fixed reference image r, with Gauss-Legendre nodes :math:`t_i` on (0, 1),

    .. math:: -E(z) = \sum_i w_i \, s(r + t_i (z - r), \sigma) \cdot (z - r).

    This *is* a potential, whatever the network: its gradient is the true gradient of
    what is returned, so a sampler of it is right.  Where the network's Jacobian is
    symmetric the gradient equals the score; where it is not, there is no density with
    that score, and this one depends on the reference.

    Parameters
    ----------
    score_network
        ``(z [n, n], sigma) -> score [n, n]``, an Equinox module or a function.
    reference
        The fixed end of the line, ``[n, n]``: typically a mean image.
    num_nodes
        Quadrature nodes; one batched network call each.  Four keep the error of
        posterior-sized moves near 0.01 nat, eight are the safe default.

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
        """Minus the line integral of the score from the reference to `z`."""
        roots, quadrature = np.polynomial.legendre.leggauss(self.num_nodes)
        nodes = jnp.asarray((roots + 1) / 2, z.dtype)
        weights = jnp.asarray(quadrature / 2, z.dtype)
        step = z - self.reference
        points = self.reference + nodes[:, None, None] * step
        scores = jax.vmap(self.score_network, (0, None))(points, sigma)
        return -jnp.einsum("i,iyx,yx->", weights, scores, step)

    def start(self, key, sigma):
        """Draw an image ``[n, n]``: the reference plus noise, fair at a large `sigma`."""
        return self.color(jr.normal(key, self.reference.shape, self.reference.dtype), sigma)

    def color(self, white, sigma):
        """Turn white noise ``[n, n]`` into what `start` draws."""
        return self.reference + sigma * white

    def whiten(self, z, sigma):
        """Undo `color`."""
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
        """Score ``[n, n]`` of the density of z plus noise of size `sigma`."""
        time = jnp.log1p(sigma**2)
        shrink = jnp.exp(-time / 2)
        return shrink * self.network(shrink * z, time)


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
        """What the field is read from, ``[width]``, of unit mean square."""
        phase = jax.lax.stop_gradient(self.frequencies) * log_sigma
        waves = jnp.concatenate([jnp.sin(phase), jnp.cos(phase)])
        embedded = jax.nn.silu(self.embed(waves))
        h = self.enter(jnp.concatenate([modes, wiener]))
        for block in self.blocks:
            h = block(h, embedded)
        return _normalize(h)

    def __call__(self, modes, wiener, log_sigma):
        """Field F ``[m]``."""
        return self.leave(self.features(modes, wiener, log_sigma))


class WienerEnergy(eqx.Module):
    r"""A learned energy whose linear part is the Wiener filter of the training set.

    With the mean mu, principal modes V and eigenvalues lambda of the training images,
    :math:`a = V^T (z - \mu)` and :math:`\hat a = a / \sqrt{\lambda + \sigma^2}`,

    .. math::
        E(z, \sigma) = \tfrac12 |\hat a|^2
            + \frac{|z - \mu - V a|^2}{2 (\lambda_\perp + \sigma^2)}
            - \langle \hat a, \tfrac{\sqrt\lambda}{\sigma} F(\hat a, \sigma) \rangle .

    Without F this is exactly the smoothed Gaussian with the covariance of the set
    (isotropic, of variance :math:`\lambda_\perp`, outside the leading modes), so the
    network learns only what a Gaussian does not know.  The factor before F makes a
    unit output correct the Wiener estimate by its own standard error in every mode.

    With a `confinement` the energy rises outside the region where it was learned; see
    `scorepriors.confinement`.
    """

    mean: Float[Array, " pixels"]
    basis: Float[Array, "pixels m"]
    eigenvalues: Float[Array, " m"]
    tail: Float[Array, ""]
    network: ModeNetwork
    confinement: Confinement | None = None

    @property
    def box(self) -> int:
        """Pixels on a side."""
        return round(self.mean.shape[0] ** 0.5)

    def features(self, a: Float[Array, " m"], sigma):
        """Features of the network, and the Wiener estimate in units of its modes."""
        total = self.eigenvalues + sigma**2
        white = a / jnp.sqrt(total)
        wiener = white * jnp.sqrt(self.eigenvalues / total)
        return self.network.features(white, wiener, jnp.log(sigma)), wiener

    def mode_energy(self, a: Float[Array, " m"], sigma):
        """The part of the energy that depends on the leading coordinates `a`."""
        white = a / jnp.sqrt(self.eigenvalues + sigma**2)
        features, wiener = self.features(a, sigma)
        field = self.network.leave(features)
        gain = jnp.sqrt(self.eigenvalues) / sigma
        energy = 0.5 * jnp.sum(white**2) - jnp.sum(white * gain * field)
        if self.confinement is None:
            return energy
        return energy + self.confinement.wall(a, features, wiener, self.eigenvalues, sigma)

    def __call__(self, z, sigma):
        """Energy, a scalar, of one stretched image ``[n, n]``."""
        residual = z.ravel() - self.mean
        a = residual @ self.basis
        # The rest is formed explicitly: |z|^2 - |a|^2 loses all digits in float32.
        rest = residual - self.basis @ a
        tail = 0.5 * jnp.sum(rest**2) / (self.tail + sigma**2)
        return self.mode_energy(a, sigma) + tail

    def start(self, key, sigma):
        """Draw ``[n, n]`` from the Gaussian part, which at a large `sigma` is all there is."""
        return self.color(jr.normal(key, (self.box, self.box), self.mean.dtype), sigma)

    def color(self, white, sigma):
        """Turn white noise ``[n, n]`` into what `start` draws."""
        modes, rest = jnp.sqrt(self.eigenvalues + sigma**2), jnp.sqrt(self.tail + sigma**2)
        return self.mean.reshape(white.shape) + self._scaled(white, modes, rest)

    def whiten(self, z, sigma):
        """Undo `color`."""
        modes, rest = jnp.sqrt(self.eigenvalues + sigma**2), jnp.sqrt(self.tail + sigma**2)
        return self._scaled(z - self.mean.reshape(z.shape), 1 / modes, 1 / rest)

    def _scaled(self, image, modes, rest):
        """Scale an image ``[n, n]`` in the leading modes, and outside of them."""
        a = image.ravel() @ self.basis
        outside = image.ravel() - self.basis @ a
        return (self.basis @ (a * modes) + outside * rest).reshape(image.shape)


def principal_modes(images: np.ndarray, num_modes: int):
    """Mean, leading modes and eigenvalues of a set, averaged over the square's symmetries.

    Parameters
    ----------
    images
        Stretched images ``[N, n, n]``.
    num_modes
        How many leading modes to return.

    Returns
    -------
    mean, basis, eigenvalues, tail
        ``[n * n]``, ``[n * n, m]``, ``[m]`` in falling order, and the mean of the
        remaining eigenvalues.  Float64.
    """
    pixels = images[0].size
    mean, second = np.zeros(pixels), np.zeros((pixels, pixels))
    for turned in dihedral(images):
        flat = turned.reshape(len(images), pixels).astype(np.float32)
        mean += flat.mean(0, dtype=np.float64) / 8
        second += (flat.T @ flat).astype(np.float64) / len(images) / 8
    values, vectors = np.linalg.eigh(second - np.outer(mean, mean))
    values, vectors = values[::-1], vectors[:, ::-1]
    # Rounding of the float32 products: nothing below this is a measured variance.
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
