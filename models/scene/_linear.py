r"""A scene to first order about its sites: what a change of a shape does to the pixels.

The image of source k with the sites :math:`\theta_k` and amplitudes :math:`A_k` is

.. math:: A_{kb} \, \Bigl[M_{kb} + \sum_p \frac{\partial M_{kb}}{\partial \theta_{kp}}
          \delta_{kp}\Bigr],

and with the weighted inner products of all :math:`M` and :math:`\partial M` the information
of the data about fluxes and shapes is known without looking at the pixels again.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpyro import handlers

from scorepriors._typing import Array
from scorepriors.models.sources._abstract import AbstractSource
from scorepriors.models.spectra._products import Products, inner_products

from ._scene import Scene


class Slopes(NamedTuple):
    """Derivatives of the images of a group by its P numbers per source.

    Attributes
    ----------
    image
        Images ``[K, n, n]``.
    slope
        Their derivatives ``[K, P, n, n]``.
    pull, precision
        First derivative of the log-prior by each number, and minus the second (not negative),
        ``[K, P]``.
    """

    image: Float[Array, "K n n"]
    slope: Float[Array, "K P n n"]
    pull: Float[Array, "K P"]
    precision: Float[Array, "K P"]


class LinearScene(NamedTuple):
    """A scene to first order.

    Attributes
    ----------
    products
        Inner products of the renderings of all K sources, then of their derivatives (source
        by source, group by group), with each other and with the residual.
    groups
        Derivatives by group.
    """

    products: Products
    groups: tuple[Slopes, ...]


@eqx.filter_jit
def linearize(scene: Scene, values: dict[str, Any], spectrum: Float[Array, "K B"]) -> LinearScene:
    """Expand a scene about values of its sites.

    Parameters
    ----------
    scene
        The scene, of sources whose sites have the sources as first axis.
    values
        Site values.
    spectrum
        Amplitudes ``[K, B]`` that are subtracted for the residual.
    """
    groups = tuple(_slopes(g, scene.values_of(g.name, values)) for g in scene.sources)
    both, left, first = [], [], 0
    for one in scene.exposures:
        drawn, moved = [], []
        for group, at in zip(groups, (g.at for g in scene.sources), strict=True):
            count = group.slope.shape[1]
            drawn.append(one.render(group.image, at.corner, at.mask))
            slopes = group.slope.reshape(-1, *group.slope.shape[2:])
            corner, mask = (jnp.repeat(jnp.asarray(a), count, axis=0) for a in (at.corner, at.mask))
            moved.append(one.render(slopes, corner, mask))
        unit = jnp.concatenate(drawn)
        own = spectrum[:, first : first + one.num_bands]
        first += one.num_bands
        left.append(one.images - jnp.einsum("kb,kbyx->byx", own, unit))
        both.append(jnp.concatenate([unit, *moved]))
    products = inner_products(both, left, [one.noise for one in scene.exposures])
    return LinearScene(products, groups)


def numbers_of(values: dict[str, Any]) -> list[str]:
    """Return the site of each of the P numbers per source, in the order of `Slopes`."""
    return [name for name in sorted(values) for _ in range(np.asarray(values[name])[0].size)]


def _slopes(group: AbstractSource, values: dict[str, Array]) -> Slopes:
    """Return the images of a group, and their derivatives and the prior's."""
    names = sorted(values)
    arrays = [jnp.asarray(values[name]) for name in names]
    flat = jnp.concatenate([a.reshape(len(a), -1) for a in arrays], 1)

    def apart(numbers):
        found, first = {}, 0
        for name, array in zip(names, arrays, strict=True):
            size = array[0].size
            found[name] = numbers[:, first : first + size].reshape(array.shape)
            first += size
        return found

    def log_prior(numbers):
        with handlers.trace() as trace, handlers.substitute(data=apart(numbers)):
            group.sample()
        sites = [s for s in trace.values() if s["type"] == "sample" and not s["is_observed"]]
        return sum(jnp.sum(site["fn"].log_prob(site["value"])) for site in sites)

    image, push = jax.linearize(lambda numbers: group.image(apart(numbers)), flat)

    def by(number):
        along = jnp.zeros_like(flat).at[:, number].set(1.0)
        bend = jax.jvp(jax.grad(log_prior), (flat,), (along,))[1]
        return push(along), -bend[:, number]

    slope, precision = jax.vmap(by)(jnp.arange(flat.shape[1]))
    pull = jax.grad(log_prior)(flat)
    return Slopes(image, jnp.swapaxes(slope, 0, 1), pull, jnp.maximum(precision, 0.0).T)
