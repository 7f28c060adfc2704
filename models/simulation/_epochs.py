"""Simulated epochs of one place: a constant galaxy, lumpy if wished, and a point that varies in it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS
from scipy.signal import fftconvolve

from scorepriors._errors import InputError
from scorepriors.models.data._observation import Observation
from scorepriors.models.rendering._psf import gaussian_psf

#: Side of the images and of PSFs, pixels, and of a pixel, arcseconds.
SIDE, PSF_SIDE, SCALE = 48, 25, 0.2

#: Samples of the galaxy per pixel, along one axis.
FINE = 5

#: Range of the half-light radii and axis ratios of galaxies (pixels), and of the seeing's standard
#: deviations, pixels.
RADIUS, RATIO, SEEING = (3.0, 5.0), (0.4, 0.9), (1.7, 2.05)

#: Fluxes of the galaxy by filter, and the noise of a pixel, nanojanskys.
HOST, NOISE = {"g": 3000.0, "r": 5000.0}, 5.0

#: Scatter of the point's place about the galaxy's center, and of its place in the catalog, pixels.
SPREAD, PLACE_ERROR = 2.5, 0.1

#: Number of lumps, their share of the light each, and their standard deviation, pixels.
LUMPS, LUMP_SHARE, LUMP_WIDTH = 6, 0.05, 0.8


class Epochs(NamedTuple):
    """Simulated epochs.

    Attributes
    ----------
    observations
        One per time, with its `time`.
    catalog
        Table with ``id`` (``host``, ``transient`` and, with one, ``nucleus``), ``x``, ``y`` and
        ``is_star``.
    flux
        True fluxes of the point, ``[T, B]``, nanojanskys.
    nucleus
        The same of the nucleus; None without one.
    """

    observations: list[Observation]
    catalog: Table
    flux: np.ndarray
    nucleus: np.ndarray | None = None


def simulate_epochs(
    times: Sequence[float],
    light_curve: Callable[[np.ndarray], np.ndarray],
    *,
    seed: int = 0,
    lumpy: bool = False,
    motion: tuple[float, float] = (0.0, 0.0),
    nucleus: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Epochs:
    """Simulate images of a galaxy with a point source that varies, in g and r.

    Parameters
    ----------
    times
        Times of the images, MJD.
    light_curve
        Flux of the point in r at times ``[T]``, nanojanskys; in g it is six tenths of that.
    seed
        Seed of the galaxy, the seeing and the noise.
    lumpy
        Whether the galaxy has lumps, so that no smooth profile fits it.
    motion
        Motion (row, column) of the point in pixels per day; in the middle of the times it is at its
        place.
    nucleus
        Flux in r of a second point, in the center of the galaxy, at times ``[T]``; in g it is six tenths
        of that.  None for none.

    Raises
    ------
    InputError
        If there are no times.
    """
    if not len(times):
        raise InputError("there are no times; give the MJD of at least one image.")
    rng = np.random.default_rng(seed)
    host = (SIDE - 1) / 2 + rng.uniform(-0.5, 0.5, 2)
    point = host + rng.normal(0, SPREAD, 2)
    galaxy = _galaxy(rng, host, lumpy)
    flux = _fluxes(light_curve, times)
    central = None if nucleus is None else _fluxes(nucleus, times)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crpix, wcs.wcs.crval = ((SIDE + 1) / 2,) * 2, (150.0, 2.0)
    wcs.wcs.cdelt = -SCALE / 3600, SCALE / 3600
    found = []
    for number, (time, own) in enumerate(zip(times, flux, strict=True)):
        images, psfs = [], []
        place = point + (time - (max(times) + min(times)) / 2) * np.array(motion)
        for band, (bright, of_point) in enumerate(zip(HOST.values(), own, strict=True)):
            seeing = rng.uniform(*SEEING)
            fine = gaussian_psf(seeing * FINE, size=2 * int(6 * seeing * FINE) + 1)
            blurred = fftconvolve(galaxy, fine, mode="same")
            image = blurred.reshape(SIDE, FINE, SIDE, FINE).sum((1, 3))
            images.append(bright * image + of_point * _point(place, seeing))
            if central is not None:
                images[-1] += central[number, band] * _point(host, seeing)
            psfs.append(gaussian_psf(seeing, size=PSF_SIDE))
        pixels = np.array(images) + NOISE * rng.normal(size=(len(images), SIDE, SIDE))
        found.append(
            Observation.from_arrays(
                pixels,
                variance=np.full(pixels.shape, NOISE**2),
                psfs=np.array(psfs),
                bands=tuple(HOST),
                wcs=wcs,
                zero_point=31.4,
                time=float(time),
            )
        )
    seen = point + rng.normal(0, PLACE_ERROR, 2)
    catalog = Table(
        {
            "id": ["host", "transient"],
            "x": [host[1], seen[1]],
            "y": [host[0], seen[0]],
            "is_star": [False, True],
        }
    )
    if central is not None:
        catalog.add_row(("nucleus", host[1], host[0], True))
    return Epochs(found, catalog, flux, central)


def _fluxes(light_curve: Callable[[np.ndarray], np.ndarray], times: Sequence[float]) -> np.ndarray:
    """Return fluxes ``[T, B]`` of a point, in g six tenths of those in r."""
    return np.asarray(light_curve(np.asarray(times, float)), float)[:, None] * [0.6, 1.0]


def _galaxy(rng, center, lumpy: bool) -> np.ndarray:
    """Return an exponential disk of flux one on the fine grid."""
    radius, ratio, angle = rng.uniform(*RADIUS), rng.uniform(*RATIO), rng.uniform(0, np.pi)
    rows, columns = (np.mgrid[: SIDE * FINE, : SIDE * FINE] - FINE // 2) / FINE
    down, right = rows - center[0], columns - center[1]
    along = right * np.cos(angle) + down * np.sin(angle)
    across = down * np.cos(angle) - right * np.sin(angle)
    # 1.678 scale lengths hold half of the light of an exponential disk.
    light = np.exp(-1.678 * np.hypot(along * np.sqrt(ratio), across / np.sqrt(ratio)) / radius)
    light /= light.sum()
    for _ in range(LUMPS if lumpy else 0):
        place = center + rng.normal(0, 0.7 * radius, 2)
        away = (rows - place[0]) ** 2 + (columns - place[1]) ** 2
        lump = np.exp(-away / (2 * LUMP_WIDTH**2))
        light += LUMP_SHARE * lump / lump.sum()
    return light / light.sum()


def _point(place: np.ndarray, seeing: float) -> np.ndarray:
    """Return a point of flux one."""
    whole = np.round(place).astype(int)
    wide = gaussian_psf(seeing, size=2 * SIDE + 1, offset=place - whole)
    row, column = SIDE - whole
    return wide[row : row + SIDE, column : column + SIDE]
