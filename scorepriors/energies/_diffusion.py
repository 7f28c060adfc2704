"""Drawing images from an energy by following its scores from high noise to low."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._networks import denoise, unconfined


def noise_schedule(sigma_max, sigma_min, num_steps: int) -> Float[Array, " steps+1"]:
    """Noise levels from `sigma_max` down to `sigma_min`, dense at the low end.

    Uniform in ``sigma ** (1/7)``: Karras et al. (2022), eq. 5.
    """
    ramp = jnp.linspace(0.0, 1.0, num_steps + 1)
    top, bottom = jnp.asarray(sigma_max) ** (1 / 7), jnp.asarray(sigma_min) ** (1 / 7)
    return (top + ramp * (bottom - top)) ** 7


def follow_flow(
    energy: Callable, z: Float[Array, "num n n"], levels: Float[Array, " steps+1"]
) -> Float[Array, "num n n"]:
    r"""Carry images along the probability-flow ODE from the first noise level to the last.

    :math:`dz/d\sigma = -\sigma \nabla\log p_\sigma(z)` (Song et al. 2021, eq. 13, for
    additive noise).  Down in noise this turns noise into galaxies, up it finds the noise
    that a galaxy comes from.

    Parameters
    ----------
    energy
        Module with ``energy(z, sigma)``.
    z
        Stretched images at the first level.
    levels
        Noise levels, in either direction; see `noise_schedule`.

    Notes
    -----
    DPM-Solver++ 2M (Lu et al. 2022, arXiv:2211.01095, algorithm 2): exact where the
    denoised image does not change along the way, linear extrapolation where it does, one
    score call a step.  Eight steps are as accurate as eight of Heun's method, at half the
    calls.
    """
    levels = levels.astype(z.dtype)  # under x64 a float level is wider than float32 weights

    def step(carry, ends):
        z, before, last = carry
        now, then = ends
        clean = jax.vmap(lambda one: denoise(energy, one, now))(z)
        length = jnp.log(now / then)
        ahead = clean + length / (2 * last) * (clean - before)
        share = then / now
        return (share * z + (1 - share) * ahead, clean, length), None

    # No extrapolation in the first step: the one before it is infinitely long.
    start = (z, jnp.zeros_like(z), jnp.asarray(jnp.inf, z.dtype))
    return jax.lax.scan(step, start, (levels[:-1], levels[1:]))[0][0]


@partial(jax.jit, static_argnames=("static", "num", "num_steps"))
def _flow(params, static, key, sigma_max, sigma_min, num, num_steps):
    energy = eqx.combine(params, static)
    z = jax.vmap(lambda k: energy.start(k, sigma_max))(jr.split(key, num))
    return follow_flow(energy, z, noise_schedule(sigma_max, sigma_min, num_steps))


def sample_flow(
    energy: Callable,
    *,
    key: PRNGKeyArray,
    num: int,
    sigma_max: float | Array,
    sigma_min: float | Array,
    num_steps: int = 30,
) -> Float[Array, "num n n"]:
    """Draw from the density smoothed by `sigma_min` along the probability-flow ODE.

    Integrated from `sigma_max` by `follow_flow`.

    Parameters
    ----------
    energy
        Module with ``energy(z, sigma)`` and ``energy.start(key, sigma)``.
    key
        Random key.
    num
        Number of images.
    sigma_max, sigma_min
        First and last noise level, in the stretched space.  Arrays: no recompilation.
    num_steps
        Steps, one score call each.

    Returns
    -------
    Array
        Stretched images ``[num, n, n]``, noise of `sigma_min` included.
    """
    params, static = eqx.partition(unconfined(energy), eqx.is_inexact_array)
    return _flow(
        params, static, key, jnp.asarray(sigma_max), jnp.asarray(sigma_min), num, num_steps
    )


@partial(jax.jit, static_argnames=("static", "num", "num_steps"))
def _reverse(params, static, key, sigma_max, sigma_min, num, num_steps):
    energy = eqx.combine(params, static)
    schedule = noise_schedule(sigma_max, sigma_min, num_steps)
    key_start, key_noise = jr.split(key)

    def ancestral(z, inputs):
        now, then, step_key = inputs
        clean = jax.vmap(lambda one: denoise(energy, one, now))(z)
        share = (then / now) ** 2
        noise = jr.normal(step_key, z.shape, z.dtype)
        return clean + share * (z - clean) + then * jnp.sqrt(1 - share) * noise, None

    z = jax.vmap(lambda k: energy.start(k, sigma_max))(jr.split(key_start, num))
    schedule = schedule.astype(z.dtype)
    keys = jr.split(key_noise, num_steps)
    return jax.lax.scan(ancestral, z, (schedule[:-1], schedule[1:], keys))[0]


def sample_reverse_sde(
    energy: Callable,
    *,
    key: PRNGKeyArray,
    num: int,
    sigma_max: float | Array,
    sigma_min: float | Array,
    num_steps: int = 100,
) -> Float[Array, "num n n"]:
    """Draw from the density smoothed by `sigma_min` by the reverse diffusion.

    Each step draws the less noisy image from its Gaussian given the denoised estimate
    (Ho et al. 2020, eq. 7, for additive noise): noise is put back as it is removed,
    which forgives errors of the score at the price of more steps than `sample_flow`.
    Arguments and result as there.
    """
    params, static = eqx.partition(unconfined(energy), eqx.is_inexact_array)
    return _reverse(
        params, static, key, jnp.asarray(sigma_max), jnp.asarray(sigma_min), num, num_steps
    )
