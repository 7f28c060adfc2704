"""Cutting of a part of a large image about a position, reading nothing else."""

from typing import NamedTuple

import numpy as np
from astropy.wcs import WCS, DistortionLookupTable
from astropy.wcs.utils import proj_plane_pixel_area

from scorepriors._errors import InputError
from scorepriors.models.data._warnings import note

from ._files import Extension
from ._options import FileOptions


class Cut(NamedTuple):
    """Part of an image.

    Attributes
    ----------
    shape
        Height and width of the whole image.
    box
        Rows and columns of the part; None for the whole image.
    wcs
        WCS of the part.
    """

    shape: tuple[int, int]
    box: tuple[slice, slice] | None
    wcs: WCS | None

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column of the part's first pixel in the whole image."""
        return (0, 0) if self.box is None else (self.box[0].start, self.box[1].start)

    def of(self, extension: Extension, what: str) -> np.ndarray:
        """Read the same part of another HDU, whose pixels must be those of the image."""
        shape = (extension.shape or ())[-2:]
        if self.box is not None and shape != self.shape:
            raise InputError(
                f"{what} has {shape} pixels but the image has {self.shape}; they must agree."
            )
        return extension.pixels(self.box)


def cut_box(options: FileOptions, wcs: WCS | None, shape: tuple[int, ...], where: str) -> Cut:
    """Return the part of an image that `position` and `size` ask for.

    Raises
    ------
    InputError
        If there is no WCS, or if the position is outside the image.
    """
    height, width = int(shape[-2]), int(shape[-1])
    if options.position is None:
        return Cut((height, width), None, wcs)
    if wcs is None:
        raise InputError(f"{where} has no WCS to cut by; leave out position= and size=.")
    center = options.center
    try:
        column, row = (float(value) for value in wcs.world_to_pixel(center))
    except Exception:  # astropy's NoConvergence, far outside of the image
        column = row = np.nan
    if not (-0.5 <= row < height - 0.5 and -0.5 <= column < width - 0.5):
        place = "" if np.isnan(row) else f" (it would be at row {row:.0f}, column {column:.0f})"
        raise InputError(
            f"the position {center.icrs.ra.deg:.6g}, {center.icrs.dec.deg:.6g} is outside {where}"
            f"{place}; choose one within it."
        )
    side = round(options.side / 3600 / np.sqrt(proj_plane_pixel_area(wcs)))
    if side < 1:
        raise InputError(f"size is {options.side:g} arcsec, less than a pixel of {where}.")
    starts = [int(np.floor(at - side / 2 + 1)) for at in (row, column)]
    first = [max(start, 0) for start in starts]
    last = [min(start + side, size) for start, size in zip(starts, (height, width))]
    if (last[0] - first[0], last[1] - first[1]) != (side, side):
        note(
            f"{where} ends within the part that was asked for, which is "
            f"{last[0] - first[0]} x {last[1] - first[1]} instead of {side} x {side} pixels."
        )
    box = slice(first[0], last[0]), slice(first[1], last[1])
    return Cut((height, width), box, _cut_wcs(wcs, box))


def _cut_wcs(wcs: WCS, box: tuple[slice, slice]) -> WCS:
    """Return the WCS of a part; astropy's slices leave lookup tables of distortions in place."""
    part = wcs.slice(box)
    row, column = box[0].start, box[1].start
    for name in ("cpdis1", "cpdis2", "det2im1", "det2im2"):
        table = getattr(wcs, name)
        if table is not None:
            place = table.crval[0] - column, table.crval[1] - row
            moved = DistortionLookupTable(
                np.array(table.data), tuple(table.crpix), place, tuple(table.cdelt)
            )
            setattr(part, name, moved)
    return part
