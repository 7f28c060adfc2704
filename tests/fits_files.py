"""Small FITS files for tests of readers: one call, HDUs in the order in which they are given."""

import warnings

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

SHAPE = (24, 28)
SIGMA = 2.0


def noise(seed=0, shape=SHAPE, sigma=SIGMA):
    """Pixels of noise, float32."""
    return np.random.default_rng(seed).normal(0, sigma, shape).astype(np.float32)


def psf(size=9):
    """A Gaussian PSF."""
    x = np.arange(size) - size // 2
    image = np.exp(-(x[:, None] ** 2 + x**2) / 2 / 1.5**2)
    return image / image.sum()


def wcs(scale=0.2, shift=(0.0, 0.0), shape=SHAPE):
    """A WCS about (150, 2)."""
    found = WCS(naxis=2)
    found.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    found.wcs.crval = [150.0, 2.0]
    found.wcs.crpix = [shape[1] / 2 + 0.5 + shift[1], shape[0] / 2 + 0.5 + shift[0]]
    found.wcs.cdelt = [-scale / 3600, scale / 3600]
    return found


def hdu(data=None, name="", cards=None, ver=None):
    """An image HDU; `cards` is a dictionary or a header."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)  # long names of cards
        header = fits.Header(cards or {})
    made = fits.ImageHDU(data, header, name=name or None)
    if ver is not None:
        made.ver = ver
    return made


def write(path, *hdus, primary=None, cards=None):
    """Write HDUs after a primary one that holds `primary` and `cards`."""
    first = fits.PrimaryHDU(primary, fits.Header(cards or {}))
    fits.HDUList([first, *hdus]).writeto(path, overwrite=True)
    return path


def field(path, *more, cards=None, image=None, variance=None):
    """Write IMAGE, VARIANCE and PSF, and further HDUs."""
    image = noise() if image is None else image
    variance = np.full(image.shape, SIGMA**2, np.float32) if variance is None else variance
    psfs = np.stack([psf()] * len(image)) if image.ndim == 3 else psf()
    return write(
        path, hdu(image, "IMAGE", cards), hdu(variance, "VARIANCE"), hdu(psfs, "PSF"), *more
    )
