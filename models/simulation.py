"""Small LSST-like blends with truth, made with GalSim (the ``simulation`` extra)."""

from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS

from scorepriors.errors import InputError
from scorepriors.training_sets import MODEL_PSF_SIGMA, PIXEL_SCALES, lsst_galaxy

from .observation import Observation

#: Ten-year LSST per band: 5 sigma point-source depth (AB), dark-sky brightness (AB per
#: square arcsec) and seeing FWHM (arcsec); Ivezic et al. 2019, ApJ 873, 111.
LSST_DEPTH = {"u": 26.1, "g": 27.4, "r": 27.5, "i": 26.8, "z": 26.1, "y": 24.9}
LSST_SKY = {"u": 22.99, "g": 22.26, "r": 21.20, "i": 20.48, "z": 19.60, "y": 18.61}
LSST_SEEING = {"u": 0.92, "g": 0.87, "r": 0.83, "i": 0.80, "z": 0.78, "y": 0.76}

#: Pixel values of simulated images are nanojanskys.
ZERO_POINT = 31.4


@dataclass(frozen=True)
class Truth:
    """What is known of a simulated blend.

    Attributes
    ----------
    center
        ``[K, 2]``, (row, column).
    flux
        ``[K, B]``, nJy.
    morphology
        ``[K, H, W]`` at the model's resolution, total flux of one.
    convolved
        ``[K, B, H, W]``, as observed, without noise.
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
    """Draw a blend: galaxies of the ``lsst`` population close together, one colour each.

    Parameters
    ----------
    num_sources
        Number of galaxies.
    seed
        Of everything random.
    shape
        (H, W) in 0.2 arcsec pixels.
    bands
        Any of ugrizy.
    magnitudes
        Range of the i magnitudes.
    spread
        Standard deviation in pixels of the positions about the centre of the image.

    Returns
    -------
    Observation, Truth

    Raises
    ------
    InputError
        If GalSim is missing or a band is unknown.
    """
    try:
        import galsim
    except ImportError as error:
        raise InputError(
            "simulating blends needs GalSim: pip install 'scorepriors[simulation]'."
        ) from error
    unknown = [b for b in bands if b not in LSST_DEPTH]
    if unknown:
        raise InputError(f"unknown LSST band {unknown[0]!r}; known are {''.join(LSST_DEPTH)}.")
    rng = np.random.default_rng(seed)
    scale = PIXEL_SCALES["lsst"]
    height, width = shape
    psfs = {b: galsim.Kolmogorov(fwhm=LSST_SEEING[b]) for b in bands}
    model_psf = galsim.Gaussian(sigma=MODEL_PSF_SIGMA * scale)
    middle = np.array([(height - 1) / 2, (width - 1) / 2])
    centers = _apart(rng, num_sources, spread) + middle
    mags = np.sort(rng.uniform(*magnitudes, num_sources))
    colour = _colours(rng, num_sources, bands)
    flux = 10 ** (-0.4 * (mags[:, None] + colour - ZERO_POINT))

    def draw(profile, center, psf):
        moved = profile.shift(*((center - middle)[::-1] * scale))
        image = galsim.Convolve(moved, psf).drawImage(nx=width, ny=height, scale=scale)
        return image.array.astype(float)

    profiles = [lsst_galaxy(galsim, rng) for _ in range(num_sources)]
    morphology = np.stack([draw(p, c, model_psf) for p, c in zip(profiles, centers)])
    unit = np.stack([[draw(p, c, psfs[b]) for b in bands] for p, c in zip(profiles, centers)])
    convolved = unit * flux[:, :, None, None]
    total = convolved.sum(0)
    sigma = np.array([_pixel_noise(b, scale) for b in bands])
    # Photon noise: the variance grows with all light in a pixel, sky and sources alike.
    sky = np.array([_sky_flux(b, scale) for b in bands])
    variance = (sigma**2 / sky)[:, None, None] * (sky[:, None, None] + np.maximum(total, 0))
    noise = rng.standard_normal(total.shape) * np.sqrt(variance)
    stamp = 41
    psf_images = np.stack([psfs[b].drawImage(nx=stamp, ny=stamp, scale=scale).array for b in bands])
    psf_images /= psf_images.sum((1, 2), keepdims=True)
    wcs = WCS(naxis=2)
    wcs.wcs.crpix = [(width + 1) / 2, (height + 1) / 2]
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    wcs.wcs.crval = [53.16, -28.1]
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    catalog = Table({"x": centers[:, 1], "y": centers[:, 0]})
    obs = Observation.from_arrays(
        total + noise, variance=variance, psfs=psf_images, bands=list(bands), wcs=wcs,
        unit="nJy", zero_point=ZERO_POINT, name=f"simulated-{seed}", catalog=catalog,
    )  # fmt: skip
    return obs, Truth(centers, flux, morphology, convolved)


def _apart(rng, count: int, spread: float) -> np.ndarray:
    """Positions about the origin, no two closer than 4 px, redrawn until they are."""
    for _ in range(10_000):
        places = rng.normal(0, spread, (count, 2))
        gaps = np.linalg.norm(places[:, None] - places, axis=-1) + 1e9 * np.eye(count)
        if gaps.min() > 4 and np.abs(places).max() < 3 * spread:
            return places
    raise InputError(f"{count} sources do not fit within `spread` = {spread} px; make it larger.")


def _colours(rng, count: int, bands: str) -> np.ndarray:
    """Magnitudes relative to i: one number from blue to red, and some scatter."""
    wave = np.array(
        [{"u": 367, "g": 483, "r": 622, "i": 755, "z": 869, "y": 971}[b] for b in bands]
    )
    slope = rng.uniform(0.2, 2.2, (count, 1))
    return slope * (755 / wave - 1) * 1.2 + rng.normal(0, 0.08, (count, len(bands)))


def _pixel_noise(band: str, scale: float) -> float:
    """Standard deviation of a pixel, nJy, from the 5 sigma depth for point sources."""
    flux = 10 ** (-0.4 * (LSST_DEPTH[band] - ZERO_POINT))
    # Effective pixels of an atmospheric PSF (LSST SRD convention).
    effective = 2.266 * (LSST_SEEING[band] / scale) ** 2
    return flux / 5 / np.sqrt(effective)


def _sky_flux(band: str, scale: float) -> float:
    """Flux of the dark sky in a pixel, nJy."""
    return 10 ** (-0.4 * (LSST_SKY[band] - ZERO_POINT)) * scale**2
