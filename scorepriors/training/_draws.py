r"""Draws of clean galaxies from noisy stamps: the E step of learning from these.

The density of a galaxy given its stamp is that of the prior at noise level sigma times the
likelihood, and since this prior's energy is a number, Hamiltonian Monte Carlo with a Metropolis
test needs no approximation of it.  Draws are approximate all the same, since chains are short: as near
to the density as the descent brings them.  At the lowest level alone a chain would not get around; so it
starts at a level as wide as what the data leave open, and goes down with a few transitions at each.  A
direction in which the posterior is much wider than sigma keeps the width that it had when it was
drawn above; those that are narrower are drawn anew.

The likelihood is tempered on the way.  Noise of sigma leaves a galaxy no better known than a stamp of
some signal to noise; a stamp of a higher one would hold a chain in a narrow, bent valley (all that
differ by their flux), where it may never find the peak that the prior wants.  At the lowest level nothing is tempered.

Coordinates of unit width: the curvature of a level is at most :math:`1/\sigma^2` of the prior and the
Gauss-Newton matrix of the likelihood, dense in the principal modes, one number outside of them.
It is taken where a level begins, before any of its transitions, and stays during these.  At the lowest
level so does the length of steps.  With both fixed each transition leaves the density invariant; but both
come from the chain itself, so the level as a whole does so only nearly.  That fades with more transitions.

At the end the noise of the lowest level is taken off: one denoising step, and the spread that its
posterior has.
"""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Float, Key, PRNGKeyArray

from scorepriors._stretch import AbstractStretch
from scorepriors.energies._diffusion import noise_schedule
from scorepriors.energies._wiener import WienerEnergy

from ._likelihood import Stamp, misfit, tangents

#: Noise level at which chains begin: a few steps cross what data of any depth leave open.
START = 4.0

#: Pixels over which noise in the stretched space averages, when it is compared with a stamp's.
NUM_PIXELS = 128

#: Noise levels between which a chain whose galaxy has another peak than one is scaled to it, and the
#: least logarithm of its peak.  Noise hides the peak above; below, the density itself decides.
SCALED, OFF = (0.2, 1.0), 0.5

#: Steps of a trajectory; lengths are drawn around that, lest a direction return to its start.
NUM_LEAPFROG = 8

#: Steps of a damped Gauss-Newton search for the place at which a chain begins.
NUM_SEARCH = 10

#: Share of proposals that are accepted, to which the length of steps is fitted.
TARGET = 0.75

#: Images on which floors and spreads of a prior are measured.
NUM_REFERENCE = 512


class Target(NamedTuple):
    """A prior as the E step uses it.

    Attributes
    ----------
    energy
        The energy, without a wall.
    stretch
        Stretch of its images.
    levels
        Noise levels ``[L]``, descending.
    floors
        Energies ``[L]`` below which nothing is accepted.  A network is trained where noisy galaxies are, and
        elsewhere its energy may fall without end; no noisy galaxy is below these.
    spread
        Mean posterior variances ``[m]`` of the leading coordinates at the lowest level.
    """

    energy: WienerEnergy
    stretch: AbstractStretch
    levels: Float[Array, " L"]
    floors: Float[Array, " L"]
    spread: Float[Array, " m"]


class Draw(NamedTuple):
    """Draws of a batch, and how their chains went.

    Attributes
    ----------
    z
        Stretched galaxies ``[N, n, n]`` without noise.
    accepted
        Share of accepted proposals at the lowest half of the levels, ``[N]``.
    """

    z: Float[Array, "N n n"]
    accepted: Float[Array, " N"]


def make_target(
    energy: WienerEnergy,
    stretch: AbstractStretch,
    reference: Float[np.ndarray, "N n n"],
    sigma_min: float,
    num_levels: int,
    *,
    key: PRNGKeyArray,
) -> Target:
    """Return a prior as the E step uses it.

    Parameters
    ----------
    energy, stretch
        The prior's energy, and its stretch.
    reference
        Stretched galaxies of the prior, without noise: what it was trained on, or its draws.
    sigma_min
        Lowest noise level.
    num_levels
        Number of levels.
    key
        Random key of the noise added to `reference`.
    """
    levels = noise_schedule(max(START, 2 * sigma_min), sigma_min, num_levels - 1, even=True)
    z = jnp.asarray(reference[:NUM_REFERENCE], jnp.float32)
    # Carries of scans keep the type of galaxies, also where JAX computes with 64 bits.
    levels = levels.astype(z.dtype)
    floors, spread = _measure(energy, z, levels, key)
    return Target(energy, stretch, levels, floors, spread)


