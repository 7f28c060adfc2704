"""Start values and widths of a scene, estimated from the data, which make fits short.

All in NumPy: each blend is used once or twice, too few times to repay a compilation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scorepriors.models.rendering._information import by_exposure
from scorepriors.models.sources._abstract import Look, Morphologies
from scorepriors.models.spectra._priors import Settled, pixel_noise

from ._scene import Scene

#: Standard deviation in pixels of an extended source before any fit, without the model PSF.
EXTENDED = 1.5

#: Half-light radius of a Gaussian in standard deviations.
HALF_LIGHT = 1.18

#: Share of a source's information about itself that is added to it, for each source: the rounding of
#: single precision.
RIDGE = float(np.finfo(np.float32).eps)


class Spoil(NamedTuple):
    """Deliberate errors of start values, to test their effect on a fit.

    Attributes
    ----------
    brighter
        Factor of all fluxes.
    flat
        Whether spectra are ones in every band, in the units of the image.
    width
        Standard deviation in pixels of extended sources; None for the default.
    """

    brighter: float = 1.0
    flat: bool = False
    width: float | None = None


def start_values(
    scene: Scene,
    *,
    images: dict[str, np.ndarray] | None = None,
    values: dict[str, np.ndarray] | None = None,
    psf_sigma: float = 0.7,
    spoil: Spoil | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return start values and widths of all sites of `blend`, for `fit_map`.

    Parameters
    ----------
    scene
        Scene to be fitted.
    images
        Approximate images of the sources ``[K, n, n]`` by group, of any positive scale; small
        round galaxies and stars for groups without.
    values
        Site values of an earlier fit of the same groups, used by the kinds of sources that can
        start from them.
    psf_sigma
        Standard deviation of the model's PSF, pixels.
    spoil
        Deliberate errors of the start values.

    Returns
    -------
    init, scale
        Start values and widths by site, float32.

    Notes
    -----
    Every source gets its least-squares flux for those images, which is a usable start for
    faint and blended sources as well.
    """
    known = {} if images is None else images
    spoil = Spoil() if spoil is None else spoil
    width = spoil.width or float(np.hypot(psf_sigma, EXTENDED))
    boxes = [
        Morphologies(
            np.asarray(known[g.name] if g.name in known else g.guess(width)),
            np.asarray(g.at.corner),
            np.asarray(g.at.mask),
        )
        for g in scene.sources
    ]
    settled = settle(scene, boxes, spoil)
    init, scale = dict(settled.values), dict(settled.widths)
    first = 0
    for group, box in zip(scene.sources, boxes, strict=True):
        own = slice(first, first + len(group.at))
        first = own.stop
        look = Look(
            box.image,
            settled.flux[own],
            settled.snr[own],
            scene.exposures,
            None if spoil.width is None else HALF_LIGHT * spoil.width,
            None if values is None else scene.values_of(group.name, values) or None,
        )
        begun, widths = group.start(look)
        init |= {f"{group.name}/{name}": value for name, value in begun.items()}
        scale |= {f"{group.name}/{name}": value for name, value in widths.items()}
    return _float32(init), _float32(scale)


def settle(scene: Scene, boxes: Sequence[Morphologies], spoil: Spoil) -> Settled:
    """Return start values of the prior on spectra, for sources with images `boxes`."""
    flux, error = linear_fluxes(scene, boxes)
    begin = flux
    if spoil.flat:
        # Amplitudes of one at the peaks of the images, in every band.
        area = np.concatenate([b.image.sum((-2, -1)) / b.image.max((-2, -1)) for b in boxes])
        begin = np.broadcast_to(area[:, None], flux.shape)
    mask = np.concatenate([b.mask for b in boxes])
    return scene.spectra.start(flux, error, mask, begin=spoil.brighter * begin)


def linear_fluxes(scene: Scene, boxes: Sequence[Morphologies]) -> tuple[np.ndarray, np.ndarray]:
    """Return fluxes ``[K, B]`` and errors by least squares for fixed morphologies.

    Regularized by a Gaussian of 100,000 times the noise, which affects only padding and
    sources without data.
    """
    mask = np.concatenate([b.mask for b in boxes])
    flux, error = np.zeros((2, len(mask), scene.num_bands))
    bands = [band for one in scene.exposures for band in np.asarray(one.noise.diagonal())]
    wide = 1e5 * pixel_noise(bands)
    error[:] = wide
    each = by_exposure(np.arange(scene.num_bands), scene.exposures)
    for one, bands in zip(scene.exposures, each, strict=True):
        seen = []
        for box in boxes:
            image = box.image[box.mask]
            unit = image / np.maximum(image.sum((-2, -1), keepdims=True), 1e-3)
            seen.append(one.render_on_host(unit, box.corner[box.mask]))
        drawn = np.concatenate(seen)
        weighted = np.asarray(one.noise.precision(drawn)).swapaxes(0, 1)
        weighted = weighted.reshape(len(bands), mask.sum(), -1)
        drawn = drawn.swapaxes(0, 1).reshape(weighted.shape)
        images = np.asarray(one.images).reshape(len(bands), -1, 1)
        normal = (weighted @ drawn.swapaxes(1, 2)).astype(float)
        # More than the rounding of the products, or two sources of one shape make it indefinite.
        ridge = len(drawn[0]) * RIDGE * np.diagonal(normal, axis1=1, axis2=2) + wide**-2
        normal = (normal + normal.swapaxes(1, 2)) / 2 + ridge[:, None] * np.eye(mask.sum())
        inverse = np.linalg.inv(normal)
        own = np.ix_(mask, bands)
        flux[own] = (inverse @ (weighted @ images).astype(float))[..., 0].T
        error[own] = np.sqrt(np.diagonal(inverse, axis1=1, axis2=2)).T
    return flux, error


def _float32(values: dict) -> dict:
    return {name: np.asarray(value, np.float32) for name, value in values.items()}
