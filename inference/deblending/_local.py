r"""Sources of a fitted scene to first order, window by window: what each does to the pixels.

A window holds the renderings of the sources that matter in it, and those of the changes of their
shapes, so that the information of the data about all of them at once is a product of matrices.
Everything is done in NumPy: windows differ in the number of their sources, and each number would
be another compiled program.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter

from scorepriors.models.noise._abstract import cut_out
from scorepriors.models.noise._sky import Sky
from scorepriors.models.rendering._exposure import Exposure
from scorepriors.models.rendering._placing import overlap
from scorepriors.models.rendering._turned import Turned
from scorepriors.models.sources._placement import place_sources

from ._choice import galaxies_of
from ._result import FittedScene
from .photometry._equations import inverse

#: Largest side of the part of a window that counts, and of the margin about it, pixels.
CORE, MARGIN = 64, 12

#: Least signal to noise in a window of a source that matters there.
MATTERS = 1.0

#: Error of a profile as a share of its light; and of its wings, which its core has decided: where
#: it is fainter than this share of its peak.
MISFIT, WING_MISFIT, WINGS = 0.01, 0.1, 0.01

#: Width over which the error of wings is smooth, pixels.
SMOOTH = 3.0

#: Signal to noise from which the light of a galaxy outside of its box matters, and side of the box
#: in which it is looked at, pixels.
BRIGHT, WIDE = 100.0, 96

#: Bluest and reddest spectra in standard deviations of the colors of galaxies.
TILTS = (0.0, -1.0, 1.0)

#: Step of the differences, in widths of the priors.
STEP = 0.02


class Shapes(NamedTuple):
    """Box of one source, and what its P shape parameters do to it.

    Attributes
    ----------
    image, slope
        Image ``[n, n]``, and its derivatives ``[P, n, n]``.
    corner
        First pixel (row, column) of the box.
    precision
        Precision of the prior of each parameter, ``[P]``.
    """

    image: Float[np.ndarray, "n n"]
    slope: Float[np.ndarray, "P n n"]
    corner: Int[np.ndarray, " 2"]
    precision: Float[np.ndarray, " P"]


class Information(NamedTuple):
    """What the data of a window say about amplitudes and shapes.

    Attributes
    ----------
    matrix
        Information ``[N B + Q, N B + Q]`` about amplitudes (bands fastest) and shapes, the
        shapes' priors included.
    covariance
        Its inverse.
    """

    matrix: np.ndarray
    covariance: np.ndarray


class Window(NamedTuple):
    """A window of a fitted scene.

    Attributes
    ----------
    first, core
        First pixel of the window, and the slices of its pixels that count.
    inside
        Rows of the sources whose centers are among these, ``[M]``.
    rows
        Rows of all sources that matter, ``[N]``.
    owner, precision
        Number among `rows` of the source of each shape parameter, and its prior's precision, ``[Q]``.
    amplitude
        Amplitudes of the sources, ``[N, B]``.
    exposures
        The data.
    columns
        Renderings of the sources, and of the changes of shapes times the amplitudes,
        ``[N + Q, B, H, W]`` of every exposure.
    light
        Light ``[B, H, W]`` of all sources of the scene in every exposure.
    doubtful
        Errors of the model, by source, ``[N, B, H, W]`` of every exposure.
    known
        What the data say about amplitudes and shapes.
    """

    first: np.ndarray
    core: tuple[slice, slice]
    inside: np.ndarray
    rows: np.ndarray
    owner: np.ndarray
    precision: np.ndarray
    amplitude: np.ndarray
    exposures: tuple[Exposure, ...]
    columns: tuple[np.ndarray, ...]
    light: tuple[np.ndarray, ...]
    doubtful: tuple[np.ndarray, ...]
    known: Information


def shapes_of(fitted: FittedScene) -> list[Shapes]:
    """Return boxes and their derivatives, in the order of the catalog."""
    scene, found = fitted.scene, []
    # In float32, which is enough for differences by hundredths of a width, and twice as fast.
    values = {name: np.asarray(value, np.float32) for name, value in fitted.fit.values.items()}
    groups: Any = scene.sources
    for group in groups:
        own = scene.values_of(group.name, values)
        image = np.asarray(group.image(own, np))
        slopes, precision = [], []
        # Sources of one's own kind may have no widths by which to step: their shapes are held.
        for name, site in getattr(group, "sites", {}).items():
            step = STEP * float(site.width)
            for axis in range(2 if site.axis else 1):
                moved = own[name].copy()
                moved[(..., axis) if site.axis else ...] += step
                slopes.append((np.asarray(group.image(own | {name: moved}, np)) - image) / step)
                precision.append(float(site.width) ** -2)
        none = np.zeros((len(image), 0, *image.shape[1:]))
        slope, known = np.stack(slopes, 1) if slopes else none, np.array(precision)
        corner = np.asarray(group.at.corner)
        found += [Shapes(*one, known) for one in zip(image, slope, corner, strict=True)]
    return [found[slot] for slot in scene.order]


def windows(fitted: FittedScene, rows: np.ndarray) -> Iterator[Window]:
    """Yield windows that together hold the centers of some sources.

    Each takes some 20 MB: they are made when they are asked for.

    Parameters
    ----------
    fitted
        Fitted scene of stars and parametric galaxies.
    rows
        The sources, ``[M]``.
    """
    shape = np.array(fitted.scene.exposures[0].shape)
    number = np.ceil(shape / CORE).astype(int)
    center = np.clip(np.round(fitted.center[rows]).astype(int), 0, shape - 1)
    cell = center * number // shape
    shapes, beyond = shapes_of(fitted), _beyond(fitted)
    for one in np.unique(cell, axis=0):
        # The rows of a cell are those with index * number // shape equal to it.
        low, high = -(-one * shape // number), -(-(one + 1) * shape // number)
        first = np.maximum(low - MARGIN, 0)
        last = np.minimum(high + MARGIN, shape)
        core = tuple(slice(*pair) for pair in zip(low - first, high - first, strict=True))
        inside = np.asarray(rows)[(cell == one).all(1)]
        yield _window(fitted, shapes, beyond, first, last - first, core, inside)


def _window(fitted, shapes, beyond, first, size, core, inside) -> Window:
    exposures, light, places, significance = [], [], [], np.zeros(len(shapes))
    for exposure, drawn in zip(fitted.scene.exposures, fitted.convolved, strict=True):
        weights = smooth_weights(exposure.noise)
        cut, place = cut_exposure(exposure, np.asarray(exposure.images), first, size)
        exposures.append(cut)
        part = drawn[:, :, *place[0]]
        significance += (weights[:, *place[0]] * part**2).sum((1, 2, 3))
        whole = np.zeros(np.shape(cut.images))
        whole[:, *place[1]] = part.sum(0)
        light.append(whole)
        places.append(place)
    rows = np.flatnonzero((significance > MATTERS**2) | np.isin(np.arange(len(shapes)), inside))
    spectrum = np.asarray(fitted.fit.values["spectrum"], float)[fitted.scene.order][rows]
    near = [shapes[k] for k in rows]
    owner = np.repeat(np.arange(len(rows)), [len(one.slope) for one in near])
    doubtful = []
    for cut, drawn, place in zip(exposures, fitted.convolved, places, strict=True):
        doubtful.append(np.zeros((len(rows), *np.shape(cut.images)), np.float32))
        doubtful[-1][:, :, *place[1]] = _doubtful(drawn[rows], place[0])
    for number, row in enumerate(rows):
        if row in beyond and exposures[0].grid is None:
            image, corner = beyond[row]
            inside_both = overlap(corner - first, len(image), exposures[0].shape)
            if inside_both is not None:
                light_there = np.abs(fitted.flux[row, : exposures[0].num_bands])[:, None, None]
                doubtful[0][number, :, *inside_both[0]] += light_there * image[inside_both[1]]
    columns, band = [], 0
    for exposure in exposures:
        own = spectrum[:, band : band + exposure.num_bands]
        band += exposure.num_bands
        drawn = [_drawn(exposure, one, first) for one in near]
        images = np.stack([one[0] for one in drawn])
        slopes = np.concatenate([one[1:] for one in drawn]) * own[owner][:, :, None, None]
        columns.append(np.concatenate([images, slopes]).astype(np.float32))
    precision = np.concatenate([one.precision for one in near])
    known = information(exposures, columns, len(rows), spectrum.shape[1], precision)
    place = first, core, inside, rows, owner, precision, spectrum
    return Window(*place, tuple(exposures), tuple(columns), tuple(light), tuple(doubtful), known)


def _beyond(fitted: FittedScene) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return what profiles of bright galaxies have outside of their boxes, by source.

    Images ``[n, n]`` for a flux of one with their first pixels, on the grid of the first image.
    """
    light = np.zeros(len(fitted.flux))
    for exposure, drawn in zip(fitted.scene.exposures, fitted.convolved, strict=True):
        light += (smooth_weights(exposure.noise) * drawn**2).sum((1, 2, 3))
    found = {}
    for name in galaxies_of(fitted.scene):
        group = fitted.scene[name]
        rows = np.asarray(group.at.index)
        bright = (rows >= 0) & (light[rows] > BRIGHT**2)
        if group.at.box >= WIDE or not bright.any():
            continue
        values = fitted.scene.values_of(name, fitted.fit.values)
        own = {site: np.asarray(value, float)[bright] for site, value in values.items()}
        center, corner = np.asarray(group.at.center)[bright], np.asarray(group.at.corner)[bright]
        wide = place_sources(center, box=WIDE)
        images = np.array(group.on(wide).image(own, np))
        for row, image, first, inner in zip(rows[bright], images, wide.corner, corner, strict=True):
            down, right = inner - first
            image[down : down + group.at.box, right : right + group.at.box] = 0.0
            found[int(row)] = image, np.asarray(first)
    return found


