"""Stacking of bands from several files or images, after checking that they match."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from astropy import units
from astropy.table import Table
from astropy.wcs import WCS

from scorepriors._errors import InputError

#: Largest disagreement of two WCS at the corners, pixels.
_WCS_TOLERANCE = 0.1


class BandPart(NamedTuple):
    """Content of one file or one NDData: some bands of the observation."""

    label: str
    images: np.ndarray
    weights: np.ndarray
    psfs: Any
    bands: tuple[str, ...] | None
    wcs: WCS | None
    unit: units.UnitBase | None
    zero_point: tuple[float, ...] | None
    catalog: Table | None
    scale: float | None = None


def combine(parts: Sequence[BandPart], psfs: Any, name: str) -> dict[str, Any]:
    """Stack parts along the band axis after checking that they match.

    PSFs are as for ``Observation.from_arrays``; None takes those of the parts.
    """
    first = parts[0]
    images, weights, wcs = [], [], None
    for part in parts:
        if part.images.shape[1:] != first.images.shape[1:]:
            raise InputError(
                f"{part.label} has {part.images.shape[1:]} pixels but {first.label} has "
                f"{first.images.shape[1:]}; cut them to one size."
            )
        if part.wcs is not None:
            wcs = part.wcs if wcs is None else wcs
            _check_same_wcs(part, part.wcs, wcs, first.label)
        factor = _unit_factor(part, first)
        images.append(part.images * factor)
        weights.append(part.weights / factor**2)
    known = [part.zero_point is not None for part in parts]
    if any(known) and not all(known):
        missing = parts[known.index(False)].label
        raise InputError(f"{missing} has no MAGZERO card, but other bands have one; add it.")
    zero_point = None
    if all(known):
        # Zero points are converted as the images are, to the unit of the first.
        zero_point = tuple(
            float(zero + 2.5 * np.log10(_unit_factor(part, first)))
            for part in parts
            for zero in part.zero_point or ()
        )
    bands = None
    if all(part.bands is not None for part in parts):
        bands = tuple(band for part in parts for band in part.bands or ())
    if psfs is None:
        psfs = first.psfs if len(parts) == 1 else [part.psfs for part in parts]
    return {
        "images": np.concatenate(images),
        "weights": np.concatenate(weights),
        "psfs": psfs,
        "bands": bands,
        "wcs": wcs,
        "unit": first.unit,
        "zero_point": zero_point,
        "name": name,
        "catalog": next((part.catalog for part in parts if part.catalog is not None), None),
        "scale": first.scale,
    }


def _unit_factor(part: BandPart, first: BandPart) -> float:
    if part.unit == first.unit:
        return 1.0
    if part.unit is not None and first.unit is not None and part.unit.is_equivalent(first.unit):
        return float(part.unit.to(first.unit))
    raise InputError(
        f"{part.label} has the unit {part.unit} but {first.label} has {first.unit}; "
        "bring all bands to one unit."
    )


def _check_same_wcs(part: BandPart, own: WCS, wcs: WCS, label: str) -> None:
    height, width = part.images.shape[1:]
    x, y = np.array([0.0, width - 1, 0, width - 1]), np.array([0.0, 0, height - 1, height - 1])
    try:
        there = wcs.world_to_pixel(own.pixel_to_world(x, y))
        distance = np.hypot(there[0] - x, there[1] - y).max()
    except Exception:  # astropy's NoConvergence, or points behind the projection
        distance = np.inf
    if not distance <= _WCS_TOLERANCE:
        raise InputError(
            f"the WCS of {part.label} differs from that of {label} by {distance:.3g} pixels; "
            "resample the bands to one pixel grid."
        )
