"""Simulated fields: large images of the galaxies of the blends, with truth."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from scorepriors._errors import InputError
from scorepriors._progress import Progress, reporting
from scorepriors._surveys import Camera, Survey, survey

from ._blend_sets import MIN_SNR
from ._fields_bodies import Body, draw_galaxy, draw_star
from ._fields_places import draw_places
from ._fields_psf import VaryingPsf
from ._fields_stamps import Stamp, draw_stamp
from ._fields_truth import truth_table
from ._simulation import import_galsim

#: Smallest and largest side of a field, pixels.
SIDES = (64, 20_000)

# Random streams other than those of blends and training images; the last one is of sources.
_STREAM = 7

#: Number of draws without a source that is bright enough after which an error is raised.
_ATTEMPTS = 1000


@dataclass(frozen=True)
class SimulatedField:
    """A simulated field and its truth; B bands of H x W pixels.

    Attributes
    ----------
    images, variance
        Pixels and their variance, ``[B, H, W]``, float32, nJy and its square.
    mask
        Bits of the planes `PLANES`, ``[B, H, W]``, int16.
    psfs
        Tables of PSFs in the form of PSFEx, one for each band.
    bands
        Names of the bands.
    wcs
        World coordinates.
    truth
        One row per source; see `simulate_field`.
    facts
        What it was made with, ready for JSON.
    """

    images: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    psfs: list[fits.BinTableHDU]
    bands: tuple[str, ...]
    wcs: WCS
    truth: Table
    facts: dict[str, Any]


@dataclass
class _Canvas:
    """What is drawn: the light of all, and of each source by itself, summed over bands."""

    light: np.ndarray
    own: list[tuple[tuple[slice, slice], np.ndarray]]

    def add(self, stamp: Stamp) -> None:
        field, inside = stamp.inside(self.light.shape[1:])
        part = stamp.light[:, *inside]
        self.light[:, *field] += part
        self.own.append((field, part.sum(0, dtype=float).astype(np.float32)))

    def blendedness(self) -> np.ndarray:
        """Return the share of other sources in the light at each (see `blendedness`)."""
        total = self.light.sum(0)
        return np.array(
            [
                1 - np.sum(own**2, dtype=float) / np.sum(own * total[field], dtype=float)
                for field, own in self.own
            ]
        )


def simulate_field(
    name: str,
    size: int,
    *,
    density: float = 60.0,
    stars: float = 2.0,
    bands: str | None = None,
    seed: int = 0,
    progress: Progress = False,
) -> SimulatedField:
    """Simulate a large image of a survey: galaxies as in its blends, spread over the sky.

    Parameters
    ----------
    name
        Survey: ``"lsst"``, ``"hsc"`` or ``"ztf"``.
    size
        Side of the field, pixels.
    density
        Galaxies with a signal to noise of at least 5, per square arcminute.
    stars
        The same of stars.
    bands
        Some of the survey's bands; all if not given.
    seed
        Any non-negative integer.
    progress
        True for a bar; or a function, called as ``progress(done, total, text)``.

    Returns
    -------
    SimulatedField

    Raises
    ------
    InputError
        For an unknown survey or band, invalid numbers, or if GalSim is not installed.
    """
    facts = survey(name)
    _check(size, density, stars, seed)
    galsim = import_galsim()
    camera = _some_bands(facts, bands)
    shape = (size, size)
    area = (size * camera.scale / 60) ** 2
    counts = {"galaxies": round(density * area), "stars": round(stars * area)}
    count = sum(counts.values())
    rng = np.random.default_rng((seed, _STREAM))
    psf = VaryingPsf(galsim, rng, camera, size)
    places = draw_places(
        lambda which: rng.uniform(-0.5, size - 0.5, (len(which), 2)),
        count,
        # As in sets of blends: closer ones would be cataloged as one.
        camera.seeing.min() / camera.scale / 1.5,
        lambda drawn: np.ones(len(drawn), bool),
    )
    canvas = _Canvas(np.zeros((len(camera.bands), *shape), np.float32), [])
    bodies, snr = [], []
    with reporting(progress, f"simulating {name}", count) as report:
        for index, center in enumerate(places):
            own = np.random.default_rng((seed, index, _STREAM))
            make = draw_galaxy if index < counts["galaxies"] else draw_star
            body, stamp, ratio = _bright_enough(galsim, own, make, facts, camera, psf, center)
            canvas.add(stamp)
            bodies.append(body)
            snr.append(ratio)
            report(index + 1, count, "")
    wcs = field_wcs(shape, camera.scale)
    truth = truth_table(bodies, places, snr, canvas.blendedness(), camera.bands, wcs)
    images, variance = _with_noise(rng, canvas.light, camera)
    return SimulatedField(
        images,
        variance,
        np.zeros(images.shape, np.int16),
        psf.hdus(),
        tuple(camera.bands),
        wcs,
        truth,
        {
            "survey": name,
            "size": size,
            "seed": seed,
            "density": density,
            "stars": stars,
            "bands": camera.bands,
            "scale": camera.scale,
            **{f"num_{what}": number for what, number in counts.items()},
        },
    )


def _check(size: int, density: float, stars: float, seed: int) -> None:
    low, high = SIDES
    if not low <= size <= high:
        raise InputError(f"a field has {low} to {high} pixels on a side, not {size}.")
    for what, number in (("galaxies", density), ("stars", stars)):
        if not (np.isfinite(number) and number >= 0):
            raise InputError(f"the density of {what} must be a number of at least 0, got {number}.")
    if seed < 0:
        raise InputError(f"the seed must not be negative, got {seed}.")


def _some_bands(facts: Survey, bands: str | None) -> Camera:
    """Return the camera of sets of blends, with some of its bands."""
    camera = facts.camera()
    wanted = camera.bands if bands is None else bands
    unknown = [band for band in wanted if band not in camera.bands]
    if unknown or not wanted or len(set(wanted)) != len(wanted):
        raise InputError(
            f"the bands {wanted!r} are not some of {facts.name}'s {camera.bands}, each once."
        )
    picks = [camera.bands.index(band) for band in wanted]
    return Camera(
        wanted, camera.scale, *(x[picks] for x in (camera.seeing, camera.gain, camera.sky_variance))
    )


def _bright_enough(
    galsim, rng, make, facts: Survey, camera: Camera, psf: VaryingPsf, center: np.ndarray
) -> tuple[Body, Stamp, float]:
    """Draw sources until one stands out of the noise of the sky."""
    for _ in range(_ATTEMPTS):
        body = make(galsim, rng, facts, camera.bands)
        stamp = draw_stamp(galsim, body, center, psf, camera)
        ratio = float(
            np.sqrt(np.sum(stamp.light**2 / camera.sky_variance[:, None, None], dtype=float))
        )
        if ratio >= MIN_SNR:
            return body, stamp, ratio
    raise InputError(f"no source of {facts.name} stands out of its noise in {camera.bands}.")


def _with_noise(rng, light: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Add noise to the light, in place and row by row; return it and its variance."""
    gain = camera.gain.astype(np.float32)[:, None]
    sky = camera.sky_variance.astype(np.float32)[:, None]
    variance = np.empty_like(light)
    for row in range(light.shape[1]):
        variance[:, row] = sky + gain * np.maximum(light[:, row], 0)
        noise = rng.standard_normal(light[:, row].shape, np.float32)
        light[:, row] += noise * np.sqrt(variance[:, row])
    return light, variance


def field_wcs(shape: tuple[int, int], scale: float) -> WCS:
    """Return the WCS of a field, as that of single blends: about one point of the sky."""
    height, width = shape
    wcs = WCS(naxis=2)
    wcs.wcs.crpix = [(width + 1) / 2, (height + 1) / 2]
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    wcs.wcs.crval = [53.16, -28.1]
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    return wcs
