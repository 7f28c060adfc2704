"""Point-spread functions: that of the model, and kernels from it to the observed ones."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.special import erf

#: Relative ridge of the Fourier ratio.  The model PSF of 0.7 px falls to 3e-3 at the
#: corner of the Fourier plane; a ridge of 1e-7 of its peak power does not change the
#: ratio there and only prevents a division by zero for other PSFs.
RIDGE = 1e-7


class DifferenceKernels(NamedTuple):
    """Kernels from the model PSF to the observed ones, and their errors.

    Attributes
    ----------
    kernels
        Kernels ``[B, P, P]``, float64, center at ``P // 2``, sums of one.
    error
        Relative L2 error of model PSF * kernel against the observed PSF, ``[B]``.
    """

    kernels: np.ndarray
    error: np.ndarray


def gaussian_psf(
    sigma: float, size: int, offset: Sequence[float] | np.ndarray = (0.0, 0.0)
) -> np.ndarray:
    """Return a Gaussian of standard deviation `sigma` pixels, integrated over each pixel.

    Parameters
    ----------
    sigma
        Standard deviation in pixels, before the pixel's own response.
    size
        Side of the image; the center is the middle of pixel ``size // 2``.
    offset
        Shift of the center in (row, column), pixels.

    Returns
    -------
    numpy.ndarray
        Image ``[size, size]``, total flux of one (less the part outside).
    """
    edges = np.arange(size + 1) - size // 2 - 0.5
    row, column = (np.diff(erf((edges - shift) / (np.sqrt(2) * sigma))) / 2 for shift in offset)
    return row[:, None] * column[None, :]


def difference_kernels(psfs: np.ndarray, model_sigma: float | None) -> DifferenceKernels:
    r"""Return kernels k with ``model PSF * k = PSF``, by a regularized ratio in Fourier space.

    .. math:: \hat k = \hat P \, \hat G^* / (|\hat G|^2 + \epsilon)

    Both PSFs are effective ones (pixel response included), so k has none: it maps
    model images, which contain one pixel response, to observed ones, which do too.

    Parameters
    ----------
    psfs
        PSFs ``[B, P, P]``, P odd, centered, normalized.
    model_sigma
        Standard deviation in pixels of the model's Gaussian PSF; None if model images
        are not convolved at all, which makes the PSFs themselves the kernels.

    Notes
    -----
    A PSF *narrower* than the model's requires a deconvolution: the ratio then rings, and
    `error`, measured against the PSF itself, includes the truncation to P pixels.
    """
    psfs = np.asarray(psfs, float)
    if model_sigma is None:
        return DifferenceKernels(psfs, np.zeros(len(psfs)))
    size = psfs.shape[-1]
    grid = next_fast_len(2 * size, real=True)
    model = _transform(gaussian_psf(model_sigma, size)[None], grid)
    observed = _transform(psfs, grid)
    ratio = observed * model.conj() / (np.abs(model) ** 2 + RIDGE)
    shifted = np.fft.fftshift(irfft2(ratio, (grid, grid)), axes=(1, 2))
    start = grid // 2 - size // 2
    kernels = shifted[:, start : start + size, start : start + size]
    kernels = kernels / kernels.sum((1, 2), keepdims=True)
    again = irfft2(_transform(kernels, grid) * model, (grid, grid))
    wanted = irfft2(observed, (grid, grid))
    error = np.linalg.norm(again - wanted, axis=(1, 2)) / np.linalg.norm(wanted, axis=(1, 2))
    return DifferenceKernels(kernels, error)


def _transform(images: np.ndarray, grid: int) -> np.ndarray:
    """Return real Fourier transforms of centered images, with the center at pixel (0, 0)."""
    size = images.shape[-1]
    padded = np.zeros((len(images), grid, grid))
    padded[:, :size, :size] = images
    return rfft2(np.roll(padded, (-(size // 2),) * 2, axis=(1, 2)))
