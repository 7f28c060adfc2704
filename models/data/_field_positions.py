"""Positions of the sources of a field, whose image is never held as a whole."""

from types import SimpleNamespace

import numpy as np

from ._warnings import note, said_before
from .positions._light import PositionsWarning, displacement
from .positions._margins import FEW_PIXELS, check_margin, psf_fwhm
from .positions._positions import Positions
from .positions._reading import locate, read_positions

#: Pixels up to which a field is compared with a catalog as a whole.
_SMALL = 1024**2

#: Windows in which a large one is, their side in pixels, and fewest sources in each.
_LOOKS, _SIDE, _FEWEST = 4, 384, 5


def field_positions(catalog, field, margin: float | None = None) -> Positions:
    """Read positions of sources of a field; parameters are those of `Field.positions`."""
    if field.shape[0] * field.shape[1] <= _SMALL:
        return read_positions(catalog, field.whole(), margin=margin)
    chosen = check_margin(margin)
    if chosen is None:
        middle = field.psfs_at(field.shape[0] / 2, field.shape[1] / 2)
        chosen = max(FEW_PIXELS, psf_fwhm(middle))
    about = SimpleNamespace(
        shape=field.shape,
        wcs=field.wcs,
        pixel_scale=field.pixel_scale,
        views=(SimpleNamespace(observation=SimpleNamespace(corner=field.corner)),),
    )
    found = locate(catalog, about, chosen)
    said = [_compared(found, field, *corner) for corner in _places(found, field.shape)]
    if said and all(said):
        note(f"in a window of the field {said[0]}", PositionsWarning, to_results=False)
    return found


def _places(positions: Positions, shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Return corners of windows around sources that are spread over the catalog."""
    order = np.lexsort(positions.row_column.T)
    picked = positions.row_column[order[len(order) // (2 * _LOOKS) :: max(len(order) // _LOOKS, 1)]]
    corners = np.clip(np.round(picked - _SIDE / 2), 0, np.maximum(np.array(shape) - _SIDE, 0))
    return [(int(row), int(column)) for row, column in corners[:_LOOKS]]


def _compared(positions: Positions, field, row: int, column: int) -> str:
    """Return how positions in a window are not those of its light; empty if they can be."""
    there = positions.row_column - (row, column)
    inside = np.all((there >= 0) & (there < _SIDE), axis=1)
    if inside.sum() < _FEWEST:
        return ""
    obs = field.window(row, column, *np.minimum(_SIDE, field.shape))
    if not obs.num_pixels:
        return ""
    ids = tuple(positions.ids[number] for number in np.flatnonzero(inside))
    with said_before():
        return displacement(Positions(ids, there[inside], positions.is_point[inside]), obs)
