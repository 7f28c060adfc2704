"""Checks of arrays, noise, masks and units, shared by `Observation` and its readers."""

import re
import warnings
from collections.abc import Sequence

import numpy as np
from astropy import units
from astropy.time import Time
from astropy.wcs import WCS

from scorepriors._errors import InputError
from scorepriors._surveys import NANOJANSKY_ZERO_POINT

from ._times import time_of_wcs

#: Largest disagreement in magnitudes between a unit and a zero point, one per cent.
_ZERO_POINT_TOLERANCE = 0.01


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


def noise_of_shape(noise, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Return noise ``[B, H, W]`` as float64; that of one band may lack its axis."""
    noise = numeric(noise, what)
    if noise.ndim == 2 and shape[0] == 1:
        noise = noise[None]
    if noise.shape != shape:
        raise InputError(
            f"{what} has the shape {noise.shape} but the images have {shape}; they must agree."
        )
    return noise.astype(np.float64)


def weights_from_noise(noise, kind: str, masked: np.ndarray, what: str) -> np.ndarray:
    """Return inverse variances, zero where `masked`, from `noise` of a given `kind`."""
    noise = noise_of_shape(noise, masked.shape, what)
    if kind == "weight":
        return np.where(masked, 0.0, noise)
    if kind == "deviation":
        # The sign is kept, so that negative standard deviations are still rejected.
        noise = np.sign(noise) * noise**2
    return weights_from_variance(noise, masked, what)


def broadcast_mask(masked: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Repeat a mask ``[H, W]`` for all bands; return one with the images' shape unchanged."""
    if masked.shape not in (shape, shape[1:]):
        raise InputError(
            f"mask has the shape {masked.shape} but the images have {shape}; "
            f"give {shape} or {shape[1:]}."
        )
    return np.broadcast_to(masked, shape)


#: Units as headers spell them, of which astropy supports another spelling alone.
_SPELLINGS = {
    r"\bcounts?\b|\bcnts?\b|\bcts\b": "ct",
    r"\belectrons?\b|\be-(?!\d)|\be\b": "electron",
    r"\bphotons?\b": "ph",
    r"\bmaggies\b": "maggy",
    r"\bnanomaggies\b": "nanomaggy",
    r"\bmicro-?(jy|jansky)s?\b|\bmujy\b|\bujy\b|\bµjy\b": "uJy",
    r"\bnano-?(jy|jansky)s?\b|\bnjy\b": "nJy",
    r"\bjanskys?\b|\bjy\b": "Jy",
    r"\bcps\b": "ct/s",
    r"\beps\b": "electron/s",
    r"\bseconds?\b|\bsecs?\b": "s",
    r"\bpixels?\b": "pix",
}


def parse_unit(unit) -> units.UnitBase | None:
    """Parse a unit; unknown words become units that can't be converted.

    Headers spell ``ADU``, ``counts`` and ``ELECTRONS/S`` as they like: capitals and plurals
    that astropy does not support are accepted.  Flux densities per pixel are flux densities.
    """
    if unit is None or isinstance(unit, units.UnitBase):
        return unit
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", units.UnitsWarning)
            found = units.Unit(unit, parse_strict="silent")
            if isinstance(found, units.UnrecognizedUnit):
                plain = str(unit).lower()
                for written, usual in _SPELLINGS.items():
                    plain = re.sub(written, usual, plain)
                # All in capitals it is no millijansky, of which nobody writes per steradian.
                plain = re.sub(r"\bmjy(?=\W*sr)", "MJy", plain)
                usual = units.Unit(plain, parse_strict="silent")
                found = found if isinstance(usual, units.UnrecognizedUnit) else usual
    except (TypeError, ValueError) as error:
        raise InputError(f"{unit!r} is not a unit; give an astropy unit such as 'nJy'.") from error
    known = isinstance(found, units.UnitBase) and not isinstance(found, units.UnrecognizedUnit)
    if known and (found * units.pix).is_equivalent(units.nJy):
        found = found * units.pix
    return found


def meant_zero_point(
    unit: units.UnitBase | None, area: float | None = None, wavelength: float | None = None
) -> float | None:
    """Return the AB magnitude of one unit of a pixel, if the unit tells it; else None.

    Parameters
    ----------
    unit
        Unit of a pixel.
    area
        Area of a pixel in steradians, which surface brightnesses need.
    wavelength
        Pivot wavelength in Angstrom, which flux densities per wavelength need.
    """
    if not isinstance(unit, units.UnitBase) or isinstance(unit, units.UnrecognizedUnit):
        return None
    if unit.is_equivalent(units.mgy):
        return float(-2.5 * np.log10(unit.to(units.mgy)))
    if area is not None and (unit * units.sr).is_equivalent(units.nJy):
        janskys = area * unit.to(units.nJy / units.sr)
    elif wavelength and unit.is_equivalent(units.erg / units.s / units.cm**2 / units.AA):
        janskys = unit.to(units.nJy, equivalencies=units.spectral_density(wavelength * units.AA))
    elif unit.is_equivalent(units.nJy):
        janskys = unit.to(units.nJy)
    else:
        return None
    return float(NANOJANSKY_ZERO_POINT - 2.5 * np.log10(janskys))


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


def default_bands(num_bands: int) -> tuple[str, ...]:
    """Return names for bands that have none."""
    return tuple(f"band{number}" for number in range(num_bands))


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
    """Return checked float32 images and weights; images are zero under weight zero.

    Raises
    ------
    InputError
        As `single_precision` does, and if there is no weight at all.
    """
    images, weights = single_precision(images, weights, bands)
    if not weights.any():
        raise InputError("all pixels of all bands are masked; there is nothing to fit.")
    return images, weights


def single_precision(
    images: np.ndarray, weights: np.ndarray, bands: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 images and weights; images are zero under weight zero.

    Raises
    ------
    InputError
        If shapes differ, for weights that are negative or no numbers, for pixels that are no
        numbers under a positive weight, and for values that do not fit.
    """
    if weights.shape != images.shape:
        raise InputError(
            f"weights have the shape {weights.shape} but the images have {images.shape}; "
            "they must agree."
        )
    weights = weights.astype(np.float64, copy=False)
    for problem, bad in {"NaN or infinite": ~np.isfinite(weights), "negative": weights < 0}.items():
        if bad.any():
            raise InputError(
                f"{bad.sum()} weight(s) are {problem}, {where_first(bad, bands)}; "
                "set them to 0 to mask those pixels."
            )
    used = weights > 0
    bad = used & ~np.isfinite(images)
    if bad.any():
        raise InputError(
            f"{bad.sum()} pixel(s) are NaN or infinite under positive weight, "
            f"{where_first(bad, bands)}; set their weight to 0."
        )
    images = np.where(used, images, 0)
    images = images if images.dtype == np.float32 else images.astype(np.float64, copy=False)
    limits = np.finfo(np.float32)
    # Below `tiny` single precision has denormals only, which accelerators flush to zero.
    small = weights.min(initial=np.inf, where=used)
    large = max(weights.max(), np.abs(images).max())
    if small < limits.tiny or large > limits.max:
        raise InputError(
            f"pixels or weights do not fit single precision (smallest weight {small:.3g}, "
            f"largest value {large:.3g}); choose another unit for the images."
        )
    return images.astype(np.float32, copy=False), weights.astype(np.float32)


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


def check_time(time, wcs: WCS | None = None) -> float | None:
    """Return a time in MJD as a number, or that of a WCS; `InputError` if it is none."""
    if time is None:
        return None if wcs is None else time_of_wcs(wcs)
    if isinstance(time, Time):
        time = time.mjd
    try:
        value = float(time)
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise InputError(f"`time` must be an MJD or an astropy Time, got {time!r}.")
    return value


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
    meant = meant_zero_point(unit)
    if meant is not None and np.abs(values - meant).max() > _ZERO_POINT_TOLERANCE:
        raise InputError(
            f"the unit {unit} means a zero point of {meant:.2f}, but zero_point is "
            f"{values.tolist()}; give one of the two."
        )
    return tuple(values.tolist())
