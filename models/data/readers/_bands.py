"""Stacking of bands from several files or images, after checking that they match."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from astropy import units
from astropy.table import Table
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_area

from scorepriors._errors import InputError
from scorepriors.models.data._checks import meant_zero_point

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
    #: Height and width of the image, where `images` hold a sample of its pixels.
    whole: tuple[int, int] | None = None
    #: Middle of the exposure, MJD.
    time: float | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        height, width = self.images.shape[1:] if self.whole is None else self.whole
        return height, width


def combine(parts: Sequence[BandPart], psfs: Any, name: str) -> dict[str, Any]:
    """Stack parts along the band axis after checking that they match.

    PSFs are as for ``Observation.from_arrays``.
    """
    parts = with_common_units(parts)
    first, known = parts[0], [part.zero_point is not None for part in parts]
    images, weights, wcs, with_wcs = [], [], None, first.label
    for part in parts:
        if part.shape != first.shape:
            raise InputError(
                f"{part.label} has {part.shape} pixels but {first.label} has {first.shape}; cut them to one size."
            )
        if part.wcs is not None:
            if wcs is None:
                wcs, with_wcs = part.wcs, part.label
            else:
                _check_same_wcs(part, part.wcs, wcs, with_wcs)
        factor = unit_factor(part, first)
        images.append(part.images * factor)
        weights.append(part.weights / factor**2)
    if any(known) and not all(known):
        missing = parts[known.index(False)].label
        raise InputError(
            f"{missing} has no MAGZERO card, but other bands have a zero point; add it, or say "
            "zero_point= (--zero-point) for all."
        )
    zero_point = None
    if all(known):
        # Zero points are converted as the images are, to the unit of the first.
        zero_point = tuple(
            float(zero + 2.5 * np.log10(unit_factor(part, first)))
            for part in parts
            for zero in part.zero_point or ()
        )
    bands = None
    if all(part.bands is not None for part in parts):
        bands = tuple(band for part in parts for band in part.bands or ())
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
        "time": next((part.time for part in parts if part.time is not None), None),
    }


def with_common_units(parts: Sequence[BandPart]) -> list[BandPart]:
    """Return parts whose units go together, or that have none where zero points tell all."""
    parts = [_with_zero_point(part, parts) for part in parts]
    known = all(part.zero_point is not None for part in parts)
    if known and not all(_convertible(part, parts[0]) for part in parts):
        # Zero points alone tell what a pixel of each band means.
        return [part._replace(unit=None) for part in parts]
    return parts


def _with_zero_point(part: BandPart, parts: Sequence[BandPart]) -> BandPart:
    """Return a part whose unit tells the zero point that others have from a card."""
    meant = meant_zero_point(part.unit)
    if part.zero_point is not None or meant is None or all(p.zero_point is None for p in parts):
        return part
    return part._replace(zero_point=(meant,) * len(part.images))


def _convertible(part: BandPart, first: BandPart) -> bool:
    if part.unit is None or first.unit is None:
        return part.unit is first.unit
    return part.unit == first.unit or part.unit.is_equivalent(first.unit)


def unit_factor(part: BandPart, first: BandPart) -> float:
    """Return the factor that brings pixels of a part to the unit of the first."""
    if part.unit == first.unit:
        return 1.0
    if part.unit is not None and first.unit is not None and _convertible(part, first):
        return float(part.unit.to(first.unit))
    raise InputError(
        f"{part.label} has the unit {part.unit} but {first.label} has {first.unit}; "
        "bring all bands to one unit."
    )


def _check_same_wcs(part: BandPart, own: WCS, wcs: WCS, label: str) -> None:
    """Refuse another place of the corners on the sky; those off the projection are left out."""
    height, width = part.shape
    x, y = np.array([0.0, width - 1, 0, width - 1]), np.array([0.0, 0, height - 1, height - 1])
    side = np.sqrt(proj_plane_pixel_area(wcs))
    distance = own.pixel_to_world(x, y).separation(wcs.pixel_to_world(x, y)).deg / side
    distance = distance[np.isfinite(distance)]
    if distance.size and distance.max() > _WCS_TOLERANCE:
        raise InputError(
            f"the WCS of {part.label} differs from that of {label} by {distance.max():.3g} pixels; "
            "resample the bands to one pixel grid."
        )
