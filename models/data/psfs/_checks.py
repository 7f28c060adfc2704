"""Checks of PSF images on pixels: square, normalized, centered, sampled."""

from collections.abc import Sequence

import numpy as np

from scorepriors._errors import InputError
from scorepriors.models.data._checks import numeric
from scorepriors.models.data._warnings import note

from ._resampling import centered

#: Largest offset of a peak that is removed, pixels; one that lies farther out is no center.
_MAX_PEAK_OFFSET = 2.0

#: Largest offset of a centroid that is removed without a word, pixels.
_MAX_CENTROID_OFFSET = 0.1

#: Largest relative error of a PSF's sum from rounding or truncated wings.
_MAX_SUM_ERROR = 0.01

#: Places per pixel of fine PSFs, and how much they may differ from those on pixels, which were centered
#: on their own centroid, in units of the peak.
FINE, SAME_PSF = 4, 0.1


class PSFWarning(UserWarning):
    """Warning about a PSF image that is used although it is not exactly as it should be."""


def check_psfs(psfs, bands: tuple[str, ...]) -> np.ndarray:
    """Return checked float32 PSFs ``[B, P, P]``, P odd, normalized and centered.

    Parameters
    ----------
    psfs
        PSFs ``[B, P, P]``, or ``[P, P]`` for all bands, or a list of images of any sizes.
    bands
        Names of the bands.
    """
    images = [_square(image.astype(np.float64)) for image in _one_per_band(psfs, bands)]
    for band, image in zip(bands, images, strict=True):
        _check_image(image, band)
    totals = [image.sum() for image in images]
    off = [f"{band} {total:.4g}" for band, total in zip(bands, totals) if sum_is_off(total)]
    if off:
        note(f"PSFs do not sum to one, so they were normalized: {', '.join(off)}.", PSFWarning)
    moved, offsets = zip(*(centered(image) for image in images), strict=True)
    _tell_offsets(bands, offsets)
    stack = one_size(moved)
    return (stack / stack.sum(axis=(1, 2), keepdims=True)).astype(np.float32)


