"""How well pixels sample a PSF, and what a PSF that is too sharp or too wide does."""

import numpy as np
from scipy.signal import fftconvolve

from scorepriors.models.data._warnings import note
from scorepriors.models.rendering._psf import difference_kernels, gaussian_psf

from ._checks import PSFWarning

#: FWHM in pixels below which an image does not determine the PSF between its pixels.
UNDERSAMPLED = 2.0

#: FWHM in pixels above which a PSF is probably sampled more finely than the image.  Surveys
#: have 2 to 6 pixels.
WIDE = 7.0

#: FWHM of a Gaussian over its standard deviation.
_FWHM = 2 * np.sqrt(2 * np.log(2))


def fwhm(psf: np.ndarray) -> float:
    """Return the FWHM of a centered PSF ``[P, P]`` in pixels: of a disk as large as its core."""
    half = len(psf) // 2
    count = np.count_nonzero(psf > psf.max() / 2)
    if count > 300:  # wide enough to be counted in pixels
        return float(2 * np.sqrt(count / np.pi))
    reach = min(half, 10)
    fine = np.linspace(-reach, reach, 16 * reach + 1)
    weights = np.sinc(fine[:, None] - np.arange(-half, len(psf) - half))
    core = weights @ psf @ weights.T
    count = np.count_nonzero(core > core.max() / 2)
    return float(2 * np.sqrt(count / np.pi) / 8)


def error_between_pixels(width: float, model_sigma: float = 0.7) -> tuple[float, float]:
    """Measure how wrong a star halfway between pixels is, that a PSF of this FWHM renders.

    A Gaussian of the same FWHM stands for the PSF, since its pixels alone do not tell.

    Parameters
    ----------
    width
        FWHM of the effective PSF in pixels.
    model_sigma
        Standard deviation of the model's own PSF, pixels.

    Returns
    -------
    flux
        Relative error of a star's fitted flux.
    misfit
        Root of the squared residual over the squared light.
    """
    sigma = np.sqrt(max((width / _FWHM) ** 2 - 1 / 12, 0.05**2))
    size, between = 25, (0.5, 0.5)
    kernel = difference_kernels(gaussian_psf(sigma, size)[None], model_sigma).kernels[0]
    truth = gaussian_psf(sigma, size, between)
    model = fftconvolve(gaussian_psf(model_sigma, size, between), kernel, mode="same")
    flux = (model * truth).sum() / (model**2).sum() - 1
    misfit = np.linalg.norm(model - truth) / np.linalg.norm(truth)
    return float(flux), float(misfit)


def tell_sampling(psfs: np.ndarray, bands: tuple[str, ...], scale: float | None) -> None:
    """Warn where pixels undersample a PSF, or where it is as wide as an oversampled one.

    Parameters
    ----------
    psfs
        Checked PSFs ``[B, P, P]``.
    bands
        Names of the bands.
    scale
        Arcseconds per pixel, for the sentence; or None.
    """
    if psfs.shape[-1] < 5:
        return  # a response of a pixel or two has no width to measure
    widths = [fwhm(psf) for psf in psfs]
    sharp = [(band, width) for band, width in zip(bands, widths) if width < UNDERSAMPLED]
    if sharp:
        flux, misfit = error_between_pixels(min(width for _, width in sharp))
        note(
            f"the PSF of {_named(sharp, scale)} has a FWHM of less than two pixels, so the image "
            "does not determine it between pixels: a star halfway between two is rendered with "
            f"{misfit:.1%} of its light misplaced, which changes its flux by {flux:+.1%}; use an "
            "image with smaller pixels where there is one.",
            PSFWarning,
        )
    wide = [(band, width) for band, width in zip(bands, widths) if width > WIDE]
    if wide:
        note(
            f"the PSF of {_named(wide, scale)} is unusually wide in pixels; if it is sampled more "
            "finely than the image, say how many times: psf_oversampling=N (--psf-oversampling N).",
            PSFWarning,
        )


def _named(found: list[tuple[str, float]], scale: float | None) -> str:
    def size(width):
        return f"{width:.2g} pixels" + ("" if scale is None else f", {width * scale:.2g} arcsec")

    return ", ".join(f"band {band!r} ({size(width)})" for band, width in found)
