r"""A scene to first order about its sites: what a change of a shape does to the pixels.

The image of source k with the sites :math:`\theta_k` and amplitudes :math:`A_k` is

.. math:: A_{kb} \, \Bigl[M_{kb} + \sum_p \frac{\partial M_{kb}}{\partial \theta_{kp}}
          \delta_{kp}\Bigr],

and with the weighted inner products of all :math:`M` and :math:`\partial M` the information
of the data about fluxes and shapes is known without looking at the pixels again.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpyro import handlers

from scorepriors._traces import Kept
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
    gradient, gradient_slope
        Images of color gradients ``[K, n, n]`` and their derivatives ``[K, P, n, n]``; None for
        sources of one color.
    share
        Scales of the gradients ``[K]``; None likewise.
    """

    image: Float[Array, "K n n"]
    slope: Float[Array, "K P n n"]
    pull: Float[Array, "K P"]
    precision: Float[Array, "K P"]
    gradient: Float[Array, "K n n"] | None = None
    gradient_slope: Float[Array, "K P n n"] | None = None
    share: Float[Array, " K"] | None = None


class LinearScene(NamedTuple):
    """A scene to first order.

    Attributes
    ----------
    products
        Inner products of the renderings of all K sources, then of their derivatives (source
        by source, group by group), with each other and with the residual; of sources of two parts
        then those of the gradients, and of their derivatives.
    groups
        Derivatives by group.
    """

    products: Products
    groups: tuple[Slopes, ...]


@Kept
def linearize(
    scene: Scene,
    values: dict[str, Any],
    spectrum: Float[Array, "K B"],
    gradient: Float[Array, "K B"] | None = None,
) -> LinearScene:
    """Expand a scene about values of its sites.

    Parameters
    ----------
    scene
        The scene, of sources whose sites have the sources as first axis.
    values
        Site values.
    spectrum
        Amplitudes ``[K, B]`` that are subtracted for the residual.
    gradient
        Those of the color gradients ``[K, B]``, if there are sources of two parts.
    """
    groups = tuple(_slopes(g, scene.values_of(g.name, values)) for g in scene.sources)
    both, left, first = [], [], 0
    for number, one in enumerate(scene.exposures):
        drawn, moved, parts, bent, slots, slot = [], [], [], [], [], 0
        bands = slice(first, first + one.num_bands)
        first += one.num_bands
        for source, known in zip(scene.sources, groups, strict=True):
            at, group = source.at, known
            if source.moves:
                group = _slopes(source, scene.values_of(source.name, values), number)
            count = group.slope.shape[1]
            corner, mask = (jnp.repeat(jnp.asarray(a), count, axis=0) for a in (at.corner, at.mask))

            def changes(slope, corner=corner, mask=mask, one=one):
                return one.render(slope.reshape(-1, *slope.shape[2:]), corner, mask)

            drawn.append(one.render(group.image, at.corner, at.mask))
            moved.append(changes(group.slope))
            if group.gradient is not None:
                parts.append(one.render(group.gradient, at.corner, at.mask))
                bent.append(changes(group.gradient_slope))
                slots.append(slot + np.arange(len(at)))
            slot += len(at)
        unit = jnp.concatenate(drawn)
        model = jnp.einsum("kb,kbyx->byx", spectrum[:, bands], unit)
        if gradient is not None and parts:
            own = gradient[np.concatenate(slots), bands]
            model += jnp.einsum("kb,kbyx->byx", own, jnp.concatenate(parts))
        left.append(one.images - model)
        both.append(jnp.concatenate([unit, *moved, *parts, *bent]))
    products = inner_products(both, left, [one.noise for one in scene.exposures])
    return LinearScene(products, groups)


def numbers_of(values: dict[str, Any]) -> list[str]:
    """Return the site of each of the P numbers per source, in the order of `Slopes`."""
    return [name for name in sorted(values) for _ in range(np.asarray(values[name])[0].size)]


def _slopes(group: AbstractSource, values: dict[str, Array], number: int | None = None) -> Slopes:
    """Return the images of a group, in one of the exposures if given, and derivatives."""
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

    def images(numbers):
        own = apart(numbers)
        parts = group.gradient(own)
        image = group.image(own) if number is None else group.image_in(own, number)
        return image, None if parts is None else parts.image

    (image, gradient), push = jax.linearize(images, flat)

    def by(number):
        along = jnp.zeros_like(flat).at[:, number].set(1.0)
        bend = jax.jvp(jax.grad(log_prior), (flat,), (along,))[1]
        return push(along), -bend[:, number]

    (slope, bent), precision = jax.vmap(by)(jnp.arange(flat.shape[1]))
    pull = jax.grad(log_prior)(flat)
    found = Slopes(image, jnp.swapaxes(slope, 0, 1), pull, jnp.maximum(precision, 0.0).T)
    if gradient is None:
        return found
    parts: Any = group.gradient(apart(flat))
    share = parts.share
    return found._replace(gradient=gradient, gradient_slope=jnp.swapaxes(bent, 0, 1), share=share)
