"""Distances of the samples of a PSF in pixels of the image, from what files and users say."""

import numpy as np

from scorepriors._errors import InputError
from scorepriors.models.data._warnings import note

from ._sources import Stamp

#: Distances of samples, in pixels, beyond which a scale can't be that of a PSF.
_FINEST, COARSEST = 1 / 40, 4.0

#: Scales that differ by less are the same, relative.
_SAME_SCALE = 0.01


def step_of(label: str, stamp: Stamp, scale: float | None, oversampling: float | None) -> float:
    """Return the distance of samples in pixels of the image."""
    if oversampling is not None:
        said = stamp.oversampling
        if stamp.scale is not None and scale is not None:
            said = scale / stamp.scale
        if said is not None and abs(said / oversampling - 1) > _SAME_SCALE:
            note(
                f"{label} says that it has {said:.4g} samples per pixel; it was taken to have "
                f"{oversampling:g}, as asked for."
            )
        return 1 / oversampling
    if stamp.scale is not None and scale is not None:
        return _step_by_scale(label, stamp, stamp.scale, scale)
    if stamp.oversampling is not None:
        return 1 / stamp.oversampling
    if stamp.finer:
        raise InputError(
            f"{label} is oversampled and does not say how much; add a card PIXELSCL or OVERSAMP, "
            "or say the samples per pixel: psf_oversampling= (--psf-oversampling)."
        )
    if stamp.wcs_scale is not None and scale is not None:
        step = stamp.wcs_scale / scale
        if _FINEST < step < COARSEST:
            return _step_by_scale(label, stamp, stamp.wcs_scale, scale)
        note(
            f"the WCS of {label} has pixels of {stamp.wcs_scale:.4g} arcsec, which can't be those "
            f"of a PSF beside pixels of {scale:.4g}; it was ignored."
        )
    elif stamp.scale is not None:
        note(
            f"{label} has samples of {stamp.scale:.4g} arcsec, but the image has no pixel scale "
            "to compare with; they were taken to be the same."
        )
    return 1.0


def _step_by_scale(label: str, stamp: Stamp, sample: float, pixel: float) -> float:
    """Return the distance of samples in pixels, from the sides of both in arcseconds."""
    step = sample / pixel
    said = f"{label} has samples of {sample:.4g} arcsec and the image pixels of {pixel:.4g}"
    if not _FINEST < step < COARSEST:
        raise InputError(
            f"{said}, which can't both be; correct the card, or say the samples per pixel: "
            "psf_oversampling= (--psf-oversampling)."
        )
    if abs(step - 1) < _SAME_SCALE:
        if stamp.oversampling is not None and abs(stamp.oversampling - 1) > _SAME_SCALE:
            raise InputError(
                f"{said}, the same, but names an oversampling of {stamp.oversampling:g}; say which "
                f"holds: psf_oversampling=1 or {stamp.oversampling:g} (--psf-oversampling)."
            )
        return 1.0
    whole = round(1 / step)
    if whole and abs(step * whole - 1) < _SAME_SCALE:
        step = 1 / whole
    how = "summed over" if step < 1 and not stamp.effective else "interpolated to"
    note(f"{said}: they were {how} the image's pixels.")
    return step


def check_oversampling(value) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not (np.isfinite(number) and number > 0):
        raise InputError(f"psf_oversampling is {value!r}; give the samples per pixel, such as 4.")
    return number
