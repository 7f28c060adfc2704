"""Components of the images of each source of a scene, from draws of a Gaussian about its mode.

The images of a source within its errors are close to a space of few dimensions.  Principal
components of images of draws span it, in the metric of the data: the change of chi^2 in all bands
(a proper orthogonal decomposition; Quarteroni, Manzoni & Negri 2016, chapter 6).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scorepriors._traces import Kept
from scorepriors.models.rendering._information import by_exposure
from scorepriors.models.scene._scene import Scene
from scorepriors.models.sources._abstract import AbstractSource
from scorepriors.models.spectra._products import inner_products

from ._model import ReducedScene, parametric
from ._pixels import Components, at_pixels, num_pixels

#: Number of components per source.  Of one blend of four LSST-like galaxies (S/N 7 to 11) 40 of them
#: had log-densities with an error of .02 nats.
NUM_COMPONENTS = 32

#: Number of draws of which components are made.
NUM_IMAGES = 128

#: Least and largest width of these draws, in units of the Gaussian about the mode, which is too
#: narrow where the posterior has tails.
BOLD = 0.5, 2.5

#: Step of the differences for derivatives of images, in units of the prior's widths.
STEP = 1e-2


def reduced_scene(
    scene: Scene, values: dict, spectrum: np.ndarray, seed: int
) -> tuple[ReducedScene, dict[str, np.ndarray]]:
    """Return the reduced scene about given values, and the widths of the sites of the sources.

    Parameters
    ----------
    scene
        Scene of parametric sources, without padding.
    values
        Constrained values of its sites, at the mode.
    spectrum
        Amplitudes ``[K, B]`` there.
    seed
        Seed of the draws.

    Returns
    -------
    reduced
        The scene.
    widths
        Standard deviation of every element of each site of the sources, the others known.
    """
    own = [scene.values_of(group.name, values) for group in scene.sources]
    origin = tuple(_images(g, v) for g, v in zip(scene.sources, own, strict=True))
    derivatives = [_derivatives(g, v) for g, v in zip(scene.sources, own, strict=True)]
    spectrum = np.asarray(spectrum, np.float32)
    roots, known = _roots(scene, origin, derivatives, spectrum)
    rng = np.random.default_rng(seed)
    changes, first = [], 0
    widths: dict[str, np.ndarray] = {}
    for group, at, image in zip(scene.sources, own, origin, strict=True):
        drawn = []
        for row in range(len(group.at)):
            root = roots[first + row]
            bold = rng.uniform(*BOLD, (NUM_IMAGES, 1))
            steps = bold * rng.standard_normal((NUM_IMAGES, len(root))) @ root.T
            drawn.append(_moved(group, at, row, steps) - image[row])
        changes.append(np.stack(drawn).astype(np.float32))
        here = np.stack(known[first : first + len(group.at)])
        ends = np.cumsum(list(_sizes(group).values()))
        for name, part in zip(_sizes(group), np.split(here, ends[:-1], axis=1), strict=True):
            widths[f"{group.name}/{name}"] = part.reshape(np.shape(at[name]))
        first += len(group.at)
    components, parts = _reduce(scene, origin, tuple(changes), spectrum, NUM_COMPONENTS)
    looks = [
        at_pixels(image, change, one)
        for image, change, one in zip(origin, changes, components, strict=True)
    ]
    pixels, seen, project = zip(*looks, strict=True)
    area = np.concatenate([image.sum((1, 2)) for image in origin])
    added = np.concatenate([np.asarray(one.image).sum((2, 3)) for one in components])
    places = pixels, seen, project, area, added, spectrum
    return ReducedScene(parametric(scene), scene.spectra, *places, *parts), widths


def empty_scene(scene: Scene) -> ReducedScene:
    """Return the shapes of the result of `reduced_scene`, with the groups and prior themselves."""
    count, bands = scene.num_sources, scene.num_bands
    number = NUM_COMPONENTS

    def zeros(*shape):
        return np.zeros(shape, np.float32)

    points = [(len(g.at), num_pixels(g.at.box)) for g in scene.sources]
    return ReducedScene(
        parametric(scene),
        scene.spectra,
        tuple(np.zeros((k, p, 2), np.int32) for k, p in points),
        tuple(zeros(*shape) for shape in points),
        tuple(zeros(k, number, p) for k, p in points),
        zeros(count),
        zeros(count, number),
        zeros(count, bands),
        zeros(bands, count, count),
        zeros(bands, count),
        zeros(bands),
        zeros(count, bands, count * (number + 1) + 1, number),
    )


def _images(group: AbstractSource, values: dict) -> np.ndarray:
    return np.asarray(group.boxes(values).image, np.float32)


def _sizes(group: Any) -> dict[str, int]:
    return {name: 2 if site.axis else 1 for name, site in group.sites.items()}


def _moved(group, values: dict, row: int, steps: np.ndarray) -> np.ndarray:
    """Return images ``[T, n, n]`` of one source at its values plus steps ``[T, d]``."""
    count, first, given = len(steps), 0, {}
    for name, size in _sizes(group).items():
        part = steps[:, first : first + size]
        given[name] = np.asarray(values[name])[row] + (part if size > 1 else part[:, 0])
        first += size
    at = group.at

    def many(array):
        return np.repeat(np.asarray(array)[row : row + 1], count, 0)

    place = type(at)(many(at.center), many(at.corner), many(at.index), at.box)
    return np.asarray(group.on(place).image(given, np))


def _derivatives(group: Any, values: dict) -> np.ndarray:
    """Return derivatives ``[K, d, n, n]`` of the images by their parameters."""
    widths = _widths(group)
    steps = np.concatenate([np.diag(widths), -np.diag(widths)]) * STEP
    out = []
    for row in range(len(group.at)):
        ahead, behind = np.split(_moved(group, values, row, steps), 2)
        out.append((ahead - behind) / (2 * STEP * widths[:, None, None]))
    return np.stack(out).astype(np.float32)


def _widths(group: Any) -> np.ndarray:
    return np.concatenate(
        [np.full(n, float(group.sites[name].width)) for name, n in _sizes(group).items()]
    )


def _roots(scene: Scene, origin, derivatives: Sequence, spectrum):
    """Return a root ``[d, d]`` of the covariance of the parameters of each source, and widths ``[d]``.

    By Gauss and Newton, from first derivatives, all fluxes open.  The widths are those with all other
    parameters known.
    """
    products = np.asarray(_gram(scene, origin, tuple(derivatives), spectrum), float)
    count = scene.num_sources
    # Fluxes are open, but for what keeps sources of no light finite.
    normal, cross = products[:, :count, :count], products[:, :count, count:]
    normal = normal + 1e-3 * np.einsum("bkk->bk", normal)[:, :, None] * np.eye(count)
    normal += 1e-30 * np.eye(count)
    known = products[:, count:, count:] - np.swapaxes(cross, 1, 2) @ np.linalg.solve(normal, cross)
    widths = [w for g in scene.sources for w in [_widths(g)] * len(g.at)]
    information = known.sum(0) + np.diag(1 / np.concatenate(widths) ** 2)
    covariance = np.linalg.inv((information + information.T) / 2)
    out, alone, first = [], [], 0
    for own in widths:
        alone.append(1 / np.sqrt(np.diagonal(information)[first : first + len(own)]))
        part = covariance[first : first + len(own), first : first + len(own)]
        values, vectors = np.linalg.eigh((part + part.T) / 2)
        out.append(vectors * np.sqrt(np.maximum(values, 0)))
        first += len(own)
    return out, alone


@Kept
def _gram(scene: Scene, origin, derivatives, spectrum):
    """Return products ``[B, N, N]`` of the images, and of all their derivatives."""
    images, moved = [], []
    for one, amplitude in zip(scene.exposures, by_exposure(spectrum, scene.exposures), strict=True):
        drawn, along, first = [], [], 0
        for group, image, slope in zip(scene.sources, origin, derivatives, strict=True):
            size = slope.shape[1]
            drawn.append(one.render(image, group.at.corner))
            corner = jnp.repeat(jnp.asarray(group.at.corner), size, 0)
            rendered = one.render(slope.reshape(-1, *slope.shape[2:]), corner)
            own = jnp.repeat(amplitude[first : first + len(group.at)], size, 0)
            along.append(rendered * own[:, :, None, None])
            first += len(group.at)
        images.append(jnp.concatenate([*drawn, *along]))
        moved.append(one.images)
    return inner_products(images, moved, [one.noise for one in scene.exposures]).normal


@Kept
def _reduce(scene: Scene, origin, changes, spectrum, number: int):
    """Return components of each group, from changes ``[K, T, n, n]`` of the images, and products."""
    exposures = scene.exposures
    noise = [one.noise for one in exposures]
    own = by_exposure(spectrum, exposures)
    components: list = []
    parts: list[list] = [[] for _ in exposures]
    mode: list[list] = [[] for _ in exposures]
    first = 0
    for group, image, change in zip(scene.sources, origin, changes, strict=True):
        for at, one in enumerate(exposures):
            mode[at].append(one.render(image, group.at.corner))
        last = first + len(group.at)
        amplitudes = [one[first:last] for one in own]
        first = last

        def reduced(item):
            change, corner, *amplitude = item

            def render(images):
                corners = jnp.broadcast_to(corner, (len(images), 2))
                return [one.render(images, corners) for one in exposures]

            seen = [a[:, None, None] * r for r, a in zip(render(change), amplitude, strict=True)]
            gram: Any = sum(
                jnp.einsum("tbyx,ubyx->tu", n.precision(s), s)
                for s, n in zip(seen, noise, strict=True)
            )
            values, vectors = jnp.linalg.eigh((gram + gram.T) / 2)
            # Directions within the rounding error of the largest are none.
            floor = 1e-6 * values[-1]
            scale = jnp.where(values > floor, 1 / jnp.sqrt(jnp.maximum(values, floor)), 0.0)
            mixed = (vectors * scale)[:, ::-1][:, :number]
            # In this metric components are orthonormal, and coefficients are products with them.
            images = jnp.einsum("tj,tyx->jyx", mixed, change)
            return Components(images, gram @ mixed), render(images)

        items = (change, jnp.asarray(group.at.corner), *amplitudes)
        found, drawn = jax.lax.map(reduced, items)
        components.append(found)
        for at, one in enumerate(drawn):
            parts[at].append(one.reshape(-1, *one.shape[2:]))
    count = len(spectrum)
    start = [jnp.concatenate(one) for one in mode]
    every = [jnp.concatenate([s, *p]) for s, p in zip(start, parts, strict=True)]
    left = [
        one.images - jnp.einsum("kb,kbyx->byx", a, s)
        for one, a, s in zip(exposures, own, start, strict=True)
    ]
    found = inner_products(every, left, noise)
    # Of the components with themselves, with the images, and with the residual.
    order = np.concatenate([np.arange(count, len(found.normal[0])), np.arange(count)])
    change = found.normal[:, order, count:]
    change = jnp.concatenate([change, found.projected[:, None, count:]], 1)
    change = change.reshape(*change.shape[:2], count, number)
    change = jnp.transpose(change, (2, 0, 1, 3))
    at_origin = found.normal[:, :count, :count], found.projected[:, :count], found.square
    return tuple(components), (*at_origin, change)