@eqx.filter_jit
def _measure(energy, z, levels, key):
    def floor(sigma, key):
        noisy = z + sigma * jr.normal(key, z.shape, z.dtype)
        found = jax.vmap(energy, (0, None))(noisy, sigma)
        # Half as far again below the lowest as that is below the middle: chains see more galaxies.
        return found.min() - 0.5 * (jnp.median(found) - found.min())

    keys = jr.split(key, len(levels) + 1)
    floors = jax.lax.map(lambda pair: floor(*pair), (levels, keys[1:]))
    sigma = levels[-1]
    key_noise, key_probe = jr.split(keys[0])
    noisy = z + sigma * jr.normal(key_noise, z.shape, z.dtype)
    a = jax.vmap(lambda one: energy.split(one, sigma)[0])(noisy)
    probes = jr.rademacher(key_probe, a.shape, a.dtype)

    def denoised(one):
        return one - sigma**2 * jax.grad(energy.mode_energy)(one, sigma)

    moved = jax.vmap(lambda one, probe: jax.jvp(denoised, (one,), (probe,))[1])(a, probes)
    wiener = energy.eigenvalues * sigma**2 / (energy.eigenvalues + sigma**2)
    # The posterior covariance of an image given its noisy one is sigma^2 times the denoiser's
    # Jacobian: its diagonal by random signs, averaged over galaxies.
    return floors, jnp.clip(sigma**2 * (probes * moved).mean(0), 0, wiener)


@partial(jax.jit, static_argnames=("half",))
def linear_modes(target: Target, stamps: Stamp, *, half: int) -> Float[Array, "N n n"]:
    """Return where chains begin if nothing is known: modes under the prior's Gaussian part.

    Parameters
    ----------
    target
        Result of `make_target`.
    stamps
        Images, weights and kernels with a leading axis of stamps.
    half
        See `Stamps`.

    Returns
    -------
    Array
        Stretched galaxies, found by damped Gauss-Newton steps at the highest noise level.
    """
    return jax.vmap(partial(_search, target, half=half))(stamps)


@partial(jax.jit, static_argnames=("half", "num_transitions"))
def draw_galaxies(
    target: Target,
    stamps: Stamp,
    start: Float[Array, "N n n"],
    keys: Key[Array, " N"],
    *,
    half: int,
    num_transitions: int,
) -> Draw:
    """Draw a clean galaxy for each of a batch of stamps.

    Parameters
    ----------
    target
        Result of `make_target`.
    stamps
        Images, weights and kernels with a leading axis of stamps.
    start
        Stretched galaxies at which chains begin: of an earlier prior, or `linear_modes`.
    keys
        A random key for each stamp, on which its draw depends, and on no other stamp.
    half
        See `Stamps`.
    num_transitions
        Transitions at each noise level.
    """
    one = partial(_draw_one, target, half=half, num=num_transitions)
    return jax.vmap(one)(stamps, start, keys)


class _Place(NamedTuple):
    """A galaxy: leading coordinates ``[m]``, and the image ``[n * n]`` of the rest."""

    a: Array
    rest: Array


def _image(energy, place):
    size = energy.box
    return (energy.mean + energy.basis @ place.a + place.rest).reshape(size, size)


def _outside(energy, image):
    """Take the leading modes out of an image ``[n * n]``."""
    return image - energy.basis @ (image @ energy.basis)


