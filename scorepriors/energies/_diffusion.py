"""Drawing images from an energy by following its scores from high noise to low."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._abstract import AbstractEnergy


def noise_schedule(
    sigma_max, sigma_min, num_steps: int, *, even: bool = False
) -> Float[Array, " levels"]:
    """Return noise levels from `sigma_max` down to `sigma_min`, dense at the low end.

    Uniform in ``sigma ** (1/7)``: Karras et al. (2022), eq. 5.  Or in the logarithm, if `even`:
    with few steps that gives better draws.
    """
    ramp = jnp.linspace(0.0, 1.0, num_steps + 1)
    if even:
        return sigma_max * (sigma_min / jnp.asarray(sigma_max)) ** ramp
    top, bottom = jnp.asarray(sigma_max) ** (1 / 7), jnp.asarray(sigma_min) ** (1 / 7)
    return (top + ramp * (bottom - top)) ** 7


def follow_flow(
    energy: AbstractEnergy, z: Float[Array, "num n n"], levels: Float[Array, " levels"]
) -> Float[Array, "num n n"]:
    r"""Carry images along the probability-flow ODE from the first noise level to the last.

    :math:`dz/d\sigma = -\sigma \nabla\log p_\sigma(z)` (Song et al. 2021, eq. 13, for
    additive noise).  Toward low noise this turns noise into galaxies; toward high noise it
    finds the noise that corresponds to a galaxy.

    Parameters
    ----------
    energy
        Energy whose denoiser is used.
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
        clean = jax.vmap(energy.denoise, (0, None))(z, now)
        length = jnp.log(now / then)
        ahead = clean + length / (2 * last) * (clean - before)
        share = then / now
        return (share * z + (1 - share) * ahead, clean, length), None

    # No extrapolation in the first step: an infinitely long step is assumed before it.
    start = (z, jnp.zeros_like(z), jnp.asarray(jnp.inf, z.dtype))
    return jax.lax.scan(step, start, (levels[:-1], levels[1:]))[0][0]


@partial(jax.jit, static_argnames=("static", "num_steps", "even"))
def flow_from_white(
    params, static, white, sigma_max, sigma_min, num_steps: int, even: bool = False
):
    """Carry white noise ``[num, n, n]`` down from `sigma_max` to `sigma_min`.

    Parameters
    ----------
    params, static
        The energy, by ``equinox.partition``.
    white
        Unit normal deviates.
    sigma_max, sigma_min
        First and last noise level, in the stretched space; arrays, so they recompile nothing.
    num_steps
        Number of steps, one score call each.
    even
        Whether levels are uniform in the logarithm; see `noise_schedule`.

    Returns
    -------
    Array
        Stretched images ``[num, n, n]``, noise of `sigma_min` included.
    """
    energy = eqx.combine(params, static)
    top = jax.vmap(energy.from_white, (0, None))(white, sigma_max)
    return follow_flow(energy, top, noise_schedule(sigma_max, sigma_min, num_steps, even=even))


@partial(jax.jit, static_argnames=("static", "num_steps", "even"))
def flow_to_white(params, static, z, sigma_max, sigma_min, num_steps: int, even: bool = False):
    """Undo `flow_from_white`, up to the error of the steps; arguments as there."""
    energy = eqx.combine(params, static)
    levels = noise_schedule(sigma_max, sigma_min, num_steps, even=even)
    top = follow_flow(energy, z, levels[::-1])
    return jax.vmap(energy.to_white, (0, None))(top, sigma_max)


def white_noise(params, key: PRNGKeyArray, num: int, box: int) -> Float[Array, "num n n"]:
    """Return unit normal deviates, a key per image, in the parameters' widest precision."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(params)]
    dtype = max(dtypes, key=lambda one: one.itemsize, default=jnp.zeros(()).dtype)
    return jax.vmap(lambda k: jr.normal(k, (box, box), dtype))(jr.split(key, num))
