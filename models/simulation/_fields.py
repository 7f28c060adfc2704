"""Simulated fields: large images of the galaxies of the blends, with truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from scorepriors import __version__
from scorepriors._errors import InputError
from scorepriors._progress import Progress, reporting
from scorepriors._surveys import LSST, Camera, Survey, flux_of, survey
from scorepriors.models.data._correlations import correlation_of

from ._blend_sets import MIN_SNR
from ._fields_bodies import SATURATED_STARS, Body
from ._fields_pixels import PLANES, add_noise, add_sky, near_full, saturate
from ._fields_pixels import gaps as gap_pixels
from ._fields_places import draw_places, enroll
from ._fields_psf import VaryingPsf
from ._fields_stamps import Stamp, draw_stamp, model_shape
from ._fields_truth import truth_table
from ._simulation import closest, field_wcs, import_galsim

#: Smallest and largest side of a field, pixels.
SIDES = (64, 20_000)

# Random streams other than those of blends and training images; the last one is of sources.
_STREAM = 7

#: Galaxies per square arcminute of the LSST, at the depth of its sets of blends.
_DENSITY = 60.0

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
        Bits of the planes SAT (1) and NO_DATA (8), ``[B, H, W]``, int16.
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
    density: float | None = None,
    stars: float = 2.0,
    clusters: int = 0,
    structured: int = 0,
    sky: float = 0.0,
    gaps: bool = False,
    noise_correlation: str | None = None,
    bands: str | None = None,
    seed: int = 0,
    progress: Progress = False,
) -> SimulatedField:
    """Simulate a large image of a survey: galaxies as in its blends, spread over the sky.

    Parameters
    ----------
    name
        Survey: ``"lsst"``, ``"hsc"``, ``"ztf"``, ``"euclid"`` or ``"hst"``.
    size
        Side of the field, pixels.
    density
        Galaxies with a signal to noise of at least 5, per square arcminute.  If not given, 60 of
        the LSST, of Euclid and of HST, and as many per pixel of others: 85 of HSC, 2.4 of ZTF.
    stars
        The same of stars, from points that fill the pixels of the camera, whose light runs
        along columns, to faint ones.
    clusters
        Clusters of 25 to 60 red galaxies about a bright and large one, beside the others.
    structured
        Bright spirals with arms and lumps, beside the others.
    sky
        What is left of the sky: difference of its brightest and darkest pixel in standard
        deviations of the sky's noise.
    gaps
        Whether an edge, a corner and holes of the field have no data.
    noise_correlation
        Correlation of the noise of neighboring pixels, as `with_correlation` takes it by name:
        ``"lanczos3"``, ``"drizzle:RATIO"``.  Variances stay.
    bands
        Some of the survey's bands, as ``"g,r,i"`` or ``"gri"``; all if not given.
    seed
        Any non-negative integer; the same arguments give the same field.
    progress
        True for a bar; or a function, called as ``progress(done, total, text)``.

    Returns
    -------
    SimulatedField

    Raises
    ------
    InputError
        For an unknown survey, band or correlation, invalid numbers, sources that do not fit into the field,
        or if GalSim is not installed.

    Notes
    -----
    Columns of the truth: ``id``; ``x`` and ``y``, 0-based pixels; ``ra``, ``dec``;
    ``flux_<band>``, of all the light, nJy; ``magnitude`` in i; ``is_star``; ``has_structure``;
    ``cluster``, counted from 1, 0 for none; ``size``, ``e1`` and ``e2``, second moments at the
    model's resolution as in catalogs; ``extent``, the distance of the farthest pixel in which its
    light exceeds the noise of the sky; ``snr``, of all bands against the noise of the sky alone,
    and ``blendedness``, both as in sets of blends; ``saturated``, whether the pixel of the
    center, or one beside it, is full in a band.

    Sources are drawn on stamps, one after the other: memory beside the images is that of one
    stamp and the light of each source summed over bands.
    """
    facts = survey(name)
    if density is None:
        # What a telescope in space resolves better is not more galaxies per square arcminute.
        zoom = LSST.scale / facts.scale if facts.aperture is None else 1.0
        density = _DENSITY * zoom**2
    _check(size, {"density": density, "stars": stars, "sky": sky}, clusters, structured, seed)
    correlation = None if noise_correlation is None else correlation_of(noise_correlation)
    galsim = import_galsim()
    camera = _some_bands(facts, bands)
    shape = (size, size)
    area = (size * camera.scale / 60) ** 2
    rng = np.random.default_rng((seed, _STREAM))
    psf = VaryingPsf(galsim, rng, camera, size)
    missing = gap_pixels(rng, shape) if gaps else np.zeros(shape, bool)
    apart = closest(camera, camera.seeing)
    counts = round(density * area), round(stars * area), clusters, structured
    roll = enroll(rng, *counts, room=int(np.sum(~missing)), gap=apart)
    places = draw_places(rng, roll, missing, apart)
    canvas = _Canvas(np.zeros((len(camera.bands), *shape), np.float32), [])
    bodies, snr, looks = [], [], []
    with reporting(progress, f"simulating {name}", len(roll)) as report:
        for index, (make, center) in enumerate(zip(roll.makers, places, strict=True)):
            own = np.random.default_rng((seed, index, _STREAM))
            body, stamp, ratio = _bright_enough(galsim, own, make, facts, camera, psf, center)
            canvas.add(stamp)
            bodies.append(body)
            snr.append(ratio)
            looks.append([*model_shape(galsim, body, center, camera), stamp.extent(center, camera)])
            report(index + 1, len(roll), "")
    blendedness = canvas.blendedness()
    full = saturate(canvas.light, _full_pixels(facts, camera, psf))
    wcs = field_wcs(shape, camera.scale)
    truth = truth_table(bodies, places, camera.bands, wcs)
    truth["size"], truth["e1"], truth["e2"], truth["extent"] = np.reshape(looks, (-1, 4)).T
    truth["size"].unit = truth["extent"].unit = "pix"
    truth["snr"], truth["blendedness"] = np.array(snr, float), blendedness
    truth["cluster"] = roll.cluster
    truth["saturated"] = near_full(full, places)
    images, variance = add_noise(rng, canvas.light, camera, correlation)
    if sky:
        add_sky(rng, images, sky, camera)
    images[:, missing] = variance[:, missing] = np.nan
    mask = (full.astype(np.int16) << PLANES["SAT"]) | (
        missing.astype(np.int16) << PLANES["NO_DATA"]
    )
    return SimulatedField(
        images,
        variance,
        mask,
        psf.hdus(),
        tuple(camera.bands),
        wcs,
        truth,
        {
            "survey": name,
            "size": size,
            "density": density,
            "stars": stars,
            "clusters": clusters,
            "structured": structured,
            "sky": sky,
            "gaps": gaps,
            "noise_correlation": noise_correlation,
            "seed": seed,
            "bands": camera.bands,
            "scale": camera.scale,
            "num_sources": len(roll),
            "num_stars": sum(body.is_star for body in bodies),
            "num_saturated": int(np.sum(truth["saturated"])),
            "scorepriors": __version__,
            "galsim": galsim.__version__,
        },
    )


def _check(size: int, numbers: dict[str, float], clusters: int, structured: int, seed: int) -> None:
    low, high = SIDES
    if not low <= size <= high:
        raise InputError(f"a field has {low} to {high} pixels on a side, not {size}.")
    for what, number in numbers.items():
        if not (np.isfinite(number) and number >= 0):
            raise InputError(f"`{what}` must be a number of at least 0, got {number}.")
    for what, count in (("clusters", clusters), ("structured", structured), ("seed", seed)):
        if count < 0:
            raise InputError(f"`{what}` must not be negative, got {count}.")


def _some_bands(facts: Survey, bands: str | None) -> Camera:
    """Return the camera of sets of blends, with some of its bands."""
    camera = facts.camera()
    wanted = camera.bands if bands is None else _named(bands, facts)
    unknown = [band for band in wanted if band not in camera.bands]
    if unknown or not wanted or len(set(wanted)) != len(wanted):
        raise InputError(
            f"the bands {wanted!r} are not some of {facts.name}'s {camera.bands}, each once."
        )
    picks = [camera.bands.index(band) for band in wanted]
    seeing, gain, sky = (x[picks] for x in (camera.seeing, camera.gain, camera.sky_variance))
    return Camera(wanted, camera.scale, seeing, gain, sky, camera.aperture)


def _named(bands: str, facts: Survey) -> Sequence[str]:
    """Return names that are given as letters, as one name of several, or with commas between."""
    if "," in bands:
        names = [one.strip() for one in bands.split(",")]
        return "".join(names) if all(len(one) == 1 for one in names) else tuple(names)
    # Names of more than one letter can't be told apart without commas: it is then one band.
    return (bands,) if bands in [*facts.bands] else bands


def _bright_enough(
    galsim, rng, make, facts: Survey, camera: Camera, psf: VaryingPsf, center: np.ndarray
) -> tuple[Body, Stamp, float]:
    """Draw sources until one stands out of the noise of the sky."""
    for _ in range(_ATTEMPTS):
        body = make(galsim, rng, facts, camera.bands)
        stamp = draw_stamp(galsim, body, center, psf, camera)
        ratio = float(np.linalg.norm(stamp.significance(camera)))
        if ratio >= MIN_SNR:
            return body, stamp, ratio
    raise InputError(f"no source of {facts.name} stands out of its noise in {camera.bands}.")


def _full_pixels(facts: Survey, camera: Camera, psf: VaryingPsf) -> np.ndarray:
    """Return the largest value of a pixel in each band: that of the faintest star that fills it."""
    population: Any = facts.galaxies
    flux = flux_of(population.magnitudes[0] - SATURATED_STARS)
    return flux * psf.images(*psf.middle).max((1, 2))