def _draw_one(target, stamp, start, key, *, half, num):
    energy, stretch = target.energy, target.stretch
    key_chain, key_modes, key_rest = jr.split(key, 3)
    flat = start.ravel() - energy.mean
    place = _Place(flat @ energy.basis, _outside(energy, flat))

    def descend(carry, level):
        place, step, key = carry
        key, key_level = jr.split(key)
        place = _with_unit_peak(energy, stretch, place, level[0])
        place, step, accepted = _transitions(
            energy, stretch, stamp, half, place, step, level, num, key_level
        )
        return (place, step, key), accepted

    begin = (place, jnp.asarray(0.5, start.dtype), key_chain)
    number = jnp.arange(len(target.levels))
    tempers = _tempers(stretch, stamp, target.levels)
    levels = (target.levels, target.floors, tempers, number == 0, number == len(number) - 1)
    (place, _, _), accepted = jax.lax.scan(descend, begin, levels)
    # The noise of the lowest level is taken off again, by a draw of what lies below.
    sigma = target.levels[-1]
    clean = place.a - sigma**2 * jax.grad(energy.mode_energy)(place.a, sigma)
    clean += jnp.sqrt(target.spread) * jr.normal(key_modes, clean.shape, clean.dtype)
    share = energy.tail / (energy.tail + sigma**2)
    noise = _outside(energy, jr.normal(key_rest, place.rest.shape, place.rest.dtype))
    rest = share * place.rest + jnp.sqrt(share) * sigma * noise
    lower = len(target.levels) // 2
    return Draw(_image(energy, _Place(clean, rest)), accepted[lower:].mean())


def _with_unit_peak(energy, stretch, place, sigma):
    """Scale a galaxy to a peak of one, where a chain went astray: its flux makes up for that."""
    clean = place.a - sigma**2 * jax.grad(energy.mode_energy)(place.a, sigma)
    seen = stretch(_image(energy, _Place(clean, jnp.zeros_like(place.rest))))
    peak = jnp.maximum(seen.max(), 1e-3)
    astray = (SCALED[0] < sigma) & (sigma < SCALED[1]) & (jnp.abs(jnp.log(peak)) > OFF)
    scaled = stretch.inv(stretch.clip(stretch(_image(energy, place)) / peak, jnp))
    flat = scaled.ravel() - energy.mean
    there = _Place(flat @ energy.basis, _outside(energy, flat))
    return jax.tree.map(lambda new, old: jnp.where(astray, new, old), there, place)


def _tempers(stretch, stamp, levels):
    """Return factors of the weights at each level, one at the last."""
    squared = jnp.sum(stamp.image**2 * stamp.weights) - jnp.sum(stamp.weights > 0)
    peak = stretch.inv(jnp.ones((), stamp.image.dtype))
    _, relative = jax.jvp(stretch, (peak,), (jnp.ones_like(peak),))
    noise = relative**2 * (levels**2 - levels[-1] ** 2) / NUM_PIXELS
    return 1 / (1 + jnp.maximum(squared, 0) * noise)


def _curvature(energy, stretch, stamp, half, z):
    """Return the likelihood's curvature in the modes ``[m, m]``, and its largest outside."""
    change = tangents(stamp, z, stretch, half)
    size = energy.box
    columns = jax.vmap(lambda v: change(v.reshape(size, size)).ravel(), 1)(energy.basis)
    _, pull = jax.vjp(change, z)

    def power(direction, _):
        direction = _outside(energy, direction)
        direction /= jnp.sqrt(jnp.sum(direction**2) + 1e-30)
        (again,) = pull(change(direction.reshape(size, size)))
        return _outside(energy, again.ravel()), jnp.sum(direction * again.ravel())

    # Where the galaxy is bright, data say most; of any start, power iterations find that.
    slope = jax.jvp(stretch, (z,), (jnp.ones_like(z),))[1]
    signs = jnp.where(jnp.arange(z.size) % 2 == 0, 1.0, -1.0).astype(z.dtype)
    _, largest = jax.lax.scan(power, slope.ravel() * signs, None, length=4)
    return columns @ columns.T, largest[-1]


def _search(target, stamp, *, half):
    energy, stretch, sigma = target.energy, target.stretch, target.levels[0]
    temper = _tempers(stretch, stamp, target.levels)[0]
    stamp = stamp._replace(weights=stamp.weights * temper)
    precision = 1 / (energy.eigenvalues + sigma**2)
    rest = jnp.zeros_like(energy.mean)

    def objective(a):
        value = misfit(stamp, _image(energy, _Place(a, rest)), stretch, half)
        return value + 0.5 * jnp.sum(precision * a**2)

    def step(carry, _):
        a, value, damping = carry
        gradient = jax.grad(objective)(a)
        matrix, _ = _curvature(energy, stretch, stamp, half, _image(energy, _Place(a, rest)))
        total = matrix + jnp.diag(precision + damping * jnp.diag(matrix))
        there = a - cho_solve((jnp.linalg.cholesky(total), True), gradient)
        found = objective(there)
        better = found < value
        damping = jnp.where(better, damping / 4, damping * 8)
        return (jnp.where(better, there, a), jnp.where(better, found, value), damping), None

    start = jnp.zeros_like(energy.eigenvalues)
    first = (start, objective(start), jnp.asarray(1e-2, start.dtype))
    (a, _, _), _ = jax.lax.scan(step, first, None, length=NUM_SEARCH)
    return _image(energy, _Place(a, rest))


