"""Start of the chains: the noise of a mode, references about it, and the spread of chains."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from scorepriors._errors import InputError
from scorepriors._traces import Kept
from scorepriors.models.rendering._information import by_exposure
from scorepriors.models.spectra._spectra import SpectrumPosterior

from ._moves import Recent, References, Steps
from ._reference import Reference, about_point, reference
from ._scene import FlowScene, Images, Walkers, apart, as_one, normals, numbers_of, of_all_chains

#: Directions of the reference of each galaxy.  Of a bright one the data determine about ten.
DIRECTIONS = 16


class Chains(NamedTuple):
    """State of a run.

    Attributes
    ----------
    walkers
        Points of the chains.
    steps
        Sizes of their moves.
    near
        References of the moves, refined in the warm-up.
    moments
        Sums over the draws since they were last refined.
    """

    walkers: Walkers
    steps: Steps
    near: References
    moments: Recent


def begin(scene: FlowScene, values: dict, num_chains: int, key) -> Chains:
    """Return chains about a mode, and references for their moves.

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
    first, second = jax.random.split(key)
    one, open_scene = jax.tree.map(lambda a: a[0], states), scene.open()
    each = {
        name: reference(eqx.Partial(curvature, open_scene, one, name), noise, DIRECTIONS, first)
        for name, noise in one.noise.items()
    }
    together = of_all(open_scene, one, each)
    states = _spread(scene, each, states, second)
    return _chains(states, References(each, together, place.brightness))


def _chains(states: Walkers, near: References) -> Chains:
    return Chains(states, _first_steps(near.brightness), near, Recent.none(near))


def shapes(scene: FlowScene, values: dict, num_chains: int) -> Chains:
    """Return the shapes of the result of `begin`, for site values of given shapes."""

    def skeleton(values):
        place = scene.place_of(values)
        states = about(scene, *place, num_chains)
        kind = place.brightness.dtype
        each = {
            n: _empty(len(image), image[0].size, min(DIRECTIONS, image[0].size), kind)
            for n, image in place.images.items()
        }
        pixels = sum(image.size for image in place.images.values())
        rank = sum(one.place.size for one in each.values())
        near = References(each, _empty(1, pixels, rank, kind), place.brightness)
        return _chains(states, near)

    return eqx.filter_eval_shape(skeleton, values)


def _first_steps(brightness) -> Steps:
    size, kind = len(brightness), brightness.dtype
    return Steps(jnp.full((3, size), 0.3, kind), jnp.full(size, 0.2, kind))


def _empty(galaxies: int, dimension: int, rank: int, dtype) -> Reference:
    none = jnp.zeros((galaxies, rank), dtype)
    return Reference(jnp.zeros((galaxies, rank, dimension), dtype), none, none)


@Kept
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
    seen = _Seen(scene, chain)
    drawn, here = seen.drawn(name)
    # Linearized once: the products are then linear.
    _, forward = jax.linearize(drawn, here)
    backward = jax.linear_transpose(forward, here)
    amplitudes = seen.amplitudes(name)

    def product(v):
        drawn = forward(v.reshape(here.shape))
        change = [a * one for a, one in zip(amplitudes, drawn, strict=True)]
        left = seen.unexplained([one.sum(0) for one in change] if name is None else change)
        back = tuple(a * one for a, one in zip(amplitudes, left, strict=True))
        return backward(back)[0].reshape(v.shape)

    return product


class _Seen(eqx.Module):
    """Changes of one chain's galaxies as the pixels see them."""

    scene: FlowScene
    chain: Walkers
    spectra: SpectrumPosterior

    def __init__(self, scene: FlowScene, chain: Walkers):
        self.scene, self.chain = scene, chain
        self.spectra = scene.spectra(chain.brightness, chain.drawn, chain.area)

    def drawn(self, name: str | None):
        """Return the map from noise to images with unit spectra, and the noise of the chain."""
        scene, chain = self.scene, self.chain
        if name is None:

            def all_drawn(noise):
                z = scene.galaxies(apart(noise, chain.noise))
                return scene.render(z, chain.offset)[0]

            return all_drawn, as_one(chain.noise, 0)
        group = scene.groups[name]

        def drawn(noise):
            image = group.prior.stretch(scene.galaxy(name, noise))
            return tuple(one.render(image, group.at.corner) for one in scene.scene.exposures)

        return drawn, chain.noise[name]

    def amplitudes(self, name: str | None):
        """Return the mean spectra as factors of the images, exposure by exposure."""
        spectrum = self.spectra.mean
        if name is not None:
            spectrum = spectrum[numbers_of(self.chain.noise, 0)[name]]
        return [a[:, :, None, None] for a in by_exposure(spectrum, self.scene.scene.exposures)]

    def unexplained(self, images):
        """Return weighted changes of the model ``[..., B, H, W]`` that no spectrum can explain."""
        drawn, noises = self.chain.drawn, self.scene.noises
        weighed = [n.precision(image) for n, image in zip(noises, images, strict=True)]
        seen = jnp.concatenate(
            [jnp.einsum("kbyx,...byx->...kb", d, w) for d, w in zip(drawn, weighed)], -1
        )
        explained = jnp.einsum("kblc,...lc->...kb", self.spectra.covariance(), seen)
        moved = by_exposure(explained, self.scene.scene.exposures)
        return [
            w - n.precision(jnp.einsum("kbyx,...kb->...byx", d, m))
            for w, n, d, m in zip(weighed, noises, drawn, moved, strict=True)
        ]


def of_all(scene: FlowScene, chain: Walkers, each: dict[str, Reference]) -> Reference:
    """Return the reference of all galaxies as one, in the directions of those of each."""
    curvatures, basis = (np.asarray(a) for a in _between(scene, chain, each))
    values, turn = np.linalg.eigh(curvatures.astype(float))
    flat = as_one(chain.noise, 0)
    return about_point(values[None], (turn.T @ basis)[None], flat)


@Kept
def _between(scene: FlowScene, chain: Walkers, each: dict[str, Reference]):
    """Return the curvature ``[R, R]`` in all directions of all galaxies, and these ``[R, d]``."""
    seen = _Seen(scene, chain)
    changes: list[list[Array]] = [[] for _ in scene.scene.exposures]
    rows, first = [], 0
    pixels = sum(a.size for a in chain.noise.values())
    for name, near in each.items():
        drawn, here = seen.drawn(name)
        _, forward = jax.linearize(drawn, here)
        galaxies, _, size = near.basis.shape
        # The galaxies' maps are independent: a direction of each at once.
        moved = jax.lax.map(
            lambda v, f=forward, h=here: f(v.reshape(h.shape)), near.basis.swapaxes(0, 1)
        )
        for out, factor, one in zip(changes, seen.amplitudes(name), moved, strict=True):
            out.append((factor * one).swapaxes(0, 1).reshape(-1, *one.shape[2:]))
        for k in range(galaxies):
            after = pixels - first - size
            rows.append(jnp.pad(near.basis[k], ((0, 0), (first, after))))
            first += size
    every = [jnp.concatenate(parts) for parts in changes]
    left = seen.unexplained(every)
    pairs = zip(every, left, strict=True)
    gram = sum(
        (jnp.einsum("abyx,cbyx->ac", one, other) for one, other in pairs), start=jnp.zeros(())
    )
    return (gram + gram.T) / 2, jnp.concatenate(rows)


@Kept
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
