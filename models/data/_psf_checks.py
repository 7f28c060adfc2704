"""Checks of PSF images: square, normalized, centered."""

import warnings

import numpy as np

from scorepriors._errors import InputError
from scorepriors._moments import centroids

#: Largest offset of a peak that may be a sub-pixel shift; larger ones are errors, pixels.
_MAX_PEAK_OFFSET = 2.0

#: Largest centroid offset without a warning; larger ones visibly shift every source, pixels.
_MAX_CENTROID_OFFSET = 0.1

#: Largest relative error of a PSF's sum from rounding or truncated wings.
_MAX_SUM_ERROR = 0.01


class PSFWarning(UserWarning):
    """Warning about a PSF image that is used although it is not exactly as it should be."""


def check_psfs(psfs: np.ndarray, bands: tuple[str, ...]) -> np.ndarray:
    """Return checked float32 PSFs ``[B, P, P]``, P odd, normalized."""
    if psfs.ndim == 2:
        psfs = np.broadcast_to(psfs, (len(bands), *psfs.shape))
    if psfs.ndim != 3 or psfs.size == 0:
        raise InputError(f"psfs have the shape {psfs.shape}; give [B, P, P], or [P, P] for all.")
    if len(psfs) != len(bands):
        raise InputError(
            f"there are {len(psfs)} PSFs for {len(bands)} band(s); give one for each, or one "
            "[P, P] for all."
        )
    if psfs.shape[1] != psfs.shape[2]:
        raise InputError(f"psfs have the shape {psfs.shape}; their images must be square.")
    psfs = psfs.astype(np.float64)
    sums = psfs.sum(axis=(1, 2))
    for band, psf, total in zip(bands, psfs, sums):
        if not np.isfinite(psf).all():
            raise InputError(
                f"the PSF of band {band!r} has {(~np.isfinite(psf)).sum()} NaN or infinite "
                "pixel(s); replace them, by 0 in the wings."
            )
        if not total > 0:
            raise InputError(
                f"the PSF of band {band!r} has the sum {total:.3g}; it must be positive."
            )
    psfs = _pad_to_odd(psfs)
    off = [f"{band} {total:.4g}" for band, total in zip(bands, sums) if sum_is_off(total)]
    if off:
        warnings.warn(
            f"PSFs do not sum to one, so they were normalized: {', '.join(off)}.",
            PSFWarning,
            stacklevel=4,
        )
    psfs = psfs / psfs.sum(axis=(1, 2), keepdims=True)
    _check_centers(psfs, bands)
    return psfs.astype(np.float32)


def sum_is_off(total: float) -> bool:
    """Return whether a PSF's sum differs from one by more than `_MAX_SUM_ERROR`."""
    return bool(abs(total - 1) > _MAX_SUM_ERROR)


def _centroids(psfs: np.ndarray) -> np.ndarray:
    """Return centroids ``[B, 2]`` (row, column) of the pixels above 1 % of each peak.

    The threshold excludes the noise of measured PSFs, which far wings would amplify.
    """
    bright = np.where(psfs > 0.01 * psfs.max(axis=(1, 2), keepdims=True), psfs, 0)
    return centroids(bright)


def _pad_to_odd(psfs: np.ndarray) -> np.ndarray:
    """Add a row and a column of zeros on the side that centers even PSFs on ``P // 2``."""
    size = psfs.shape[-1]
    if size % 2:
        return psfs
    middle = (size - 1) / 2
    # One side for all bands: padding must not shift bands against each other.
    before = (_centroids(psfs).mean(axis=0) < middle - 1e-6).astype(int)
    pads = [(0, 0), *((int(b), 1 - int(b)) for b in before)]
    return np.pad(psfs, pads)


def _check_centers(psfs: np.ndarray, bands: tuple[str, ...]) -> None:
    center = psfs.shape[-1] // 2
    for band, psf in zip(bands, psfs):
        row, column = np.unravel_index(np.argmax(psf), psf.shape)
        if np.hypot(row - center, column - center) > _MAX_PEAK_OFFSET:
            raise InputError(
                f"the PSF of band {band!r} peaks at (row {row}, column {column}), far from its "
                f"central pixel ({center}, {center}); cut it out around its peak."
            )
    offsets = _centroids(psfs) - center
    off = [
        f"{band} ({row:+.2f}, {column:+.2f})"
        for band, (row, column) in zip(bands, offsets)
        if np.hypot(row, column) > _MAX_CENTROID_OFFSET
    ]
    if off:
        warnings.warn(
            "PSFs are not centered on their central pixel, which shifts sources by as much; "
            f"offsets in (row, column): {', '.join(off)}.",
            PSFWarning,
            stacklevel=5,
        )
