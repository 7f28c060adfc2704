"""Simulated blends with truth, made with GalSim (the ``simulation`` extra).

`simulate_blend` makes one small LSST-like blend; sets of blends for several surveys and
galaxies come from `scorepriors.models.simulation._blend_sets`, which uses the same drawing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS

from scorepriors._defaults import MODEL_PSF_SIGMA
from scorepriors._errors import InputError
from scorepriors._filters import WAVELENGTHS
from scorepriors._surveys import HST, JWST, LSST, SPACE, ZERO_POINT, Camera, flux_of
from scorepriors.models.data._observation import Observation
from scorepriors.training._sets import lsst_galaxy

#: Side of PSF images, pixels.
STAMP = 41


@dataclass(frozen=True)
class Truth:
    """Truth of a simulated blend.

    Attributes
    ----------
    center
        Centers (row, column), ``[K, 2]``.
    flux
        Fluxes ``[K, B]``, nJy.
    morphology
        Images ``[K, H, W]`` at the model's resolution, total flux of one.
    convolved
        Sources as observed, without noise, ``[K, B, H, W]``.
    """

    center: np.ndarray
    flux: np.ndarray
    morphology: np.ndarray
    convolved: np.ndarray


def simulate_blend(
    num_sources: int = 4,
    *,
    seed: int = 0,
    shape: tuple[int, int] = (64, 64),
    bands: str = "ugrizy",
    magnitudes: tuple[float, float] = (22.0, 25.0),
    spread: float = 5.0,
) -> tuple[Observation, Truth]:
    """Draw a blend: galaxies of the ``lsst`` population close together, one color each.

    Parameters
    ----------
    num_sources
        Number of galaxies.
    seed
        Seed of all random numbers.
    shape
        Shape (H, W) in 0.2 arcsec pixels.
    bands
        Bands, any of ugrizy.
    magnitudes
        Range of the i magnitudes.
    spread
        Standard deviation in pixels of the positions about the center of the image.

    Returns
    -------
    Observation, Truth

    Raises
    ------
    InputError
        If GalSim is not installed or a band is unknown.
    """
    galsim = import_galsim()
    camera = LSST.published_camera(bands)
    rng = np.random.default_rng(seed)
    scene = _draw_scene(galsim, rng, num_sources, bands, magnitudes, spread)
    return _observe(galsim, rng, scene, camera, shape, f"simulated-{seed}")


def simulate_joint(
    num_sources: int = 4,
    *,
    seed: int = 0,
    shape: tuple[int, int] = (48, 48),
    bands: str = "gri",
    magnitudes: tuple[float, float] = (22.0, 25.0),
    spread: float = 4.0,
    gap: float = 4.0,
    years: float = 10.0,
    rotation: float = 0.0,
    mirror: bool = False,
    cameras: str = "lsst+euclid",
) -> tuple[Observation, Observation, Truth, Truth]:
    """Draw one blend observed by two cameras: one from the ground and one in space.

    Parameters
    ----------
    num_sources, seed, bands, magnitudes, spread
        Arguments of `simulate_blend`; `bands` are those of the LSST-like camera.
    shape
        Shape (H, W) of the first image; the other covers the same sky.
    gap
        Smallest distance between two galaxies, pixels of the first image.
    years
        Years of the LSST survey; the published depth is that of ten.
    rotation
        Angle in degrees by which the camera in space is turned against the other, from north
        through east.
    mirror
        Whether it is mirrored as well.
    cameras
        ``"lsst+euclid"``, or ``"jwst+hst"`` for two in space.

    Returns
    -------
    Observation, Observation, Truth, Truth
        Observations of the first and the second camera with truth.  The WCSs agree; positions
        are in the pixels of each.

    Raises
    ------
    InputError
        If GalSim is not installed, or a band or the pair of cameras is unknown.

    See Also
    --------
    scorepriors.models.join_observations : To fit them together.
    """
    galsim = import_galsim()
    if cameras not in _PAIRS:
        raise InputError(f"unknown cameras {cameras!r}; there are {', '.join(_PAIRS)}.")
    names, one, other = _PAIRS[cameras]
    if one is LSST:
        first = LSST.published_camera(bands, years=years)
    else:
        first = one.published_camera()
    pair = first, other.published_camera()
    rng = np.random.default_rng(seed)
    every = [*pair[0].bands, *pair[1].bands]
    both = _draw_scene(galsim, rng, num_sources, every, magnitudes, spread, gap)
    seen: list = []
    for number, camera in enumerate(pair):
        zoom = first.scale / camera.scale
        size = round(shape[0] * zoom), round(shape[1] * zoom)
        picks = [every.index(b) for b in camera.bands]
        turned = (rotation, mirror) if number else (0.0, False)
        turn = camera_turn(*turned)
        # Rows come first in places, columns in GalSim.
        place = both.place[:, ::-1] @ turn.T[:, ::-1] * zoom
        profiles = [profile.transform(*turn.ravel()) for profile in both.profiles]
        scene = _Scene(place, both.flux[:, picks], profiles)
        name = f"{names[number]}-{seed}"
        seen.append(_observe(galsim, rng, scene, camera, size, name, *turned))
    (one_seen, truth), (other_seen, other_truth) = seen
    return one_seen, other_seen, truth, other_truth


#: Names of the observations and cameras of pairs.
_PAIRS = {
    "lsst+euclid": (("ground", "space"), LSST, SPACE),
    "jwst+hst": (("jwst", "hst"), JWST, HST),
}


@dataclass(frozen=True)
class _Scene:
    """Galaxies on the sky: offsets ``[K, 2]`` in pixels, fluxes ``[K, B]`` in nJy, profiles."""

    place: np.ndarray
    flux: np.ndarray
    profiles: list


def _draw_scene(galsim, rng, num_sources, bands, magnitudes, spread, gap=4.0) -> _Scene:
    places = _apart(
        lambda: rng.normal(0, spread, (num_sources, 2)),
        gap=gap,
        reach=3 * spread,
        mend=f"{num_sources} sources do not fit within `spread` = {spread} px; make it larger.",
    )
    mags = np.sort(rng.uniform(*magnitudes, num_sources))
    flux = flux_of(mags[:, None] + colors(rng, num_sources, bands))
    return _Scene(places, flux, [lsst_galaxy(galsim, rng) for _ in range(num_sources)])


def camera_turn(rotation: float, mirror: bool) -> np.ndarray:
    """Return the matrix ``[2, 2]`` from pixels (column, row) of a camera to those of a turned one.

    Both have square pixels; the camera that is not turned has north up and east to the left.
    """
    upright, turned = (
        field_wcs((2, 2), 1.0, *options).pixel_scale_matrix
        for options in ((0.0, False), (rotation, mirror))
    )
    return np.linalg.inv(turned) @ upright


def _observe(
    galsim, rng, scene: _Scene, camera: Camera, shape, name: str, rotation=0.0, mirror=False
):
    scale, bands = camera.scale, camera.bands
    psfs = [galsim.Kolmogorov(fwhm=width) for width in camera.seeing]
    centers = scene.place + image_middle(shape)
    drawn = np.stack(
        [
            draw(galsim, profile, center, [model_psf(galsim, scale), *psfs], shape, scale)
            for profile, center in zip(scene.profiles, centers, strict=True)
        ]
    )
    morphology, unit = drawn[:, 0], drawn[:, 1:]
    convolved = unit * scene.flux[:, :, None, None]
    total = convolved.sum(0)
    variance = photon_variance(total, camera.sky_variance / camera.gain, camera.gain)
    images = total + rng.standard_normal(total.shape) * np.sqrt(variance)
    wcs = field_wcs(shape, scale, rotation, mirror)
    catalog = Table({"x": centers[:, 1], "y": centers[:, 0]})
    obs = Observation.from_arrays(
        images,
        variance=variance,
        psfs=psf_images(psfs, scale),
        bands=list(bands),
        wcs=wcs,
        unit="nJy",
        zero_point=ZERO_POINT,
        name=name,
        catalog=catalog,
    )
    return obs, Truth(centers, scene.flux, morphology, convolved)


def import_galsim() -> Any:
    """Return the module GalSim; InputError with how to install it if it is missing."""
    try:
        import galsim
    except ImportError as error:
        raise InputError(
            "simulating blends needs GalSim: pip install 'scorepriors[simulation]'."
        ) from error
    return galsim


def image_middle(shape: tuple[int, int]) -> np.ndarray:
    """Return (row, column) of the middle of an image, pixel centers at integers."""
    return (np.array(shape) - 1) / 2


def draw(galsim, profile, center, psfs, shape, scale) -> np.ndarray:
    """Draw a galaxy convolved with several PSFs.

    Parameters
    ----------
    galsim
        The module.
    profile
        GalSim object of unit flux.
    center
        Center (row, column), pixels.
    psfs
        GalSim objects of the PSFs, one per image, without the pixel.
    shape
        Shape (H, W) of the images.
    scale
        Arcseconds per pixel.

    Returns
    -------
    numpy.ndarray
        Images ``[len(psfs), H, W]``, of unit flux less the part outside.
    """
    moved = profile.shift(*((center - image_middle(shape))[::-1] * scale))
    height, width = shape
    return np.stack(
        [
            galsim.Convolve(moved, psf).drawImage(nx=width, ny=height, scale=scale).array
            for psf in psfs
        ]
    ).astype(float)


def model_psf(galsim, scale: float):
    """Return the PSF at the model's resolution, as a GalSim object."""
    return galsim.Gaussian(sigma=MODEL_PSF_SIGMA * scale)


