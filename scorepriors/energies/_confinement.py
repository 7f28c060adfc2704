r"""A confinement: what keeps an energy that was learned near galaxies from being used far off.

Denoising score matching shapes an energy where noisy galaxies are: on a thin shell around
the set of galaxies.  Elsewhere it may fall without end, and Hamiltonian Monte Carlo finds
the way out.  So the energy gets a wall around the region where it was learned.  A small
network projects the image onto the galaxies: :math:`P(a, \sigma)` is an autoencoder with
a bottleneck of a few bounded codes, plus a correction of bounded length.  Its squared
distance from the image in units of the noise,

.. math:: q = |a - P(a, \sigma)|^2 / \sigma^2,

is that of the noise alone for a noisy galaxy, whatever the galaxy, and larger off the
galaxies.  Beyond a threshold that no training image reaches the wall adds energy, in the
end half of q as Gaussian noise about P would.  Below it the wall is exactly zero.

The range of P is bounded, so q grows like :math:`|a|^2 / \sigma^2` in every direction.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

#: Growth of the energy per unit of q far behind the wall: that of Gaussian noise.  Four
#: times as steep, a galaxy two pixels off center cost 5,285 nats instead of 611 without a
#: wall at sigma 0.15, and a foreign ring disturbed the score of the pixels around it.
SLOPE = 0.5

#: Noise levels at which the threshold is calibrated, between the recipe's extremes.
NUM_LEVELS = 25


class Confinement(eqx.Module):
    """Projection onto galaxies, and how far from it an image may be.

    It reads the features of the network of the energy, so it costs little beside it.
    """

    encode: eqx.nn.Linear
    decode: tuple[eqx.nn.Linear, eqx.nn.Linear, eqx.nn.Linear]
    correct: eqx.nn.Linear
    #: Greatest length of the correction of what the autoencoder gives.
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
        """What the autoencoder alone gives, ``[m]``."""
        code = 3 * jnp.tanh(self.encode(features) / 3)
        first, second, last = self.decode
        h = jax.nn.silu(first(code))
        h = h + jax.nn.silu(second(h))
        return jnp.sqrt(eigenvalues) * last(h)

    def project(self, features, wiener, eigenvalues, sigma):
        """P, ``[m]``: the nearest galaxy as far as this small network knows.

        Parameters
        ----------
        features
            Of `ModeNetwork.features`.
        wiener
            The Wiener estimate, ``[m]``, in units of ``sqrt(eigenvalues)``.
        eigenvalues, sigma
            Of the modes; noise level.
        """
        rough = self.reconstruct(features, eigenvalues)
        # As in the energy: one unit is the standard error of the Wiener estimate.
        unit = jnp.sqrt(eigenvalues * sigma**2 / (eigenvalues + sigma**2))
        wanted = jnp.sqrt(eigenvalues) * wiener + unit * self.correct(features) - rough
        shrink = self.reach / jnp.sqrt(self.reach**2 + jnp.sum(wanted**2))
        return rough + shrink * wanted

    def distance(self, a, features, wiener, eigenvalues, sigma):
        """q: squared distance of `a` from its projection in units of the noise."""
        projected = self.project(features, wiener, eigenvalues, sigma)
        return jnp.sum((a - projected) ** 2) / sigma**2

    def wall(self, a, features, wiener, eigenvalues, sigma):
        """What is added to the energy."""
        q = self.distance(a, features, wiener, eigenvalues, sigma)
        threshold = jnp.exp(self._interpolated(jnp.log(sigma)))
        # The scatter of q of pure noise makes the foot of the wall smooth.
        scatter = (2.0 * a.shape[0]) ** 0.5
        u = jax.nn.relu((q - threshold) / scatter)
        return SLOPE * scatter * u**2 / (1 + u)

    def _interpolated(self, log_sigma):
        """Linear interpolation in equal steps, constant beyond; `jnp.interp` loops."""
        first, step = self.log_sigma[0], self.log_sigma[1] - self.log_sigma[0]
        last = self.log_sigma.shape[0] - 1
        place = jnp.clip((log_sigma - first) / step, 0.0, last)
        hats = jax.nn.relu(1.0 - jnp.abs(place - jnp.arange(last + 1)))
        return jnp.sum(hats * self.log_threshold)


class ConfinementState(NamedTuple):
    """What a checkpoint of this stage holds."""

    confinement: Confinement
    optimizer: optax.OptState


def make_confinement_optimizer(config) -> optax.GradientTransformation:
    """Clipped Adam with warm-up and cosine decay."""
    warmup = max(1, min(200, config.steps // 10))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warmup, max(config.steps, warmup + 1)
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def initial_confinement(recipe) -> Confinement:
    """An untrained confinement of the sizes of a recipe."""
    config, network, first = recipe.confinement, recipe.network, recipe.training
    levels = np.geomspace(first.sigma_min, first.sigma_max, NUM_LEVELS)
    return Confinement(
        network.width,
        network.modes,
        config.codes,
        config.width,
        config.reach,
        levels,
        key=jr.key(recipe.training.seed),
    )


def make_confinement_step(energy, recipe):
    """Compile one step of training; the energy stays as it is.

    Returns
    -------
    Callable
        ``step(state, key, coordinates) -> state, (sigma, losses)``.
    """
    config, first = recipe.confinement, recipe.training
    optimizer = make_confinement_optimizer(config)

    def loss_fn(trained, a, clean, sigma):
        features, wiener = jax.vmap(energy.features)(a, sigma)
        values = energy.eigenvalues
        rough = jax.vmap(trained.reconstruct, (0, None))(features, values)
        projected = jax.vmap(trained.project, (0, 0, None, 0))(features, wiener, values, sigma)
        noise = len(values) * sigma**2
        far = jnp.sum((rough - clean) ** 2, 1) / (noise + 0.05)
        near = jnp.sum((projected - clean) ** 2, 1) / (0.1 * noise + 0.005)
        return jnp.mean(far + near), near

    @jax.jit
    def step(state, key, coordinates):
        keys = jr.split(key, 4)
        clean = coordinates[jr.randint(keys[0], (config.batch,), 0, len(coordinates))]
        strata = (jnp.arange(config.batch) + jr.uniform(keys[1], (config.batch,))) / config.batch
        low, high = jnp.log(first.sigma_min), jnp.log(first.sigma_max)
        # Denser at low noise, where a projection is hard and the wall is needed.
        sigma = jnp.exp(low + strata**1.5 * (high - low))
        # Half the images have more noise than is told: they lie outside in every
        # direction, and belong to the same galaxy all the same.
        share, spread = jr.uniform(keys[2], (2, config.batch))
        factor = jnp.where(share < 0.5, 1.0, jnp.exp(spread * jnp.log(config.wide_factor)))
        a = clean + (factor * sigma)[:, None] * jr.normal(keys[3], clean.shape)
        (_, losses), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
            state.confinement, a, clean, sigma
        )
        fixed = jnp.zeros_like
        gradient = eqx.tree_at(
            lambda c: (c.reach, c.log_sigma, c.log_threshold), gradient, replace_fn=fixed
        )
        updates, optimizer_state = optimizer.update(gradient, state.optimizer)
        return ConfinementState(optax.apply_updates(state.confinement, updates), optimizer_state), (
            jnp.where(factor == 1.0, sigma, 0.0),
            losses,
        )

    return step


def calibrate(
    energy,
    confinement: Confinement,
    coordinates: Float[Array, "N m"],
    *,
    key: PRNGKeyArray,
    num: int = 4000,
    allowance: float = 1.1,
    inside: float = 1.0,
) -> Confinement:
    """Put the wall where no noisy training image is, or all but a few.

    The threshold at each level is `allowance` times a quantile of q among `num` noisy training
    images: the largest for `inside` one.  Where a few galaxies are far stranger than all
    others, the largest leaves room for anything: it is the quantile that walls it in.
    """

    @jax.jit
    def distances(coordinates, key, sigma):
        key_pick, key_noise = jr.split(key)
        clean = coordinates[jr.randint(key_pick, (num,), 0, len(coordinates))]
        a = clean + sigma * jr.normal(key_noise, clean.shape)

        def one(a):
            features, wiener = energy.features(a, sigma)
            return confinement.distance(a, features, wiener, energy.eigenvalues, sigma)

        return jax.vmap(one)(a)

    levels = np.exp(np.asarray(confinement.log_sigma))
    edge = [
        float(jnp.quantile(distances(coordinates, key_level, jnp.float32(sigma)), inside))
        for key_level, sigma in zip(jr.split(key, len(levels)), levels, strict=True)
    ]
    log_threshold = jnp.log(allowance * jnp.asarray(edge, jnp.float32))
    return eqx.tree_at(lambda c: c.log_threshold, confinement, log_threshold)
