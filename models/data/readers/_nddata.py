"""Observations from astropy's NDData and CCDData."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy import units
from astropy.io import fits
from astropy.nddata import Cutout2D, InverseVariance, NDData, StdDevUncertainty, VarianceUncertainty
from astropy.wcs import WCS

from scorepriors._errors import InputError
from scorepriors.models.data._checks import broadcast_mask, numeric, parse_unit
from scorepriors.models.data._times import middle_of_exposure

from ._bands import BandPart, combine
from ._cards import header_bands, header_unit, header_zero_point, number, pixel_area
from ._masks import masked_pixels
from ._noise import file_weights

#: Kinds of uncertainties, and the power of the image's unit in theirs.
_KINDS = {
    StdDevUncertainty: ("deviation", 1),
    VarianceUncertainty: ("variance", 2),
    InverseVariance: ("ivar", -2),
}


def read_nddata(
    images: NDData | Sequence[NDData], psfs, bands: Sequence[str] | None = None, time=None
) -> dict[str, Any]:
    """Return arguments of ``Observation.from_arrays`` from one NDData or CCDData per band."""
    if not isinstance(images, list | tuple):
        images = [images]
    if not images:
        raise InputError("no images given; give a list with one NDData per band.")
    parts = [
        _nddata_part(order, image, len(images) == 1, bands) for order, image in enumerate(images)
    ]
    arguments = combine(parts, psfs, name="")
    if bands is not None:
        arguments["bands"] = (bands,) if isinstance(bands, str) else tuple(bands)
    if time is not None:
        arguments["time"] = time
    return arguments


def _nddata_part(order: int, image, alone: bool, bands) -> BandPart:
    label = f"image {order}"
    if isinstance(image, Cutout2D):
        raise InputError(
            f"{label} is a Cutout2D, which keeps neither noise nor mask; cut CCDData by slices, "
            "as ccd[10:58, 20:68]."
        )
    if not isinstance(image, NDData):
        raise InputError(f"{label} is of the type {type(image).__name__}; give NDData or CCDData.")
    data = numeric(image.data, label)
    if data.ndim != 2 and not (alone and data.ndim == 3):
        raise InputError(f"{label} has the shape {data.shape}; give one 2-D NDData per band.")
    images = data.reshape((-1, *data.shape[-2:]))
    header = _header(image.meta)
    unit = parse_unit(image.unit) if image.unit is not None else header_unit(header)
    noise, kind = _noise(image, unit, data.shape, label)
    wcs = image.wcs
    if wcs is not None and not isinstance(wcs, WCS):
        raise InputError(
            f"{label} has a WCS of the type {type(wcs).__name__}; give an astropy.wcs.WCS "
            "(slices of CCDData keep it, those of other NDData do not)."
        )
    celestial = wcs is not None and wcs.has_celestial
    masked = np.zeros(data.shape, bool)
    if image.mask is not None:
        mask = np.asarray(image.mask)
        masked = np.broadcast_to(masked_pixels(mask, what=f"the mask of {label}"), data.shape)
    return BandPart(
        label=label,
        images=images,
        weights=file_weights(
            images,
            noise,
            kind,
            broadcast_mask(masked, data.shape).reshape(images.shape),
            what=f"the uncertainty of {label}",
            where=label,
            header=header,
            noise_header=fits.Header(),
            alone=alone,
        ),
        psfs=None,
        bands=None if bands is not None else header_bands(header, len(images)),
        wcs=wcs if celestial else None,
        unit=unit,
        zero_point=header_zero_point(
            header, len(images), unit, pixel_area(header, wcs if celestial else None, unit)
        ),
        catalog=None,
        scale=number(header, "PIXSCALE") if not celestial else None,
        time=middle_of_exposure(header),
    )


def _header(meta: Mapping[str, Any] | None) -> fits.Header:
    """Return the metadata that a header can hold: texts, numbers and booleans by name."""
    if isinstance(meta, fits.Header):
        return meta
    header = fits.Header()
    for name, value in (meta or {}).items():
        if isinstance(name, str) and isinstance(value, str | int | float | np.number):
            try:
                header[name if len(name) <= 8 else f"HIERARCH {name}"] = value
            except (ValueError, TypeError):
                continue  # a text that no header holds is none of its cards
    return header


def _noise(image: NDData, unit: units.UnitBase | None, shape, label: str):
    """Return the uncertainty in the image's unit, and its kind."""
    uncertainty = image.uncertainty
    if type(uncertainty) not in _KINDS:
        raise InputError(
            f"{label} has {'no' if uncertainty is None else 'an unknown kind of'} uncertainty; "
            "give a StdDevUncertainty, VarianceUncertainty or InverseVariance."
        )
    kind, power = _KINDS[type(uncertainty)]
    noise = numeric(uncertainty.array, f"the uncertainty of {label}")
    if uncertainty.unit is not None and unit is not None:
        noise = noise * float(uncertainty.unit.to(unit**power))
    return np.broadcast_to(noise, shape) if noise.ndim == 0 else noise, kind
