"""Training of the wall around a learned energy, and calibration of its threshold."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from scorepriors.energies._confined import Wall
from scorepriors.energies._wiener import WienerEnergy

from ._recipe import ConfinementRecipe, Recipe

#: Noise levels at which the threshold is calibrated, between the recipe's extremes.
NUM_LEVELS = 25


class WallState(NamedTuple):
    """State in a checkpoint of this stage."""

    wall: Wall
    optimizer: optax.OptState


def make_wall_optimizer(config: ConfinementRecipe) -> optax.GradientTransformation:
    """Return clipped Adam with warm-up and cosine decay."""
    warmup = max(1, min(200, config.steps // 10))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warmup, max(config.steps, warmup + 1)
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def initial_wall(recipe: Recipe) -> Wall:
    """Return an untrained wall with the sizes of a recipe."""
    config, network, first = recipe.confinement, recipe.network, recipe.training
    levels = np.geomspace(first.sigma_min, first.sigma_max, NUM_LEVELS)
    return Wall(
        network.width,
        network.modes,
        config.codes,
        config.width,
        config.reach,
        levels,
        key=jr.key(recipe.training.seed),
    )


def make_wall_step(energy: WienerEnergy, recipe: Recipe):
    """Compile one step of training, with the energy fixed.

    Returns
    -------
    Callable
        ``step(state, key, coordinates) -> state, (sigma, losses)``.
    """
    config, first = recipe.confinement, recipe.training
    optimizer = make_wall_optimizer(config)

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
        # Half the images have more noise than the wall is told: they lie outside in every
        # direction, and their projection is the same galaxy.
        share, spread = jr.uniform(keys[2], (2, config.batch))
        factor = jnp.where(share < 0.5, 1.0, jnp.exp(spread * jnp.log(config.wide_factor)))
        a = clean + (factor * sigma)[:, None] * jr.normal(keys[3], clean.shape)
        (_, losses), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
            state.wall, a, clean, sigma
        )
        fixed = jnp.zeros_like
        gradient = eqx.tree_at(
            lambda c: (c.reach, c.log_sigma, c.log_threshold), gradient, replace_fn=fixed
        )
        updates, optimizer_state = optimizer.update(gradient, state.optimizer)
        return WallState(optax.apply_updates(state.wall, updates), optimizer_state), (
            jnp.where(factor == 1.0, sigma, 0.0),
            losses,
        )

    return step


def calibrate(
    energy: WienerEnergy,
    wall: Wall,
    coordinates: Float[Array, "N m"],
    *,
    key: PRNGKeyArray,
    inside: float,
    num: int = 4000,
    allowance: float = 1.1,
) -> Wall:
    """Set the threshold beyond all noisy training images, or all but a few.

    The threshold at each level is `allowance` times a quantile of q among `num` noisy training
    images: the largest for `inside` one.  Where a few galaxies differ far more than all
    others, the largest is too wide a limit; a lower quantile is then of use.
    """

    @jax.jit
    def distances(coordinates, key, sigma):
        key_pick, key_noise = jr.split(key)
        clean = coordinates[jr.randint(key_pick, (num,), 0, len(coordinates))]
        a = clean + sigma * jr.normal(key_noise, clean.shape)

        def one(a):
            features, wiener = energy.features(a, sigma)
            return wall.distance(a, features, wiener, energy.eigenvalues, sigma)

        return jax.vmap(one)(a)

    levels = np.exp(np.asarray(wall.log_sigma))
    edge = [
        float(jnp.quantile(distances(coordinates, key_level, jnp.float32(sigma)), inside))
        for key_level, sigma in zip(jr.split(key, len(levels)), levels, strict=True)
    ]
    log_threshold = jnp.log(allowance * jnp.asarray(edge, jnp.float32))
    return eqx.tree_at(lambda w: w.log_threshold, wall, log_threshold)