def spectra_of(fitted: FittedScene) -> Float[np.ndarray, "S B"]:
    """Return the mean spectrum of galaxies, and bluer and redder ones."""
    prior: Any = fitted.scene.spectra
    values, vectors = np.linalg.eigh(np.asarray(prior.covariance, float))
    tilt = np.sqrt(values[-1]) * vectors[:, -1]
    mean = np.asarray(prior.mean, float)
    return np.stack([mean * np.maximum(1 + by * tilt, 0.0) for by in TILTS])


def _doubtful(drawn: np.ndarray, place: tuple[slice, slice]) -> np.ndarray:
    """Return errors of models of light ``[N, B, H, W]`` in a part of the image."""
    bright = drawn.sum(1, keepdims=True)
    peak = bright.max((2, 3), keepdims=True)
    drawn, bright = drawn[:, :, *place], bright[:, :, *place]
    wings = np.where(bright < WINGS * peak, drawn, 0.0)
    smooth = gaussian_filter(wings, SMOOTH, axes=(2, 3))
    return MISFIT * np.abs(drawn) + WING_MISFIT * np.abs(smooth)


def _drawn(exposure: Exposure, one: Shapes, first: np.ndarray) -> np.ndarray:
    """Return the rendering of a source and of its changes, ``[1 + P, B, H, W]``."""
    images = np.concatenate([one.image[None], one.slope])
    return exposure.render_on_host(images, np.broadcast_to(one.corner - first, (len(images), 2)))


