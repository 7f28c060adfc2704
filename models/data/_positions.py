"""Positions of sources in the pixels of an observation, from catalogs of many kinds."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.table import Table
from scipy.spatial import cKDTree

from scorepriors._errors import InputError
from scorepriors.models.data.readers._files import (
    FITS_ENDINGS,
    NPZ_ENDINGS,
    check_file,
    load_hdus,
    load_npz,
)
from scorepriors.models.data.readers._npz_files import plain_catalog

from ._checks import numeric
from ._observation import Observation

#: Column names of pixel positions (lower case), and the number of the first pixel.
_PIXEL_COLUMNS = (
    ("x", "y", 0),
    ("xcentroid", "ycentroid", 0),
    ("x_centroid", "y_centroid", 0),
    ("x_pixel", "y_pixel", 0),
    ("xpix", "ypix", 0),
    ("xwin_image", "ywin_image", 1),
    ("x_image", "y_image", 1),
)

#: Column names of sky positions.
_SKY_COLUMNS = (
    ("ra", "dec"),
    ("alpha_j2000", "delta_j2000"),
    ("alphawin_j2000", "deltawin_j2000"),
    ("raj2000", "dej2000"),
    ("ra_icrs", "de_icrs"),
    ("coord_ra", "coord_dec"),
)

_COORDINATE_COLUMNS = ("sky", "coord", "skycoord", "sky_centroid")
_ID_COLUMNS = ("id", "source_id", "number")
_STAR_COLUMNS = ("is_star", "is_point")
_POINT_TYPES = ("star", "point", "psf")
_EXTENDED_TYPES = ("galaxy", "extended")

#: Format for `Table.read`, by ending.
_TABLE_FORMATS = {".ecsv": "ascii.ecsv", ".csv": "ascii.csv", ".txt": "ascii", ".dat": "ascii"}

#: Smallest distance of two sources that can be distinguished, pixels.
_MIN_DISTANCE = 0.5


@dataclass(frozen=True, eq=False)
class Positions:
    """Positions of sources, and which of them are points.

    Attributes
    ----------
    ids
        Names of the sources, all different.
    row_column
        Positions ``[K, 2]``, float64, 0-based (row, column), that is (y, x); integers are the
        centers of pixels.
    is_point
        Booleans ``[K]``, true for stars.
    """

    ids: tuple[str, ...]
    row_column: np.ndarray
    is_point: np.ndarray

    def __len__(self) -> int:
        """Return the number of sources K."""
        return len(self.ids)


def read_positions(
    source: str | Path | Table | np.ndarray | Sequence, obs: Observation, *, margin: float = 0.0
) -> Positions:
    """Read positions of sources and check them against an observation.

    Parameters
    ----------
    source
        File (``.ecsv``, ``.csv``, ``.txt``, ``.dat``, FITS table, or ``.npz`` with an
        array ``catalog``), an astropy Table, or an array ``[K, 2]`` of (x, y) pixels.
        Column names, in any case and in this order of preference:

        - ``x, y`` (or ``xcentroid, ycentroid``; ``x_pixel, y_pixel``): 0-based pixels,
          x along columns;
        - ``X_IMAGE, Y_IMAGE`` (or ``XWIN_IMAGE, YWIN_IMAGE``): SExtractor's, 1-based as
          in FITS; one is subtracted;
        - ``sky`` or ``coord``: a SkyCoord column;
        - ``ra, dec`` (or ``ALPHA_J2000, DELTA_J2000``): ICRS, in the column's unit or
          else degrees.

        Optional: ``id``; ``is_star`` (true or false) or ``type`` ("star" or "point"
        against "galaxy" or "extended").
    obs
        Observation with the image size, and the WCS for positions on the sky.
    margin
        Largest distance of a source beyond the image's edge, pixels.

    Returns
    -------
    Positions
        Positions in the order of the table.

    Raises
    ------
    InputError
        If there are no rows or no usable columns, or if positions are not finite, outside
        the image, or closer to each other than half a pixel.

    Examples
    --------
    >>> import numpy as np
    >>> from scorepriors.models import Observation
    >>> pixels = np.ones((1, 20, 30))
    >>> obs = Observation.from_arrays(pixels, variance=pixels, psfs=np.ones((1, 1)))
    >>> read_positions([(25.0, 4.0)], obs).row_column
    array([[ 4., 25.]])
    """
    table = _as_table(source)
    if len(table) == 0:
        raise InputError("the catalog has no rows; give the position of at least one source.")
    columns = {name.lower(): name for name in reversed(table.colnames)}
    ids = _ids(table, columns)
    row_column = _pixel_positions(table, columns, ids, obs)
    _check_inside(row_column, ids, obs.shape, margin)
    _check_distances(row_column, ids)
    return Positions(ids, row_column, _is_point(table, columns, ids))


def _as_table(source) -> Table:
    if isinstance(source, Table):
        return source
    if isinstance(source, str | os.PathLike):
        return _read_table(Path(source))
    array = numeric(source, "the array of positions")
    if array.size == 0:
        return Table()
    if array.ndim != 2 or array.shape[1] != 2:
        raise InputError(f"positions have the shape {array.shape}; give [K, 2] of (x, y) pixels.")
    return Table({"x": array[:, 0], "y": array[:, 1]})


def _read_table(path: Path) -> Table:
    endings = (*_TABLE_FORMATS, *FITS_ENDINGS, *NPZ_ENDINGS)
    path = check_file(path, endings, "catalog")
    name = path.name.lower()
    if name.endswith(NPZ_ENDINGS):
        archive = load_npz(path)
        if "catalog" not in archive:
            raise InputError(f"{path.name} holds no array `catalog`; found {', '.join(archive)}.")
        return plain_catalog(archive["catalog"])
    if name.endswith(FITS_ENDINGS):
        tables = [hdu for hdu in load_hdus(path) if isinstance(hdu.data, Table)]
        if not tables:
            raise InputError(f"{path.name} holds no table; put the positions in a table extension.")
        return next((hdu.data for hdu in tables if hdu.name == "CATALOG"), tables[0].data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Table.read(path, format=_TABLE_FORMATS[path.suffix.lower()])
    except Exception as error:  # astropy's readers raise whatever their parsers do
        reason = (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".:")
        raise InputError(
            f"{path.name} is not a readable table: {reason}; give columns under one line of names."
        ) from error


def _first(columns: dict[str, str], names: Sequence[str]) -> str | None:
    return next((columns[name] for name in names if name in columns), None)


def _ids(table: Table, columns: dict[str, str]) -> tuple[str, ...]:
    name = _first(columns, _ID_COLUMNS)
    if name is None:
        return tuple(str(number) for number in range(len(table)))
    ids = tuple(_text(value) for value in table[name])
    if len(set(ids)) < len(ids):
        twice = next(value for value in ids if ids.count(value) > 1)
        raise InputError(f"the id {twice!r} stands twice in the catalog; ids must differ.")
    return ids


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _values(table: Table, name: str, unit: units.UnitBase) -> np.ndarray:
    """Return a column as float64, converted to `unit` if it has one; NaN where masked."""
    column = table[name]
    mask = np.broadcast_to(getattr(column, "mask", False), (len(table),))
    given = getattr(column, "unit", None)
    values = getattr(column, "value", column)
    # Masked text has no `unmasked`.
    values = np.ma.getdata(getattr(values, "unmasked", values))
    if values.dtype.kind not in "fiu" or values.shape != (len(table),):
        raise InputError(f"the column {name!r} does not hold numbers; give one number per row.")
    values = values.astype(np.float64)
    if given is not None:
        try:
            values = values * given.to(unit)
        except units.UnitConversionError as error:
            raise InputError(f"the column {name!r} is in {given}; give it in {unit}.") from error
    return np.where(mask, np.nan, values)


def _pixel_positions(
    table: Table, columns: dict[str, str], ids: tuple[str, ...], obs: Observation
) -> np.ndarray:
    for x_name, y_name, first_pixel in _PIXEL_COLUMNS:
        if x_name in columns and y_name in columns:
            x = _values(table, columns[x_name], units.pix)
            y = _values(table, columns[y_name], units.pix)
            _check_finite(np.stack([x, y], axis=1), ids)
            return np.stack([y, x], axis=1) - first_pixel
    sky = _sky_positions(table, columns, ids)
    if sky is None:
        found = ", ".join(table.colnames) or "none"
        raise InputError(
            f"the catalog has no columns of positions; give x and y (pixels) or ra and dec "
            f"(degrees); found {found}."
        )
    if obs.wcs is None:
        raise InputError(
            "the catalog gives positions on the sky but the observation has no WCS; give x "
            "and y in pixels."
        )
    try:
        x, y = obs.wcs.world_to_pixel(sky)
    except Exception as error:  # NoConvergence of distortions far outside the image
        raise InputError(
            "the catalog's positions on the sky are too far from the image for its WCS; "
            "keep the sources in the image only."
        ) from error
    return np.stack([np.atleast_1d(y), np.atleast_1d(x)], axis=1).astype(np.float64)


def _sky_positions(table: Table, columns: dict[str, str], ids: tuple[str, ...]) -> SkyCoord | None:
    name = _first(columns, _COORDINATE_COLUMNS)
    if name is not None and isinstance(table[name], SkyCoord):
        sky = table[name]
        lon_lat = np.stack([sky.spherical.lon.deg, sky.spherical.lat.deg], axis=1)
        _check_finite(np.ma.filled(lon_lat, np.nan), ids)
        return sky
    for ra_name, dec_name in _SKY_COLUMNS:
        if ra_name in columns and dec_name in columns:
            ra = _values(table, columns[ra_name], units.deg)
            dec = _values(table, columns[dec_name], units.deg)
            _check_finite(np.stack([ra, dec], axis=1), ids)
            if np.abs(dec).max() > 90:
                worst = int(np.argmax(np.abs(dec)))
                raise InputError(
                    f"source {ids[worst]!r} has the declination {dec[worst]:g} degrees; it must "
                    "be within -90 and 90."
                )
            return SkyCoord(ra, dec, unit="deg")
    return None


def _check_finite(values: np.ndarray, ids: tuple[str, ...]) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise InputError(
            f"{bad.size} position(s) are not finite or missing, first of source "
            f"{ids[bad[0]]!r}; remove them."
        )


def _check_inside(
    row_column: np.ndarray, ids: tuple[str, ...], shape: tuple[int, int], margin: float
) -> None:
    # Pixel centers are integers, so the image ends half a pixel beyond the last center.
    low, high = -0.5 - margin, np.array(shape) - 0.5 + margin
    with np.errstate(invalid="ignore"):
        inside = ((row_column >= low) & (row_column < high)).all(axis=1)
    bad = np.flatnonzero(~inside)  # NaN too: behind the projection
    if bad.size:
        row, column = row_column[bad[0]]
        raise InputError(
            f"{bad.size} of {len(ids)} source(s) are outside the image of {shape[1]} x {shape[0]} "
            f"pixels, first source {ids[bad[0]]!r} at (x = {column:.2f}, y = {row:.2f}); remove "
            "them or check the columns and the WCS."
        )


def _check_distances(row_column: np.ndarray, ids: tuple[str, ...]) -> None:
    pairs = cKDTree(row_column).query_pairs(_MIN_DISTANCE, output_type="ndarray")
    distances = np.hypot(*(row_column[pairs[:, 0]] - row_column[pairs[:, 1]]).T)
    close = pairs[distances < _MIN_DISTANCE]
    if len(close):
        first, second = close[np.lexsort(close.T[::-1])[0]]
        raise InputError(
            f"{len(close)} pair(s) of sources are at the same place (closer than "
            f"{_MIN_DISTANCE} pixel), first {ids[first]!r} and {ids[second]!r}; keep one of each."
        )


def _is_point(table: Table, columns: dict[str, str], ids: tuple[str, ...]) -> np.ndarray:
    name = _first(columns, _STAR_COLUMNS)
    if name is not None:
        column = table[name]
        values = np.ma.filled(np.ma.asarray(column), 0)
        if values.dtype.kind not in "biuf" and not np.isin(values, ("True", "False")).all():
            raise InputError(f"the column {name!r} must hold true or false.")
        if values.dtype.kind in "biuf" and not np.isin(values, (0, 1)).all():
            raise InputError(f"the column {name!r} must hold true or false (1 or 0).")
        return values == "True" if values.dtype.kind not in "biuf" else values.astype(bool)
    if "type" not in columns:
        return np.zeros(len(table), bool)
    kinds = [_text(value).strip().lower() for value in table[columns["type"]]]
    for source, kind in zip(ids, kinds):
        if kind not in (*_POINT_TYPES, *_EXTENDED_TYPES):
            raise InputError(
                f"source {source!r} has the type {kind!r}; give "
                f"{', '.join((*_POINT_TYPES, *_EXTENDED_TYPES))}."
            )
    return np.array([kind in _POINT_TYPES for kind in kinds])