def check_fine(fine, psfs: np.ndarray) -> np.ndarray | None:
    """Return checked float32 samples ``[B, Q, Q]`` of PSFs at `FINE` places per pixel, sums of one.

    Parameters
    ----------
    fine
        The samples; or None.
    psfs
        The PSFs ``[B, P, P]`` on pixels, checked.
    """
    if fine is None:
        return None
    found = numeric(fine, "fine_psfs").astype(np.float64)
    if found.ndim != 3 or len(found) != len(psfs) or found.shape[1] != found.shape[2]:
        raise InputError(
            f"fine_psfs have the shape {found.shape}; give [{len(psfs)}, Q, Q], or leave them out."
        )
    found = found / found.sum((1, 2), keepdims=True)
    middle = found.shape[-1] // 2
    half = min(psfs.shape[-1] // 2, middle // FINE, 1)
    place = slice(middle - half * FINE, middle + half * FINE + 1, FINE)
    own = psfs.shape[-1] // 2
    core = psfs[:, own - half : own + half + 1, own - half : own + half + 1]
    away = np.abs(found[:, place, place] * FINE**2 - core).max((1, 2))
    if (away > SAME_PSF * psfs.max((1, 2))).any():
        raise InputError(
            "fine_psfs are not those of psfs, of which they must be samples at four places per pixel; "
            "give fine_psfs=None with other PSFs."
        )
    return found.astype(np.float32)


def fine_of(fine: np.ndarray | None, psfs: np.ndarray) -> np.ndarray | None:
    """Return fine samples that came with PSFs ``[B, P, P]``; None where they are not of these.

    PSFs off their middle are moved there, and the samples are not.
    """
    try:
        return check_fine(fine, psfs)
    except InputError:
        return None


def own_fine(fine: np.ndarray | None, images: Sequence[np.ndarray]) -> np.ndarray | None:
    """Return the same for PSFs that are not checked yet, one image for each band."""
    if fine is None:
        return None
    middle = one_size([centered(np.asarray(image, float))[0] for image in images])
    return fine_of(fine, middle / middle.sum((1, 2), keepdims=True))


def sum_is_off(total: float) -> bool:
    """Return whether a PSF's sum differs from one by more than `_MAX_SUM_ERROR`."""
    return bool(abs(total - 1) > _MAX_SUM_ERROR)


def _one_per_band(psfs, bands: tuple[str, ...]) -> list[np.ndarray]:
    images = _list_of_images(psfs)
    if images is None:
        stack = numeric(psfs, "psfs")
        if stack.ndim == 2:
            stack = np.broadcast_to(stack, (len(bands), *stack.shape))
        if stack.ndim != 3 or stack.size == 0:
            raise InputError(
                f"psfs have the shape {stack.shape}; give [B, P, P], or [P, P] for all."
            )
        images = list(stack)
    if len(images) != len(bands):
        raise InputError(
            f"there are {len(images)} PSFs for {len(bands)} band(s); give one for each, or one "
            "[P, P] for all."
        )
    return images


def _list_of_images(psfs) -> list[np.ndarray] | None:
    """Return the images of a list, which may be of different sizes; None if it is none."""
    if not isinstance(psfs, list | tuple):
        return None
    images = [numeric(image, "psfs") for image in psfs]
    return images if all(image.ndim == 2 for image in images) else None


def _square(image: np.ndarray) -> np.ndarray:
    """Return a PSF with zeros beside its shorter sides, where that keeps its middle.

    Coadds have such PSFs: bounding boxes of several.  One that is far from square is none.
    """
    short, long = sorted(image.shape)
    if (long - short) % 2 or 2 * short < long:
        return image
    return np.pad(image, [((long - side) // 2,) * 2 for side in image.shape])


def _check_image(image: np.ndarray, band: str) -> None:
    if image.shape[0] != image.shape[1] or image.size == 0:
        raise InputError(
            f"PSF images must be square; that of band {band!r} has the shape {image.shape}: cut "
            "it, or pad it with zeros, so that its middle stays."
        )
    if not np.isfinite(image).all():
        raise InputError(
            f"the PSF of band {band!r} has {(~np.isfinite(image)).sum()} NaN or infinite "
            "pixel(s); replace them, by 0 in the wings."
        )
    if not image.sum() > 0:
        raise InputError(
            f"the PSF of band {band!r} has the sum {image.sum():.3g}; it must be positive."
        )
    middle = (len(image) - 1) / 2
    row, column = np.unravel_index(np.argmax(image), image.shape)
    # Of an even side either pixel beside the middle is a center.
    away = np.maximum(np.abs([row - middle, column - middle]) - (1 - len(image) % 2) / 2, 0)
    if np.hypot(*away) > _MAX_PEAK_OFFSET:
        raise InputError(
            f"the PSF of band {band!r} peaks at (row {row}, column {column}), far from its "
            f"central pixel ({len(image) // 2}, {len(image) // 2}); cut it out around its peak."
        )


def _tell_offsets(bands: tuple[str, ...], offsets: Sequence[np.ndarray]) -> None:
    off = [
        f"{band} ({row:+.2f}, {column:+.2f})"
        for band, (row, column) in zip(bands, np.round(offsets, 2) + 0.0, strict=True)
        if np.hypot(row, column) > _MAX_CENTROID_OFFSET
    ]
    if off:
        note(
            "PSFs were not centered on their central pixel, which shifts sources by as much, so "
            "they were moved there (parts of a pixel by a phase in Fourier space); offsets in "
            f"(row, column), pixels: {', '.join(off)}.",
            PSFWarning,
        )


def one_size(images: Sequence[np.ndarray]) -> np.ndarray:
    """Stack images of odd sides, the smaller ones padded with zeros."""
    size = max(len(image) for image in images)
    return np.stack([np.pad(image, (size - len(image)) // 2) for image in images])
