"""Positions of sources in the pixels of an observation, from catalogs of many kinds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table
from scipy.spatial import cKDTree

from scorepriors._errors import InputError
from scorepriors.models.data._joint import JointObservation
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import note

from ._columns import by_lower_name
from ._ids import find_ids
from ._kinds import find_stars
from ._light import PositionsWarning, displacement
from ._margins import check_margin, in_reach, say_reach
from ._motions import say_motion
from ._places import Places, coordinates_missing, find_places
from ._positions import Positions
from ._rows import real_rows
from ._tables import as_table

#: Smallest distance of two sources that can be distinguished, pixels.
_MIN_DISTANCE = 0.5


def read_positions(
    source: str | Path | Table | SkyCoord | Mapping | np.ndarray | Sequence | Any,
    obs: Observation | JointObservation,
    *,
    margin: float | None = None,
) -> Positions:
    """Read positions of sources and check them against an observation.

    Parameters
    ----------
    source
        File (CSV, ECSV, TSV, text, SExtractor, SourceXtractor++, FITS, LDAC, VOTable, Parquet, npz,
        npy, or regions of ds9), or a Table, SkyCoord, DataFrame, dictionary, structured array,
        catalog of photutils or regions; or an array ``[K, 2]`` of (x, y) pixels.  Names of
        columns, in any case:

        - ``x, y`` (``xcentroid, ycentroid``, ...): 0-based pixels, x along columns;
        - ``X_IMAGE, Y_IMAGE`` (``XWIN_IMAGE``, ``pixel_centroid_x``, ...): 1-based as in FITS; one
          is subtracted;
        - ``sky`` or ``coord``: a SkyCoord column;
        - ``ra, dec`` (``ALPHA_J2000``, ``RIGHT_ASCENSION``, ``coord_ra``, ...): in the column's unit
          or else degrees, or sexagesimal text.

        Where pixels and the sky contradict each other those on the sky are taken, with a warning.
        Optional: ``id``; ``is_star`` (true or false) or ``type`` ("star" against "galaxy", or
        Tractor's).
    obs
        Observation with the image size, and the WCS for positions on the sky.
    margin
        Largest distance of a source beyond the image's edge, pixels.  If not given, sources whose
        light reaches into the image are kept: by the catalog's brightness, or else within a few
        pixels.

    Returns
    -------
    Positions
        Positions in the order of the table.

    Raises
    ------
    InputError
        If there are no rows or no usable columns, or if positions are not finite, all outside the
        image, or closer to each other than half a pixel.

    Warns
    -----
    FileWarning
        About rows that were left out, and choices between columns.
    PositionsWarning
        If the positions are not those of the image: all are off by one vector, or its bright sources
        have none.

    Examples
    --------
    >>> import numpy as np
    >>> from scorepriors.models import Observation
    >>> pixels = np.ones((1, 20, 30))
    >>> obs = Observation.from_arrays(pixels, variance=pixels, psfs=np.ones((1, 1)))
    >>> read_positions([(25.0, 4.0)], obs).row_column
    array([[ 4., 25.]])
    >>> read_positions({"name": ["a"], "X_IMAGE": [26.0], "Y_IMAGE": [5.0]}, obs).ids
    ('a',)
    """
    found = locate(source, obs, margin)
    displaced = displacement(found, obs)
    if displaced:
        note(displaced, PositionsWarning, to_results=False)
    return found


def locate(source, obs, margin: float | None) -> Positions:
    """Read positions as `read_positions` does, without comparing them with the light.

    With a `margin` the observation needs no pixels: `shape`, `wcs`, `pixel_scale` and the corner
    of its first view suffice.
    """
    margin = check_margin(margin)
    table = as_table(source)
    if len(table) == 0:
        raise InputError("the catalog has no rows; give the position of at least one source.")
    columns = by_lower_name(table.colnames)
    rows = np.flatnonzero(real_rows(table, columns))
    if not rows.size:
        raise InputError("the catalog has no rows of sources; all are duplicates or blends.")
    table = table[rows]
    places = find_places(table, columns, obs)
    coordinates_missing(places, _labels(table, columns, rows))
    reach = in_reach(places.row_column, table, columns, obs, margin)
    if not reach.kept.any():
        raise InputError(_all_outside(places, _labels(table, columns, rows), obs.shape))
    say_reach(reach, margin)
    table, rows = table[reach.kept], rows[reach.kept]
    say_motion(table, columns, obs.pixel_scale)
    row_column = places.row_column[reach.kept]
    ids = find_ids(table, columns, rows)
    is_point = find_stars(table, columns, ids)
    _check_distances(row_column, ids, is_point)
    return Positions(ids, row_column, is_point)


def _labels(table: Table, columns: dict[str, str], rows: np.ndarray) -> Sequence[str]:
    """Return names of sources for messages, whether they are all different or not."""
    try:
        return find_ids(table, columns, rows.tolist())
    except InputError:
        return [str(row) for row in rows]


def _all_outside(places: Places, ids: Sequence[str], shape: tuple[int, int]) -> str:
    row, column = places.row_column[0]
    where = (
        f"(x = {column:.2f}, y = {row:.2f})"
        if np.isfinite(row + column)
        else "a place far from it on the sky"
    )
    return (
        f"{len(ids)} of {len(ids)} source(s) are outside the image of {shape[1]} x {shape[0]} "
        f"pixels, first source {ids[0]!r} at {where}; check that the catalog is of this field, its "
        f"columns ({places.names} were taken) and the WCS."
    )


def _check_distances(row_column: np.ndarray, ids: tuple[str, ...], is_point: np.ndarray) -> None:
    """Refuse sources at one place, but for a star in a galaxy, such as an active nucleus."""
    pairs = cKDTree(row_column).query_pairs(_MIN_DISTANCE, output_type="ndarray")
    distances = np.hypot(*(row_column[pairs[:, 0]] - row_column[pairs[:, 1]]).T)
    alike = is_point[pairs[:, 0]] == is_point[pairs[:, 1]]
    close = pairs[(distances < _MIN_DISTANCE) & alike]
    if len(close):
        first, second = close[np.lexsort(close.T[::-1])[0]]
        raise InputError(
            f"{len(close)} pair(s) of sources are at the same place (closer than "
            f"{_MIN_DISTANCE} pixel), first {ids[first]!r} and {ids[second]!r}; keep one of each."
        )
