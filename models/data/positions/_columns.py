"""Columns of catalogs: the names that surveys and programs give them, and their values."""

from collections.abc import Iterable, Sequence

import numpy as np
from astropy import units
from astropy.table import Table

from scorepriors._errors import InputError

#: Columns of pixel positions (lower case), and the number of the first pixel.
PIXEL_COLUMNS = (
    ("x", "y", 0),
    ("xcentroid", "ycentroid", 0),  # photutils
    ("x_centroid", "y_centroid", 0),
    ("x_fit", "y_fit", 0),
    ("x_0", "y_0", 0),
    ("x_init", "y_init", 0),
    ("x_pixel", "y_pixel", 0),
    ("x_pix", "y_pix", 0),
    ("xpix", "ypix", 0),
    ("xpos", "ypos", 0),
    ("xwin_image", "ywin_image", 1),  # SExtractor
    ("x_image", "y_image", 1),
    ("xpsf_image", "ypsf_image", 1),
    ("xmodel_image", "ymodel_image", 1),
    ("pixel_centroid_x", "pixel_centroid_y", 1),  # SourceXtractor++
    ("x_center", "y_center", 0),  # apertures of photutils
    ("xcenter", "ycenter", 0),  # the same before its version 3; in capitals those of IRAF
    ("bx", "by", 0),  # Tractor: pixels of its brick
    ("col", "row", 0),
    ("column", "row", 0),
)

#: Columns of these whose first pixel is 1 where they are written in capitals.
_FROM_ONE_IN_CAPITALS = ("XCENTER",)

#: Columns of positions on the sky, and their frame.
SKY_COLUMNS = (
    ("ra", "dec", "icrs"),
    ("right_ascension", "declination", "icrs"),  # Euclid MER
    ("coord_ra", "coord_dec", "icrs"),  # Rubin
    ("alphawin_j2000", "deltawin_j2000", "icrs"),  # SExtractor
    ("alphawin_sky", "deltawin_sky", "icrs"),
    ("alpha_j2000", "delta_j2000", "icrs"),
    ("alphapsf_j2000", "deltapsf_j2000", "icrs"),
    ("alpha_sky", "delta_sky", "icrs"),
    ("x_world", "y_world", "icrs"),
    ("world_centroid_alpha", "world_centroid_delta", "icrs"),  # SourceXtractor++
    ("ra_icrs", "de_icrs", "icrs"),  # VizieR
    ("_raj2000", "_dej2000", "icrs"),
    ("raj2000", "dej2000", "icrs"),
    ("raj2000", "decj2000", "icrs"),
    ("ra_j2000", "dec_j2000", "icrs"),
    ("ramean", "decmean", "icrs"),  # Pan-STARRS
    ("rastack", "decstack", "icrs"),
    ("s_ra", "s_dec", "icrs"),
    ("ra_deg", "dec_deg", "icrs"),
    ("radeg", "decdeg", "icrs"),
    ("radeg", "dedeg", "icrs"),
    ("raj", "decj", "icrs"),
    ("alpha", "delta", "icrs"),
    ("rightascension", "declination", "icrs"),
    ("r.a.", "dec.", "icrs"),
    ("glon", "glat", "galactic"),
    ("l", "b", "galactic"),
)

#: Columns of coordinate objects.
COORDINATE_COLUMNS = ("sky", "coord", "coords", "skycoord", "sky_centroid", "sky_centroid_icrs")


def by_lower_name(names: Sequence[str]) -> dict[str, str]:
    """Return names of columns by their names in lower case; of equal ones the first."""
    return {name.strip().lower(): name for name in reversed(list(names))}


def first_pixel(name: str, usual: int) -> int:
    """Return the number of the first pixel, for a column as the table writes its name."""
    return 1 if name.strip() in _FROM_ONE_IN_CAPITALS else usual


def first_of(columns: dict[str, str], names: Iterable[str]) -> str | None:
    """Return the first of `names` (lower case) that there is, as the table writes it."""
    return next((columns[name] for name in names if name in columns), None)


def has_positions(names: Sequence[str]) -> bool:
    """Return whether there are columns of positions among these names."""
    columns = by_lower_name(names)
    pairs = [pair[:2] for pair in (*PIXEL_COLUMNS, *SKY_COLUMNS)]
    return any(x in columns and y in columns for x, y in pairs) or any(
        name in columns for name in COORDINATE_COLUMNS
    )


def plain(column) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a column without mask and unit, and where they are missing."""
    mask = getattr(column, "mask", False)
    values = getattr(column, "value", column)
    # Masked text has no `unmasked`.
    values = np.ma.getdata(getattr(values, "unmasked", values))
    missing = np.broadcast_to(mask, np.shape(values)).copy()
    if values.dtype.kind == "O":
        missing |= np.array([one is None for one in values.ravel()]).reshape(values.shape)
    return np.asarray(values), missing


def words(column) -> list[str]:
    """Return the values of a column as text without blanks around it; empty where missing."""
    values, missing = plain(column)
    pairs = zip(values, missing, strict=True)
    return ["" if bool(np.all(gone)) else text(one).strip() for one, gone in pairs]


def text(value) -> str:
    """Return a value as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def numbers(table: Table, name: str, unit: units.UnitBase | None = None) -> np.ndarray:
    """Return a column as float64, NaN where missing, converted to `unit` if it has one."""
    column = table[name]
    values, missing = plain(column)
    if values.dtype.kind in "OSU":
        values = _from_text(values, missing)
    if values.dtype.kind not in "fiu" or values.shape != (len(table),):
        raise InputError(f"the column {name!r} does not hold numbers; give one number per row.")
    values = values.astype(np.float64)
    given = getattr(column, "unit", None)
    if given is not None and unit is not None and not _means(given, unit):
        try:
            values = values * given.to(unit)
        except (units.UnitConversionError, ValueError) as error:
            raise InputError(f"the column {name!r} is in {given}; give it in {unit}.") from error
    return np.where(missing, np.nan, values)


def _means(given, unit: units.UnitBase) -> bool:
    """Return whether a word that astropy does not know is this unit, as in "pixels", "Degrees"."""
    known = {units.pix: ("pix", "px"), units.deg: ("deg", "°"), units.arcsec: ("arcsec", '"')}
    known[units.mas / units.yr] = ("mas", "milliarcsec")
    word = str(given).strip().lower()
    return isinstance(given, units.UnrecognizedUnit) and word.startswith(known[unit])


def _from_text(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return numbers that are written as text or are Python objects; else the values."""
    try:
        each = [np.nan if gone else float(one) for one, gone in zip(values, missing, strict=True)]
    except (TypeError, ValueError):
        return values
    return np.array(each, float)
