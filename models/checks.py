"""Checks of arrays, noise, masks and units, shared by `Observation` and its readers."""

import warnings
from collections.abc import Sequence

import numpy as np
from astropy import units
from astropy.io import fits

from scorepriors.errors import InputError

#: Bits that make a pixel unusable in masks of the Rubin and HSC pipelines, by plane.
#: The planes DETECTED (5) and DETECTED_NEGATIVE (6) mark the sources themselves, and
#: planes from 9 on differ between releases, so neither is here.
BAD_PLANES = {"BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "EDGE": 4, "SUSPECT": 7, "NO_DATA": 8}


def numeric(array, what: str) -> np.ndarray:
    """Turn `array` into a real numeric numpy array, or say that `what` is none."""
    try:
        array = np.asarray(array)
    except ValueError as error:
        raise InputError(f"{what} is ragged: give an array with rows of one length.") from error
    if array.dtype.kind not in "fiub":
        raise InputError(f"{what} has the type {array.dtype}; give an array of real numbers.")
    return array


def where_first(bad: np.ndarray, bands: Sequence[str] | None = None) -> str:
    """Name the first true pixel of a mask ``[B, H, W]``, for a message."""
    band, row, column = np.argwhere(bad)[0]
    band = f"{bands[band]!r}" if bands else f"{band}"
    return f"first at (band {band}, row {row}, column {column})"


def weights_from_variance(
    variance, masked: np.ndarray, what: str = "variance", bands: Sequence[str] | None = None
) -> np.ndarray:
    """Inverse variance; zero where `masked` and where the variance is infinite.

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
        problems = {
            "NaN": np.isnan(variance),
            "negative": variance < 0,
            "zero": variance == 0,
        }
    for problem, bad in problems.items():
        if bad.any():
            raise InputError(
                f"{what} is {problem} at {bad.sum()} unmasked pixel(s), "
                f"{where_first(bad, bands)}; mask such pixels."
            )
    return 1 / variance


def weights_from_noise(noise, kind: str, masked: np.ndarray, what: str) -> np.ndarray:
    """Inverse variance, zero where `masked`; `kind` says what `noise` is."""
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
        # The sign survives, so that a negative deviation is refused, not squared away.
        noise = np.sign(noise) * noise**2
    return weights_from_variance(noise, masked, what)


def masked_pixels(mask, header: fits.Header | None = None, what: str = "MASK") -> np.ndarray:
    """Which pixels a mask from a file rules out.

    A mask of booleans or of 0 and 1 is taken as it is.  Integers with other values are
    bit masks: pipelines also flag pixels on which a source was *detected*, and those
    must stay.  The bits come from the ``MP_<plane>`` cards of the header (Rubin, HSC)
    and are BAD, SAT, INTRP, CR, EDGE, SUSPECT and NO_DATA; without such cards their
    usual numbers are assumed, and a UserWarning says so.
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
    """Repeat a mask ``[H, W]`` for all bands; one with the images' shape stays as it is."""
    if masked.shape not in (shape, shape[1:]):
        raise InputError(
            f"mask has the shape {masked.shape} but the images have {shape}; "
            f"give {shape} or {shape[1:]}."
        )
    return np.broadcast_to(masked, shape)


def parse_unit(unit) -> units.UnitBase | None:
    """Parse a unit; unknown words are kept as they are, without a meaning."""
    if unit is None or isinstance(unit, units.UnitBase):
        return unit
    try:
        return units.Unit(unit, parse_strict="silent")
    except (TypeError, ValueError) as error:
        raise InputError(f"{unit!r} is not a unit; give an astropy unit such as 'nJy'.") from error