def closest(camera: Camera, seeing: np.ndarray) -> float:
    """Return the distance in pixels below which a survey would catalog two galaxies as one.

    That is two thirds of the seeing; galaxies in images from space are themselves wider.
    """
    width = float(seeing.min()) / camera.scale
    return (width if camera.aperture is None else max(width, 3.0)) / 1.5


#: Share of the diameter of a telescope that its second mirror covers.
_OBSCURED = 1 / 3


def psf_profile(galsim, camera: Camera, band: int, width: float):
    """Return the PSF of a camera in a band as a GalSim object, without the pixel.

    The PSF of the atmosphere, or of a telescope in space: rings of a round aperture, a third of
    whose diameter is obscured, widened by a Gaussian (jitter and diffusion of charge).

    Parameters
    ----------
    galsim
        The module.
    camera
        Camera.
    band
        Index of the band.
    width
        FWHM in arcsec.
    """
    if camera.aperture is None:
        return galsim.Kolmogorov(fwhm=width)
    diffraction = np.degrees(WAVELENGTHS[camera.bands[band]] * 1e-9 / camera.aperture) * 3600
    widths, totals = _widened_rings()
    rest = diffraction * np.interp(width / diffraction, totals, widths)
    rings = galsim.Airy(lam_over_diam=diffraction, obscuration=_OBSCURED)
    return galsim.Convolve(rings, galsim.Gaussian(fwhm=rest))


