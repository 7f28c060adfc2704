"""Sweeps: a move of the noise of every source, and one of every brightness."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scorepriors.models.rendering._information import by_exposure
from scorepriors.models.spectra._products import chosen, inner_products, log_marginal

from ._reference import Moments, Reference, refined
from ._scene import FlowScene, Images, Walkers, apart, as_one, normals, numbers_of, of_all_chains

#: Target acceptance rate of the moves of brightnesses.
BRIGHTNESS_RATE = 0.4

#: Scatter of the logarithm of each step about its tuned size, so that some are always large.
BOLDNESS = 0.7


class References(NamedTuple):
    """Reference Gaussians of the moves: of each galaxy, by group, and of all galaxies as one.

    Attributes
    ----------
    each, together
        The Gaussians.
    brightness
        Brightnesses ``[K]`` of the mode.
    """

    each: dict[str, Reference]
    together: Reference
    brightness: Float[Array, " K"]


class Recent(NamedTuple):
    """Sums over recent draws, for each reference of the moves, and their number of sweeps."""

    each: dict[str, Moments]
    together: Moments

    @classmethod
    def none(cls, near: References) -> "Recent":
        """Return the sums of no draws."""
        each = {name: Moments.none(one) for name, one in near.each.items()}
        return cls(each, Moments.none(near.together))

    def plus(self, near: References, noise: Images) -> "Recent":
        """Return the sums with the points of all chains."""
        each = {n: one.plus(near.each[n], noise[n]) for n, one in self.each.items()}
        return Recent(each, self.together.plus(near.together, as_one(noise, 1)))

    def refine(self, near: References) -> References:
        """Return the references refined by these draws."""
        each = {name: refined(near.each[name], one) for name, one in self.each.items()}
        return References(each, refined(near.together, self.together), near.brightness)


class Steps(NamedTuple):
    """Sizes of moves, common to all chains.

    Attributes
    ----------
    source
        Sizes of moves about the prior, about each galaxy's reference, and (one number) of all
        galaxies about their common one, ``[3, K]``.
    brightness
        Sizes of moves of the brightnesses, ``[K]``.
    """

    source: Float[Array, "3 K"]
    brightness: Float[Array, " K"]


class Rates(NamedTuple):
    """Acceptance rates: of sources and of brightnesses ``[K]``, averaged over the chains."""

    source: Float[Array, " K"]
    brightness: Float[Array, " K"]


def tuned(steps: Steps, kind, rates: Rates, push, rate) -> Steps:
    """Return steps enlarged where acceptance exceeds its target (Robbins and Monro 1951)."""
    source = steps.source[kind] * jnp.exp(push * (rates.source - rate))
    brightness = steps.brightness * jnp.exp(push * (rates.brightness - BRIGHTNESS_RATE))
    return Steps(
        steps.source.at[kind].set(jnp.clip(source, 1e-4, 1.0)), jnp.clip(brightness, 1e-4, 3.0)
    )


#: Kinds of moves of one sweep after the other: see `sweep`.
CYCLE = (0, 1, 1, 2)


def kinds_of_sources(kind, steps: Steps, warming):
    """Return the kind of move ``[K]`` of each source in a sweep.

    After the warm-up sources that moves about the prior hardly change, which are bright, are moved
    about their reference instead.
    """
    slow = steps.source[0] < 0.5 * steps.source[1]
    return jnp.where((kind == 0) & slow & ~warming, 1, kind)


def sweep(scene: FlowScene, near: References, kinds, states: Walkers, steps: Steps, key):
    """Propose one move for every source of every chain, or for all galaxies at once.

    Parameters
    ----------
    scene, near
        The scene, and the reference Gaussians of the moves.
    kinds
        Kind of the move of each source, ``[K]``: about the prior (0), about the galaxy's reference
        (1), or, for all of them, about the common one (2).
    states
        Points of the chains.
    steps
        Sizes of moves.
    key
        Random key of this sweep.

    Returns
    -------
    states
        Points of the chains after the sweep.
    rates
        Acceptance rates ``[K]`` of sources and of brightnesses, averaged over the chains.
    accepted
        Acceptance rates ``[C]``, averaged over the sources.
    """
    numbers = numbers_of(states.noise, 1)
    steps = steps._replace(source=steps.source[kinds, jnp.arange(len(kinds))])
    chains, num_galaxies = len(states.brightness), sum(len(n) for n in numbers.values())
    bold, fresh, star, judge = jax.random.split(key, 4)
    scatter = jax.random.normal(bold, states.brightness.shape, states.brightness.dtype)
    step = jnp.minimum(steps.source * jnp.exp(BOLDNESS * scatter), 1.0)
    new, jointly = normals(fresh, states.noise), kinds[0] == 2
    each = {name: one.times(kinds[numbers[name], None]) for name, one in near.each.items()}
    before = as_one(states.noise, 1)
    moved = apart(jax.vmap(near.together.move)(before, as_one(new, 1), step[:, :1]), states.noise)
    noise = {
        name: jnp.where(
            jointly, moved[name], jax.vmap(each[name].move)(old, new[name], step[:, numbers[name]])
        )
        for name, old in states.noise.items()
    }
    z = of_all_chains(scene, noise)

    # Change of the log-ratio of the prior to the reference, which enters the acceptance.
    def gain(one, old, moved):
        return jax.vmap(lambda a, b: one.excess(b) - one.excess(a))(old, moved)

    alone = [gain(each[name], states.noise[name], noise[name]) for name in noise]
    common = gain(near.together, before, as_one(noise, 1))
    first = jnp.arange(num_galaxies) == 0
    excess = jnp.where(jointly, common * first, jnp.concatenate(alone, 1))
    white = jax.random.normal(star, states.offset.shape, states.offset.dtype)
    turn = jnp.where(jointly, 0.0, step[:, num_galaxies:, None])
    offset = scene.turned(states.offset, turn, white)
    excess = jnp.concatenate([excess, jnp.zeros(offset.shape[:2], excess.dtype)], 1)
    # Chain by chain: renderings of one scene fit into the caches, those of all chains don't.
    states, source, brightness = jax.lax.map(
        lambda x: _judge(scene, near.brightness, steps.brightness, jointly, *x),
        (states, noise, z, offset, excess, jax.random.split(judge, chains)),
    )
    return states, Rates(source.mean(0), brightness.mean(0)), source.mean(1)


def _judge(
    scene: FlowScene,
    center,
    brightness_step,
    jointly,
    chain: Walkers,
    noise,
    z,
    offset,
    excess,
    key,
):
    """Accept or reject the moves of one chain's sources, one after the other or all at once."""
    drawn, area = scene.render(z, offset)
    num_sources = len(area)
    keys = jax.random.split(key, (3, num_sources))
    # Pixels are used once, for inner products, from which all likelihoods follow.
    here = scene.spectra(chain.brightness, chain.drawn, chain.area).mean
    exposures = scene.scene.exposures
    left = [
        one.images - jnp.einsum("kb,kbyx->byx", own, seen)
        for one, own, seen in zip(exposures, by_exposure(here, exposures), chain.drawn, strict=True)
    ]
    both = [jnp.concatenate([old, new - old]) for old, new in zip(chain.drawn, drawn, strict=True)]
    products = inner_products(both, left, scene.noises)

    def with_change(taken):
        return chosen(products, here, taken), jnp.where(taken, area, chain.area)

    def log_likelihood(brightness, held, size):
        prior = scene.spectrum_prior(brightness, size)
        return log_marginal(held, prior, here) + scene.usual(brightness)

    def source(k, carry):
        taken, brightness, expected, value, rates = carry
        # All at once: the first is accepted or rejected for all, the others change nothing.
        tried = jnp.where(jointly, taken | (k == 0), taken.at[k].set(True))
        held, size = with_change(tried)
        # Brightnesses, also the neighbors', follow the fluxes that the data give to the new
        # shapes: a shift that depends on shapes alone leaves all volumes as they are.
        there = scene.expected_brightness(center, held, size, here)
        moved = brightness + there - expected
        new = log_likelihood(moved, held, size)
        accept, odds = _accept(keys[0, k], new - value + excess[k])
        return (
            jnp.where(accept, tried, taken),
            jnp.where(accept, moved, brightness),
            jnp.where(accept, there, expected),
            jnp.where(accept, new, value),
            rates.at[k].set(odds),
        )

    zero = jnp.zeros(num_sources, chain.brightness.dtype)
    nobody = jnp.zeros(num_sources, bool)
    held, size = with_change(nobody)
    expected = scene.expected_brightness(center, held, size, here)
    value = log_likelihood(chain.brightness, held, size)
    start = (nobody, chain.brightness, expected, value, zero)
    taken, brightness, _, value, source_rates = jax.lax.fori_loop(0, num_sources, source, start)
    held, size = with_change(taken)

    def bright(k, carry):
        brightness, value, rates = carry
        # Some moves are long: the brightness of a doubtful source may have two modes.
        move, bold = jax.random.normal(keys[1, k], (2,), brightness.dtype)
        tried = brightness.at[k].add(brightness_step[k] * jnp.exp(bold) * move)
        new = log_likelihood(tried, held, size)
        accept, odds = _accept(keys[2, k], new - value)
        return (
            jnp.where(accept, tried, brightness),
            jnp.where(accept, new, value),
            rates.at[k].set(odds),
        )

    brightness, value, brightness_rates = jax.lax.fori_loop(
        0, num_sources, bright, (brightness, value, zero)
    )
    numbers = numbers_of(z, 0)
    star = taken[sum(len(n) for n in numbers.values()) :]

    def either(new, old):
        return {n: jnp.where(taken[numbers[n]][:, None, None], new[n], old[n]) for n in new}

    return (
        Walkers(
            either(noise, chain.noise),
            either(z, chain.z),
            jnp.where(star[:, None], offset, chain.offset),
            brightness,
            jax.tree.map(
                lambda new, old: jnp.where(taken[:, None, None, None], new, old), drawn, chain.drawn
            ),
            size,
            value,
        ),
        source_rates,
        brightness_rates,
    )


def _accept(key, gain):
    """Return Metropolis's choice and its probability, zero where the density is not finite."""
    odds = jnp.where(jnp.isfinite(gain), jnp.minimum(jnp.exp(jnp.minimum(gain, 0.0)), 1.0), 0.0)
    return jax.random.uniform(key, (), odds.dtype) < odds, odds