def _transitions(energy, stretch, stamp, half, place, step, level, num, key):
    """Do `num` transitions at one noise level, in coordinates of unit width.

    Coordinates are those of the place at which the level begins, before any of its transitions.
    """
    sigma, floor, temper, first, last = level
    stamp = stamp._replace(weights=stamp.weights * temper)
    matrix, largest = _curvature(energy, stretch, stamp, half, _image(energy, place))
    factor = jnp.linalg.cholesky(matrix + jnp.eye(len(matrix), dtype=matrix.dtype) / sigma**2)
    width = 1 / jnp.sqrt(largest + 1 / (energy.tail + sigma**2))
    center = place

    def at(white):
        a = center.a + solve_triangular(factor, white.a, lower=True, trans=1)
        return _Place(a, center.rest + width * _outside(energy, white.rest))

    def potential(white):
        place = at(white)
        prior = energy.mode_energy(place.a, sigma)
        prior += 0.5 * jnp.sum(place.rest**2) / (energy.tail + sigma**2)
        return prior + misfit(stamp, _image(energy, place), stretch, half), prior

    both = jax.value_and_grad(potential, has_aux=True)

    def transition(carry, key):
        white, value, prior, slope, step = carry
        dtype = white.a.dtype
        key_momentum, key_length, key_accept = jr.split(key, 3)
        momentum = _Place(
            jr.normal(key_momentum, white.a.shape, dtype),
            _outside(energy, jr.normal(jr.fold_in(key_momentum, 1), white.rest.shape, dtype)),
        )
        length = step * jr.uniform(key_length, (), dtype, 0.7, 1.3)

        def leap(carry, _):
            white, momentum, slope, _, _ = carry
            momentum = jax.tree.map(lambda p, g: p - 0.5 * length * g, momentum, slope)
            white = jax.tree.map(lambda q, p: q + length * p, white, momentum)
            (value, prior), slope = both(white)
            momentum = jax.tree.map(lambda p, g: p - 0.5 * length * g, momentum, slope)
            return (white, momentum, slope, value, prior), None

        start = (white, momentum, slope, value, prior)
        (there, after, slope_there, value_there, prior_there), _ = jax.lax.scan(
            leap, start, None, length=NUM_LEAPFROG
        )
        change = value - value_there + _kinetic(momentum) - _kinetic(after)
        # From below the floor, where a chain may begin, it may rise.
        allowed = jnp.isfinite(change) & (prior_there >= jnp.minimum(floor, prior))
        chance = jnp.where(allowed, jnp.exp(jnp.minimum(change, 0)), 0)
        taken = jr.uniform(key_accept, (), dtype) < chance
        white, value, prior, slope = jax.tree.map(
            lambda new, old: jnp.where(taken, new, old),
            (there, value_there, prior_there, slope_there),
            (white, value, prior, slope),
        )
        # Not at the lowest level, where steps that follow the chain would bias it.
        fitted = jnp.clip(step * jnp.exp(0.3 * (chance - TARGET)), 0.02, 1.2)
        step = jnp.where(last, step, fitted)
        return (white, value, prior, slope, step), chance

    key_begin, key = jr.split(key)
    origin = jax.tree.map(jnp.zeros_like, place)
    # A chain begins at a place without noise, where no noisy galaxy is: it is given some.
    noise = jax.tree.map(
        lambda q, key: jr.normal(key, q.shape, q.dtype), place, _Place(*jr.split(key_begin))
    )
    origin = jax.tree.map(lambda q, e: jnp.where(first, e, q), origin, noise)
    (value, prior), slope = both(origin)
    (white, _, _, _, step), chances = jax.lax.scan(
        transition, (origin, value, prior, slope, step), jr.split(key, num)
    )
    return at(white), step, chances.mean()


def _kinetic(momentum):
    return 0.5 * sum(jnp.sum(p**2) for p in jax.tree.leaves(momentum))