@lru_cache(maxsize=1)
def _widened_rings() -> tuple[np.ndarray, np.ndarray]:
    """Return FWHMs of Gaussians and of the rings they widen, in wavelengths per diameter."""
    galsim = import_galsim()
    rings = galsim.Airy(lam_over_diam=1.0, obscuration=_OBSCURED)
    widths = np.geomspace(0.1, 10, 25)
    totals = [
        galsim.Convolve(rings, galsim.Gaussian(fwhm=width))
        .drawImage(nx=101, ny=101, scale=np.hypot(1, width) / 40, method="no_pixel")
        .calculateFWHM()
        for width in widths
    ]
    return widths, np.array(totals)


def psf_images(psfs, scale: float) -> np.ndarray:
    """Return effective PSFs (pixel included) ``[B, 41, 41]`` with sums of one."""
    images = np.stack([p.drawImage(nx=STAMP, ny=STAMP, scale=scale).array for p in psfs])
    return images / images.sum((1, 2), keepdims=True)


def photon_variance(total: np.ndarray, sky: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Return the variance of pixels ``[B, H, W]``, from the light of both sky and sources.

    Parameters
    ----------
    total
        Noiseless image without the sky, ``[B, H, W]``.
    sky
        Flux of the sky in a pixel, ``[B]``.
    gain
        Variance per unit of flux, ``[B]``.
    """
    return gain[:, None, None] * (sky[:, None, None] + np.maximum(total, 0))


def _apart(places, *, gap: float, reach: float, mend: str) -> np.ndarray:
    """Draw positions about the origin until none are too close or too far.

    Parameters
    ----------
    places
        Function that draws positions ``[K, 2]``.
    gap
        Smallest distance between two, pixels.
    reach
        Largest coordinate, pixels.
    mend
        Advice in the message if they do not fit.

    Raises
    ------
    InputError
        If none of 10,000 draws fits.
    """
    for _ in range(10_000):
        drawn = places()
        gaps = np.linalg.norm(drawn[:, None] - drawn, axis=-1) + 1e9 * np.eye(len(drawn))
        if gaps.min() > gap and np.abs(drawn).max() < reach:
            return drawn
    raise InputError(mend)


def colors(
    rng,
    count: int,
    bands: Sequence[str],
    slopes: tuple[float, float] = (0.2, 2.2),
    scatter: float = 0.08,
) -> np.ndarray:
    """Draw magnitudes relative to i ``[K, B]``: one color per galaxy, and some scatter."""
    wave = np.array([WAVELENGTHS[b] for b in bands])
    slope = rng.uniform(*slopes, (count, 1))
    scattered = rng.normal(0, scatter, (count, len(bands)))
    return slope * (WAVELENGTHS["i"] / wave - 1) * 1.2 + scattered


def field_wcs(
    shape: tuple[int, int], scale: float, rotation: float = 0.0, mirror: bool = False
) -> WCS:
    """Return the WCS of an image about one point of the sky.

    Parameters
    ----------
    shape
        Shape (H, W).
    scale
        Arcseconds per pixel.
    rotation
        Angle of the rows' axis from north through east, degrees.
    mirror
        Whether east is to the right of north.
    """
    height, width = shape
    wcs = WCS(naxis=2)
    wcs.wcs.crpix = [(width + 1) / 2, (height + 1) / 2]
    wcs.wcs.cdelt = [(scale if mirror else -scale) / 3600, scale / 3600]
    if rotation:
        cos, sin = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
        east = 1 if mirror else -1
        wcs.wcs.pc = [[cos, east * sin], [-east * sin, cos]]
    wcs.wcs.crval = [53.16, -28.1]
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    return wcs
