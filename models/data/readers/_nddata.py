"""Observations from astropy's NDData and CCDData."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy.nddata import InverseVariance, NDData, StdDevUncertainty, VarianceUncertainty
from astropy.wcs import WCS

from scorepriors._errors import InputError
from scorepriors.models.data._checks import broadcast_mask, numeric, weights_from_noise

from ._bands import BandPart, combine


def read_nddata(
    images: NDData | Sequence[NDData], psfs, bands: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return arguments of ``Observation.from_arrays`` from one NDData or CCDData per band."""
    if not isinstance(images, list | tuple):
        images = [images]
    if not images:
        raise InputError("no images given; give a list with one NDData per band.")
    parts = [_nddata_part(number, image) for number, image in enumerate(images)]
    arguments = combine(parts, psfs, name="")
    if bands is not None:
        arguments["bands"] = tuple(bands)
    return arguments


def _nddata_part(number: int, image) -> BandPart:
    label = f"image {number}"
    if not isinstance(image, NDData):
        raise InputError(f"{label} is of the type {type(image).__name__}; give NDData or CCDData.")
    data = numeric(image.data, label)
    if data.ndim != 2:
        raise InputError(f"{label} has the shape {data.shape}; give one 2-D NDData per band.")
    kinds = {StdDevUncertainty: ("deviation", 1), VarianceUncertainty: ("variance", 2)}
    kinds[InverseVariance] = ("weight", -2)
    uncertainty = image.uncertainty
    if type(uncertainty) not in kinds:
        raise InputError(
            f"{label} has {'no' if uncertainty is None else 'an unknown kind of'} uncertainty; "
            "give a StdDevUncertainty, VarianceUncertainty or InverseVariance."
        )
    kind, power = kinds[type(uncertainty)]
    noise = numeric(uncertainty.array, f"the uncertainty of {label}")
    if uncertainty.unit is not None and image.unit is not None:
        noise = noise * float(uncertainty.unit.to(image.unit**power))
    masked = np.zeros(data.shape, bool) if image.mask is None else np.asarray(image.mask) != 0
    wcs = image.wcs
    if wcs is not None and not isinstance(wcs, WCS):
        raise InputError(
            f"{label} has a WCS of the type {type(wcs).__name__}; give an astropy.wcs.WCS "
            "(slices of CCDData keep it, those of other NDData do not)."
        )
    meta = image.meta or {}
    band = next((str(meta[key]) for key in ("FILTER", "BAND") if meta.get(key)), None)
    shape = (1, *data.shape)
    return BandPart(
        label=label,
        images=data[None],
        weights=weights_from_noise(
            noise,
            kind,
            broadcast_mask(np.broadcast_to(masked, data.shape), shape),
            f"the uncertainty of {label}",
        ),
        psfs=None,
        bands=None if band is None else (band,),
        wcs=wcs,
        unit=image.unit,
        zero_point=None,
        catalog=None,
    )
