"""Where chains begin: the noise of a mode, what the data say about it, and chains spread there."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from scorepriors._errors import InputError
from scorepriors.inference.sampling._chains import Run
from scorepriors.inference.sampling._checkpoints import fingerprint, load_run

from ._moves import References, Steps
from ._reference import Reference, reference
from ._scene import Images, Scene, Walkers, apart, as_one, normals, numbers_of, of_all_chains

#: Directions in which data are looked for, of each galaxy and, for each, of all together.
DIRECTIONS, TOGETHER = 40, 20


def begin(bound, scene, best, num_chains, checkpoint, settings, key):
    """A run and its reference, at the start or as the checkpoint has them."""
    values = best.values
    images = {n: jnp.asarray(values[scene.site(n, "morphology")]) for n in scene.groups}
    stars = scene.stars
    offset = (
        jnp.zeros((0, 2)) if stars is None else jnp.asarray(values[scene.site("stars", "offset")])
    )
    brightness = jnp.asarray(values["brightness"])
    size, kind = len(brightness), brightness.dtype
    pixels = sum(image.size for image in images.values())

    def steps():
        return Steps(jnp.full((3, size), 0.3, kind), jnp.full(size, 0.2, kind))

    if checkpoint is not None and Path(checkpoint).exists():

        def skeleton():
            states = about(scene, images, offset, brightness, num_chains)
            each = {
                n: _empty(len(image), image[0].size, DIRECTIONS, kind)
                for n, image in images.items()
            }
            near = References(each, _empty(1, pixels, TOGETHER * size, kind))
            return states, steps(), None, None, {"references": near}, None

        like = eqx.filter_eval_shape(skeleton)
        run, near, _ = load_run(checkpoint, like, fingerprint(bound, settings))
        return run, near["references"], "checkpoint"
    states = about(scene, images, offset, brightness, num_chains)
    if not np.isfinite(np.asarray(states.log_likelihood)).all():
        raise InputError("the log-density is not finite at the mode; deblend again.")
    first, second = jax.random.split(key)
    one = jax.tree.map(lambda a: a[0], states)
    each = {
        name: reference(eqx.Partial(curvature, scene, one, name), noise, DIRECTIONS, first)
        for name, noise in one.noise.items()
    }
    # Of several galaxies as of one image, their pixels one after the other.
    together = reference(
        eqx.Partial(curvature, scene, one, None), as_one(one.noise, 0), TOGETHER * size, first
    )
    states = _spread(scene, each, states, second)
    # No tuner and no map: these moves tune themselves by their acceptance.
    none: Any = None
    return Run(0, states, steps(), none, none), References(each, together), "given mode"


def _empty(galaxies: int, dimension: int, directions: int, dtype) -> Reference:
    rank = min(directions, dimension)
    none = jnp.zeros((galaxies, rank), dtype)
    return Reference(jnp.zeros((galaxies, rank, dimension), dtype), none, none)


@eqx.filter_jit
def about(scene: Scene, images: Images, offset, brightness, num_chains: int) -> Walkers:
    """Chains that all stand at one point, or about: the flow is not undone to the last digit."""
    noise = {
        name: group.noise(group.prior.stretch.inv(images[name]))
        for name, group in scene.groups.items()
    }
    z = scene.galaxies(noise)
    drawn, area = scene.render(z, offset)
    value = scene.log_likelihood(brightness, drawn, area)
    one = Walkers(noise, z, offset, brightness, drawn, area, value)
    return jax.tree.map(lambda a: jnp.broadcast_to(a, (num_chains, *a.shape)), one)


def _alone(scene: Scene, chain: Walkers, z: Images, which):
    """Log-likelihoods of one chain, each with only one galaxy, by number, as in `z`."""
    drawn, area = scene.render(z, chain.offset)

    def with_one(k):
        mine = jnp.arange(len(area)) == k
        return scene.log_likelihood(
            chain.brightness,
            jnp.where(mine[:, None, None, None], drawn, chain.drawn),
            jnp.where(mine, area, chain.area),
        )

    return jax.lax.map(with_one, which)


def curvature(scene: Scene, chain: Walkers, name: str | None):
    """Prepare products with the curvature of minus the log-likelihood in the noise.

    Of each galaxy of a group by itself, for ``v [G, d]``; or of all galaxies as one, for
    ``[1, d]``.  That of Gauss and Newton: :math:`J^T (W - W M C M^T W) J` with the derivative
    J of the model image, the weights W, and what the spectra, with covariance C, explain of
    it taken out.  It needs no second derivative of the flow, and is never negative.
    """
    data = scene.data
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
            return data.render(group.prior.stretch(group.galaxy(noise)), group.sources.corner)

    # Once for all products: what is left of each is linear.
    _, forward = jax.linearize(drawn, here)
    backward = jax.linear_transpose(forward, here)

    def unexplained(images):
        """Weighted changes of the model ``[..., B, H, W]`` that no spectrum makes up for."""
        weighed = data.weights * images
        seen = jnp.einsum("kbyx,...byx->...kb", chain.drawn, weighed)
        moved = jnp.einsum("kblc,...lc->...kb", covariance, seen)
        return weighed - data.weights * jnp.einsum("kbyx,...kb->...byx", chain.drawn, moved)

    def product(v):
        change = spectrum[:, :, None, None] * forward(v.reshape(here.shape))
        left = unexplained(change.sum(0) if name is None else change)
        return backward(spectrum[:, :, None, None] * left)[0].reshape(v.shape)

    return product


@eqx.filter_jit
def _spread(scene: Scene, near: dict[str, Reference], states: Walkers, key) -> Walkers:
    """Chains spread about the mode as far as the likelihood lets them, galaxy by galaxy."""
    fresh = normals(key, states.noise)
    numbers = numbers_of(states.noise, 1)
    every = jnp.concatenate(list(numbers.values()))
    # What a draw of the posterior loses against the mode, and half as much again.
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
