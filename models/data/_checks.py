"""Checks of arrays, noise, masks and units, shared by `Observation` and its readers."""

import warnings
from collections.abc import Sequence

import numpy as np
from astropy import units
from astropy.io import fits
from astropy.wcs import WCS

from scorepriors._errors import InputError
from scorepriors._surveys import NANOJANSKY_ZERO_POINT

#: Largest disagreement in magnitudes between a unit and a zero point, one per cent.
_ZERO_POINT_TOLERANCE = 0.01

#: Bits that make a pixel unusable in masks of the Rubin and HSC pipelines, by plane.
#: The planes DETECTED (5) and DETECTED_NEGATIVE (6) mark the sources themselves, and
#: planes from 9 on differ between releases, so neither is here.
BAD_PLANES = {"BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "EDGE": 4, "SUSPECT": 7, "NO_DATA": 8}


def numeric(array, what: str) -> np.ndarray:
    """Convert `array` to a real numeric NumPy array, or raise InputError naming `what`."""
    try:
        array = np.asarray(array)
    except ValueError as error:
        raise InputError(f"{what} is ragged: give an array with rows of one length.") from error
    if array.dtype.kind not in "fiub":
        raise InputError(f"{what} has the type {array.dtype}; give an array of real numbers.")
    return array


def where_first(bad: np.ndarray, bands: Sequence[str] | None = None) -> str:
    """Return the name of the first true pixel of a mask ``[B, H, W]``, for a message."""
    band, row, column = np.argwhere(bad)[0]
    band = f"{bands[band]!r}" if bands else f"{band}"
    return f"first at (band {band}, row {row}, column {column})"


def weights_from_variance(
    variance, masked: np.ndarray, what: str = "variance", bands: Sequence[str] | None = None
) -> np.ndarray:
    """Return inverse variances, zero where `masked` or where the variance is infinite.

    Raises
    ------
    InputError
        If an unmasked variance is NaN, negative or zero.
    """
    variance = numeric(variance, what)
    if variance.shape != masked.shape:
        raise InputError(
            f"{what} has the shape {variance.shape} but the images have {masked.shape}; "
            "they must agree."
        )
    variance = np.where(masked, np.inf, variance.astype(np.float64))
    with np.errstate(invalid="ignore"):
        problems = {"NaN": np.isnan(variance), "negative": variance < 0, "zero": variance == 0}
    for problem, bad in problems.items():
        if bad.any():
            raise InputError(
                f"{what} is {problem} at {bad.sum()} unmasked pixel(s), "
                f"{where_first(bad, bands)}; mask such pixels."
            )
    return 1 / variance


def weights_from_noise(noise, kind: str, masked: np.ndarray, what: str) -> np.ndarray:
    """Return inverse variances, zero where `masked`, from `noise` of a given `kind`."""
    noise = numeric(noise, what)
    if noise.ndim == 2 and masked.shape[0] == 1:
        noise = noise[None]
    if noise.shape != masked.shape:
        raise InputError(
            f"{what} has the shape {noise.shape} but the images have {masked.shape}; "
            "they must agree."
        )
    noise = noise.astype(np.float64)
    if kind == "weight":
        return np.where(masked, 0.0, noise)
    if kind == "deviation":
        # The sign is kept, so that negative standard deviations are still rejected.
        noise = np.sign(noise) * noise**2
    return weights_from_variance(noise, masked, what)


def masked_pixels(mask, header: fits.Header | None = None, what: str = "MASK") -> np.ndarray:
    """Return the pixels that a mask from a file excludes.

    A mask of booleans or of 0 and 1 is used as it is.  Integers with other values are
    bit masks: pipelines also flag pixels on which a source was *detected*, and those
    must not be excluded.  The bits come from the ``MP_<plane>`` cards of the header (Rubin,
    HSC) and are BAD, SAT, INTRP, CR, EDGE, SUSPECT and NO_DATA; without such cards their
    usual numbers are assumed, with a UserWarning.
    """
    mask = numeric(mask, what)
    if mask.dtype.kind not in "iu" or np.isin(mask, (0, 1)).all():
        return mask != 0
    cards = {} if header is None else header
    named = {card[3:].upper(): int(cards[card]) for card in cards if card.startswith("MP_")}
    if not named:
        names = ", ".join(BAD_PLANES)
        warnings.warn(
            f"{what} is a bit mask without plane names; taking the Rubin and HSC planes "
            f"{names} as masked and ignoring all others (give a 0/1 mask to decide yourself).",
            UserWarning,
            stacklevel=2,
        )
        named = BAD_PLANES
    bits = sum(1 << bit for plane, bit in named.items() if plane in BAD_PLANES)
    return (mask.astype(np.int64) & bits) != 0


def broadcast_mask(masked: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Repeat a mask ``[H, W]`` for all bands; return one with the images' shape unchanged."""
    if masked.shape not in (shape, shape[1:]):
        raise InputError(
            f"mask has the shape {masked.shape} but the images have {shape}; "
            f"give {shape} or {shape[1:]}."
        )
    return np.broadcast_to(masked, shape)


#: Plurals of units in headers, of which astropy supports the singular alone.
_PLURALS = {"counts": "count", "electrons": "electron", "photons": "photon", "maggies": "maggy"}


def parse_unit(unit) -> units.UnitBase | None:
    """Parse a unit; unknown words become units that can't be converted.

    Headers spell ``ADU``, ``counts`` and ``ELECTRONS/S`` as they like: capitals and plurals
    that astropy does not support are accepted.
    """
    if unit is None or isinstance(unit, units.UnitBase):
        return unit
    try:
        found = units.Unit(unit, parse_strict="silent")
    except (TypeError, ValueError) as error:
        raise InputError(f"{unit!r} is not a unit; give an astropy unit such as 'nJy'.") from error
    if not isinstance(found, units.UnrecognizedUnit):
        return found
    plain = str(unit).lower()
    for plural, singular in _PLURALS.items():
        plain = plain.replace(plural, singular)
    usual = units.Unit(plain, parse_strict="silent")
    return found if isinstance(usual, units.UnrecognizedUnit) else usual


def strip_unit(array, unit: units.UnitBase | None, power: int, what: str):
    """Take the unit off a Quantity, converted to ``unit**power``; returns the unit too."""
    if not isinstance(array, units.Quantity):
        return array, unit
    if unit is None and power == 1:
        return array.value, array.unit
    target = units.dimensionless_unscaled if unit is None else unit**power
    try:
        return array.to_value(target), unit
    except units.UnitConversionError as error:
        raise InputError(
            f"{what} has the unit {array.unit}, which does not go with images in "
            f"{unit or 'no unit'}; convert it to {target or 'plain numbers'}."
        ) from error


def check_image_shape(images: np.ndarray) -> None:
    """Refuse what is no stack of images ``[B, H, W]``."""
    if images.ndim != 3:
        hint = "; a single band is images[None]" if images.ndim == 2 else ""
        raise InputError(f"images have the shape {images.shape}; give [B, H, W]{hint}.")
    if images.size == 0:
        raise InputError(f"images have the shape {images.shape}: there is no pixel in them.")


def check_bands(bands, num_bands: int) -> tuple[str, ...]:
    """Return the names of the bands, one for each image and all different."""
    bands = (bands,) if isinstance(bands, str) else tuple(str(band) for band in bands)
    if len(bands) != num_bands:
        raise InputError(
            f"{len(bands)} band name(s) {bands} for {num_bands} image(s); give one for each."
        )
    if len(set(bands)) < num_bands:
        twice = next(band for band in bands if bands.count(band) > 1)
        raise InputError(f"the band {twice!r} is named twice in {bands}; names must differ.")
    return bands


def check_pixels(
    images: np.ndarray, weights: np.ndarray, bands: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return checked float32 images and weights; images are zero under weight zero."""
    if weights.shape != images.shape:
        raise InputError(
            f"weights have the shape {weights.shape} but the images have {images.shape}; "
            "they must agree."
        )
    weights = weights.astype(np.float64)
    for problem, bad in {"NaN or infinite": ~np.isfinite(weights), "negative": weights < 0}.items():
        if bad.any():
            raise InputError(
                f"{bad.sum()} weight(s) are {problem}, {where_first(bad, bands)}; "
                "set them to 0 to mask those pixels."
            )
    used = weights > 0
    if not used.any():
        raise InputError("all pixels of all bands are masked; there is nothing to fit.")
    bad = used & ~np.isfinite(images)
    if bad.any():
        raise InputError(
            f"{bad.sum()} pixel(s) are NaN or infinite under positive weight, "
            f"{where_first(bad, bands)}; set their weight to 0."
        )
    images = np.where(used, images, 0).astype(np.float64)
    limits = np.finfo(np.float32)
    # Below `tiny` single precision has denormals only, which accelerators flush to zero.
    small, large = weights[used].min(), max(weights.max(), np.abs(images).max())
    if small < limits.tiny or large > limits.max:
        raise InputError(
            f"pixels or weights do not fit single precision (smallest weight {small:.3g}, "
            f"largest value {large:.3g}); choose another unit for the images."
        )
    return images.astype(np.float32), weights.astype(np.float32)


def check_wcs(wcs) -> WCS | None:
    """Return the celestial part of a WCS."""
    if wcs is None:
        return None
    if not isinstance(wcs, WCS):
        raise InputError(
            f"wcs is of the type {type(wcs).__name__}; give an astropy.wcs.WCS or None."
        )
    if wcs.naxis > 2:
        # Not `.celestial`: it would reorder the pixel axes of a (Dec, RA) header.
        wcs = wcs.sub([1, 2])
    if not wcs.has_celestial:
        raise InputError(
            f"wcs has the axes {list(wcs.wcs.ctype)}, which are not a position on the sky; "
            "give a celestial WCS or None."
        )
    return wcs


def check_scale(scale) -> float | None:
    """Return arcseconds per pixel, a positive number, or None."""
    if scale is None:
        return None
    try:
        value = float(scale)
    except (TypeError, ValueError) as error:
        raise InputError(f"scale is {scale!r}; give arcseconds per pixel, or None.") from error
    if not (np.isfinite(value) and value > 0):
        raise InputError(f"scale is {value:g}; give arcseconds per pixel, a positive number.")
    return value


def check_zero_point(
    zero_point, unit: units.UnitBase | None, num_bands: int
) -> tuple[float, ...] | None:
    """Return AB magnitudes of one image unit, one for each band."""
    if zero_point is None:
        return None
    values = numeric(zero_point, "zero_point").astype(np.float64)
    if values.ndim == 0:
        values = np.full(num_bands, values)
    if values.shape != (num_bands,):
        raise InputError(
            f"{values.size} zero point(s) for {num_bands} band(s); give one for each, or one "
            "number for all."
        )
    if not np.isfinite(values).all():
        raise InputError(f"zero_point is {values.tolist()}; give finite AB magnitudes or None.")
    if unit is not None and unit.is_equivalent(units.nJy):
        meant = NANOJANSKY_ZERO_POINT - 2.5 * np.log10(unit.to(units.nJy))
        if np.abs(values - meant).max() > _ZERO_POINT_TOLERANCE:
            raise InputError(
                f"the unit {unit} means a zero point of {meant:.2f}, but zero_point is "
                f"{values.tolist()}; give one of the two."
            )
    return tuple(values.tolist())
