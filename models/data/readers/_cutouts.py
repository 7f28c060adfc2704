"""Cutting of a part of a large image about a position, reading nothing else."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_area

from scorepriors._errors import InputError
from scorepriors.models.data._warnings import note

from ._files import Box, Extension
from ._options import FileOptions


class Cut(NamedTuple):
    """Part of an image, and which of its pixels are read.

    Attributes
    ----------
    whole
        Height and width of the whole image.
    box
        Rows and columns of the part; None for the whole image.
    wcs
        WCS of the part.
    boxes
        Boxes in the whole image whose pixels are read, one beside the other; None for all of the
        part.
    """

    whole: tuple[int, int]
    box: Box | None
    wcs: WCS | None
    boxes: tuple[Box, ...] | None = None

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column of the part's first pixel in the whole image."""
        return (0, 0) if self.box is None else (self.box[0].start, self.box[1].start)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the part."""
        if self.box is None:
            return self.whole
        height, width = (along.stop - along.start for along in self.box)
        return height, width

    def at(self, boxes: Sequence[Box] | None) -> "Cut":
        """Return the cut that reads only boxes, which are given in pixels of the part."""
        if boxes is None:
            return self
        moved = tuple(
            (_moved(rows, self.corner[0]), _moved(columns, self.corner[1]))
            for rows, columns in boxes
        )
        return self._replace(boxes=moved)

    def of(self, extension: Extension, what: str) -> np.ndarray:
        """Read the same pixels of another HDU, whose shape must be that of the image."""
        shape = (extension.shape or ())[-2:]
        one = self.box if self.boxes is None else self.boxes
        if one is not None and shape != self.whole:
            raise InputError(
                f"{what} has {shape} pixels but the image has {self.whole}; they must agree."
            )
        if self.boxes is None:
            return extension.pixels(self.box)
        return extension.pixels_of(self.boxes)

    def each(self, function: Callable[["Cut"], np.ndarray]) -> np.ndarray:
        """Return the values of a function that looks at neighbors, pixel by pixel."""
        if self.boxes is None:
            return function(self)
        rows, columns = self.box or (slice(0, self.whole[0]), slice(0, self.whole[1]))
        parts = []
        for box in self.boxes:
            wide = _grown(box[0], rows), _grown(box[1], columns)
            inside = [_moved(one, -more.start) for one, more in zip(box, wide, strict=True)]
            parts.append(function(self._replace(boxes=(wide,)))[..., inside[0], inside[1]])
        return np.concatenate(parts, axis=-1)


def _moved(along: slice, by: int) -> slice:
    return slice(along.start + by, along.stop + by)


def _grown(along: slice, within: slice) -> slice:
    return slice(max(along.start - 1, within.start), min(along.stop + 1, within.stop))


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
    return Cut((height, width), box, wcs.slice(box))
