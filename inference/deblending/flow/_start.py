"""Start of the chains: the noise of a mode, references about it, and the spread of chains."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from scorepriors._errors import InputError
from scorepriors.models.rendering._information import by_exposure

from ._moves import References, Steps
from ._reference import Reference, reference
from ._scene import FlowScene, Images, Walkers, apart, as_one, normals, numbers_of, of_all_chains

#: Directions of references: of each galaxy and, per galaxy, of all together.
DIRECTIONS, TOGETHER = 40, 20


class Chains(NamedTuple):
    """State of a run: points of the chains, and sizes of their moves."""

    walkers: Walkers
    steps: Steps


def begin(scene: FlowScene, values: dict, num_chains: int, key) -> tuple[References, Chains]:
    """Return references, and chains about a mode.

    Parameters
    ----------
    scene
        The scene.
    values
        Constrained values of its sites at the mode.
    num_chains
        Number of chains.
    key
        Random key for first directions and the spread of the chains.

    Raises
    ------
    InputError
        If the density is not finite there.
    """
    place = scene.place_of(values)
    states = about(scene, *place, num_chains)
    if not np.isfinite(np.asarray(states.log_likelihood)).all():
        raise InputError("the log-density is not finite at the mode; deblend again.")
    size = len(place.brightness)
    first, second = jax.random.split(key)
    one = jax.tree.map(lambda a: a[0], states)
    each = {
        name: reference(eqx.Partial(curvature, scene, one, name), noise, DIRECTIONS, first)
        for name, noise in one.noise.items()
    }
    # Several galaxies are treated as one image, their pixels one after the other.
    together = reference(
        eqx.Partial(curvature, scene, one, None), as_one(one.noise, 0), TOGETHER * size, first
    )
    states = _spread(scene, each, states, second)
    return References(each, together), Chains(states, _first_steps(place.brightness))


def shapes(scene: FlowScene, values: dict, num_chains: int) -> tuple[References, Chains]:
    """Return the shapes of the result of `begin`, for site values of given shapes."""

    def skeleton(values):
        place = scene.place_of(values)
        states = about(scene, *place, num_chains)
        kind, size = place.brightness.dtype, len(place.brightness)
        each = {
            n: _empty(len(image), image[0].size, DIRECTIONS, kind)
            for n, image in place.images.items()
        }
        pixels = sum(image.size for image in place.images.values())
        near = References(each, _empty(1, pixels, TOGETHER * size, kind))
        return near, Chains(states, _first_steps(place.brightness))

    return eqx.filter_eval_shape(skeleton, values)


def _first_steps(brightness) -> Steps:
    size, kind = len(brightness), brightness.dtype
    return Steps(jnp.full((3, size), 0.3, kind), jnp.full(size, 0.2, kind))


def _empty(galaxies: int, dimension: int, directions: int, dtype) -> Reference:
    rank = min(directions, dimension)
    none = jnp.zeros((galaxies, rank), dtype)
    return Reference(jnp.zeros((galaxies, rank, dimension), dtype), none, none)


@eqx.filter_jit
def about(scene: FlowScene, images: Images, offset, brightness, num_chains: int) -> Walkers:
    """Return chains at one point, up to the error of inverting the flow."""
    noise = {
        name: scene.noise(name, group.prior.stretch.inv(images[name]))
        for name, group in scene.groups.items()
    }
    z = scene.galaxies(noise)
    drawn, area = scene.render(z, offset)
    value = scene.log_likelihood(brightness, drawn, area)
    one = Walkers(noise, z, offset, brightness, drawn, area, value)
    return jax.tree.map(lambda a: jnp.broadcast_to(a, (num_chains, *a.shape)), one)


def _alone(scene: FlowScene, chain: Walkers, z: Images, which):
    """Return log-likelihoods of one chain, each with only one galaxy, by number, as in `z`."""
    drawn, area = scene.render(z, chain.offset)

    def with_one(k):
        mine = jnp.arange(len(area)) == k
        return scene.log_likelihood(
            chain.brightness,
            jax.tree.map(
                lambda new, old: jnp.where(mine[:, None, None, None], new, old), drawn, chain.drawn
            ),
            jnp.where(mine, area, chain.area),
        )

    return jax.lax.map(with_one, which)


def curvature(scene: FlowScene, chain: Walkers, name: str | None):
    """Prepare products with the curvature of minus the log-likelihood in the noise.

    Of each galaxy of a group by itself, for ``v [G, d]``; or of all galaxies as one, for
    ``[1, d]``.  The Gauss-Newton matrix is :math:`J^T (W - W M C M^T W) J` with the derivative
    J of the model image and the weights W, less the part that the spectra, with covariance C,
    can explain.  It needs no second derivative of the flow, and is never negative.
    """
    exposures = scene.scene.exposures
    solved = scene.spectra(chain.brightness, chain.drawn, chain.area)
    covariance = solved.covariance()
    if name is None:
        here, spectrum = as_one(chain.noise, 0), solved.mean

        def drawn(noise):
            z = scene.galaxies(apart(noise, chain.noise))
            return scene.render(z, chain.offset)[0]
    else:
        group = scene.groups[name]
        here, spectrum = chain.noise[name], solved.mean[numbers_of(chain.noise, 0)[name]]

        def drawn(noise):
            image = group.prior.stretch(scene.galaxy(name, noise))
            return tuple(one.render(image, group.at.corner) for one in exposures)

    # Linearized once: the products are then linear.
    _, forward = jax.linearize(drawn, here)
    backward = jax.linear_transpose(forward, here)

    def unexplained(images):
        """Return weighted changes of the model ``[..., B, H, W]`` that no spectrum can explain."""
        weighed = [n.precision(image) for n, image in zip(scene.noises, images, strict=True)]
        seen = jnp.concatenate(
            [jnp.einsum("kbyx,...byx->...kb", d, w) for d, w in zip(chain.drawn, weighed)], -1
        )
        moved = by_exposure(jnp.einsum("kblc,...lc->...kb", covariance, seen), exposures)
        return [
            w - n.precision(jnp.einsum("kbyx,...kb->...byx", d, m))
            for w, n, d, m in zip(weighed, scene.noises, chain.drawn, moved, strict=True)
        ]

    amplitudes = [one[:, :, None, None] for one in by_exposure(spectrum, exposures)]

    def product(v):
        drawn = forward(v.reshape(here.shape))
        change = [a * one for a, one in zip(amplitudes, drawn, strict=True)]
        left = unexplained([one.sum(0) for one in change] if name is None else change)
        back = tuple(a * one for a, one in zip(amplitudes, left, strict=True))
        return backward(back)[0].reshape(v.shape)

    return product


@eqx.filter_jit
def _spread(scene: FlowScene, near: dict[str, Reference], states: Walkers, key) -> Walkers:
    """Spread chains about the mode as far as the likelihood allows, galaxy by galaxy."""
    fresh = normals(key, states.noise)
    numbers = numbers_of(states.noise, 1)
    every = jnp.concatenate(list(numbers.values()))
    # Allowed decrease of the log-likelihood from the mode; a posterior draw has about half.
    allowed = {name: -(5 + one.freedom()) for name, one in near.items()}

    def wider(carry, step):
        noise, z, _ = carry
        tried = {
            name: jax.vmap(lambda old, new, n=name: near[n].move(old, new, _each(step, old)))(
                noise[name], fresh[name]
            )
            for name in noise
        }
        made = of_all_chains(scene, tried)
        values = jax.lax.map(lambda x: _alone(scene, x[0], x[1], every), (states, made))
        for name, mine in numbers.items():
            loss = values[:, mine] - states.log_likelihood[:, None]
            good = (loss > allowed[name])[..., None, None]
            tried[name] = jnp.where(good, tried[name], noise[name])
            made[name] = jnp.where(good, made[name], z[name])
        return (tried, made, step), None

    steps = jnp.asarray([0.05, 0.1, 0.2, 0.4, 0.7, 1.0], states.brightness.dtype)
    start = (states.noise, states.z, steps[0])
    (noise, z, _), _ = jax.lax.scan(wider, start, steps)
    drawn, area = jax.lax.map(lambda x: scene.render(*x), (z, states.offset))
    value = jax.lax.map(lambda x: scene.log_likelihood(*x), (states.brightness, drawn, area))
    return Walkers(noise, z, states.offset, states.brightness, drawn, area, value)


def _each(step, galaxies):
    return jnp.full(len(galaxies), step, galaxies.dtype)
