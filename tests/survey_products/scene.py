"""The sky of the files: a star and a galaxy of known flux, noise and bad pixels.

Fluxes and noise are in nJy here; the makers of files convert them to what a survey writes.
"""

from dataclasses import dataclass, field
from math import erf
from pathlib import Path

import numpy as np
from astropy.wcs import WCS

#: Rows and columns, unlike each other so that swapped axes show.
SHAPE = (48, 56)
#: Deviation of the PSF, pixels.
PSF_SIGMA = 1.55
#: Deviation of the galaxy before the PSF, pixels.
GALAXY_SIGMA = 2.1
#: Positions ``(x, y)`` of the star and the galaxy.
POSITIONS = np.array([(15.3, 14.8), (38.6, 31.4)])
#: Pixels without use, and pixels with flags that do not matter: those of the star.
BAD = (slice(3, 6), slice(44, 48))
HARMLESS = (slice(9, 21), slice(9, 22))
#: Where the noise is larger.
NOISY = (slice(None), slice(40, None))
RA, DEC = 150.1, 2.2


@dataclass
class Made:
    """Files of a product, and what they hold."""

    files: list[Path]
    bands: tuple[str, ...]
    wavelengths: tuple[float, ...]
    #: nJy, of the star and the galaxy, ``[2, B]``.
    fluxes: np.ndarray
    #: nJy, ``[B, H, W]``.
    sigma: np.ndarray
    masked: np.ndarray
    #: Arguments of ``Observation.read``.
    arguments: dict = field(default_factory=dict)
    #: Sentences that the reader says; regular expressions.
    #: Largest error of the noise of pixels; 1 % where the file says it, more where it is
    #: calculated from pixels with noise.
    noise_error: float = 0.01
    #: Whether the file tells how to convert its unit to nJy.
    calibrated: bool = True
    has_wcs: bool = True
    pixel_scale: float = 0.2
    sky: bool = False
    #: Whether the file holds the PSF.
    has_psf: bool = False


def blob(x, y, sigma, shape=SHAPE):
    """A Gaussian of unit flux, integrated over pixels."""

    def line(size, center):
        edges = np.arange(size + 1) - 0.5 - center
        return np.diff([0.5 * (1 + erf(e / sigma / np.sqrt(2))) for e in edges])

    return np.outer(line(shape[0], y), line(shape[1], x))


def psf_image(size=21, sigma=PSF_SIGMA):
    """PSF ``[P, P]``, centered on the middle pixel."""
    image = blob(size // 2, size // 2, sigma, (size, size))
    return (image / image.sum()).astype(np.float32)


def templates(shape=SHAPE, positions=POSITIONS):
    """Star and galaxy of unit flux, ``[2, H, W]``."""
    (star, galaxy), wide = positions, np.hypot(PSF_SIGMA, GALAXY_SIGMA)
    return np.stack([blob(*star, PSF_SIGMA, shape), blob(*galaxy, wide, shape)])


def fluxes(num_bands, sigma):
    """Fluxes of star and galaxy, ``[2, B]``, for a noise of `sigma` per pixel."""
    return sigma * np.array([6000.0, 9000.0])[:, None] * (1 + 0.25 * np.arange(num_bands))


def noise_map(num_bands, sigma):
    """Deviation of pixels ``[B, H, W]``."""
    one = np.full(SHAPE, float(sigma))
    one[NOISY] *= 1.5
    return np.repeat(one[None], num_bands, 0)


def bad_pixels(num_bands=1):
    """Mask ``[B, H, W]`` of the pixels without use."""
    masked = np.zeros((num_bands, *SHAPE), bool)
    masked[(slice(None), *BAD)] = True
    return masked


def draw(num_bands=1, sigma=20.0, seed=0):
    """Noisy images ``[B, H, W]``, their deviations and the fluxes ``[2, B]``, in nJy.

    Pixels without use hold what would spoil any measurement.
    """
    flux = fluxes(num_bands, sigma)
    deviation = noise_map(num_bands, sigma)
    rng = np.random.default_rng(seed)
    images = np.einsum("kb,kyx->byx", flux, templates())
    images = images + deviation * rng.normal(size=deviation.shape)
    images[bad_pixels(num_bands)] = 3e3 * sigma
    return images, deviation, flux


def wcs(scale, shift=(0, 0), shape=SHAPE, rotation=0.0):
    """TAN WCS with the reference in the middle of the image, arcsec per pixel."""
    found = WCS(naxis=2)
    found.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    found.wcs.crval = [RA, DEC]
    found.wcs.crpix = [shape[1] / 2 + 0.5 + shift[0], shape[0] / 2 + 0.5 + shift[1]]
    turn = np.radians(rotation)
    found.wcs.cd = (
        scale / 3600 * np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    )
    return found


def wcs_cards(scale, **options):
    """The WCS as cards, with a CD matrix as pipelines write it."""
    header = wcs(scale, **options).to_header()
    for i in (1, 2):
        for j in (1, 2):
            header[f"CD{i}_{j}"] = header.pop(f"PC{i}_{j}", 0.0)
        header.remove(f"CDELT{i}", ignore_missing=True)
    return header