def cut_exposure(exposure: Exposure, images: np.ndarray, corner: np.ndarray, size):
    """Cut a window out of an exposure; beyond its border nothing is known.

    Parameters
    ----------
    exposure
        The exposure.
    images
        Pixels ``[B, H, W]`` in place of its own.
    corner, size
        First pixel of the window, and its height and width, in pixels of the first exposure.

    Returns
    -------
    exposure
        The window.
    places
        Slices of the exposure, and of the window, that have pixels in common.
    """
    grid, first, wanted = exposure.grid, np.asarray(corner), np.broadcast_to(size, 2)
    size = wanted
    if isinstance(grid, Turned):
        on_host = jax.tree.map(np.asarray, grid)
        # Wide enough for the turned window, and as wide at every place.
        slope = on_host.coefficients[:, 1:3] / on_host.frame[2]
        size = np.ceil(abs(np.linalg.inv(slope)) @ size).astype(int) + 2
        middle = on_host.pixels((corner + (wanted - 1) / 2)[None], np)[0]
        first = np.round(middle - (size - 1) / 2).astype(int)
        grid = on_host.moved(first, corner)
    elif grid is not None:
        # Places of its pixels are in pixels of the first exposure.
        start, step = np.asarray(grid[:2], float), float(grid[2])
        size = np.array([math.ceil(side / step) + 1 for side in size])
        first = np.floor((corner - start) / step).astype(int)
        grid = np.append(start + step * first - corner, step).astype(np.asarray(grid).dtype)
    shape = (int(size[0]), int(size[1]))
    low = np.clip(first, 0, exposure.shape)
    high = np.clip(first + size, low, exposure.shape)
    here = tuple(slice(*pair) for pair in zip(low, high, strict=True))
    there = tuple(slice(*pair) for pair in zip(low - first, high - first, strict=True))
    cut = cut_out(np.asarray(images, np.float32), first, shape)
    noise = exposure.noise.cut(first, shape)
    return replace(exposure, images=cut, noise=noise, grid=grid), (here, there)


def smooth_weights(noise: Any) -> Float[np.ndarray, "B H W"]:
    """Return what the pixels weigh for light that is smooth over the correlation of their noise.

    Inverse variances of white noise; rows of the precision, summed, of correlated noise.  A sky
    counts as known.
    """
    own = noise.noise if isinstance(noise, Sky) else noise
    known = np.asarray(own.diagonal())
    return np.clip(np.asarray(own.precision(np.ones_like(known))), 0.0, known)


def information(exposures, columns, count: int, bands: int, precision: np.ndarray) -> Information:
    """Return what the data of a window say."""
    size = count * bands + len(precision)
    matrix, band = np.zeros((size, size)), 0
    for exposure, drawn in zip(exposures, columns, strict=True):
        roots = np.sqrt(smooth_weights(exposure.noise)).astype(drawn.dtype)
        for own in range(exposure.num_bands):
            flat = (drawn[:, own] * roots[own]).reshape(len(drawn), -1)
            rows = np.append(np.arange(count) * bands + band, np.arange(count * bands, size))
            matrix[np.ix_(rows, rows)] += flat @ flat.T
            band += 1
    shapes = np.arange(count * bands, size)
    matrix[shapes, shapes] += precision
    return Information((matrix + matrix.T) / 2, inverse((matrix + matrix.T) / 2))
