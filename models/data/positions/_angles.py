"""Angles of catalogs: degrees, radians or hours, as numbers or sexagesimal text."""

import re
from typing import NamedTuple

import numpy as np
from astropy import units
from astropy.coordinates import Angle
from astropy.table import Table

from scorepriors._errors import InputError

from ._columns import numbers, plain, words

#: A number of hours, minutes and seconds in the text of a unit, as VizieR writes it.
_HOURS = re.compile(r"h\W*:?\W*m", re.I)


class Angles(NamedTuple):
    """One way to read longitudes and latitudes.

    Attributes
    ----------
    lon, lat
        Degrees ``[K]``, NaN where missing.
    how
        The way, for messages.
    """

    lon: np.ndarray
    lat: np.ndarray
    how: str


def angles(table: Table, lon_name: str, lat_name: str) -> list[Angles]:
    """Return the ways to read two columns of angles, the most usual one first.

    A column with a unit, or with letters (``10h02m``), has one way.  Numbers without a unit are
    degrees, or else radians, as in source tables of Rubin, or hours; text such as ``10:02:30`` is in
    hours for a right ascension, or else in degrees.

    Raises
    ------
    InputError
        For text that is no angle, or a unit that is none of an angle.
    """
    given = [_is_text(table[name]) for name in (lon_name, lat_name)]
    if any(given):
        lat = _from_text(table, lat_name, "deg")
        ways = ("hours", "degrees") if _could_be_hours(table[lon_name]) else ("degrees",)
        return [
            Angles(_from_text(table, lon_name, "hourangle" if way == "hours" else "deg"), lat, way)
            for way in ways
        ]
    lon, lat = (_with_unit(table, name) for name in (lon_name, lat_name))
    known = [getattr(table[name], "unit", None) is not None for name in (lon_name, lat_name)]
    found = [Angles(lon, lat, "degrees")]
    if any(known):
        return found
    found.append(Angles(np.degrees(lon), np.degrees(lat), "radians"))
    found.append(Angles(15 * lon, lat, "hours and degrees"))
    return found


def _is_text(column) -> bool:
    values, missing = plain(column)
    if values.dtype.kind not in "OSU":
        return False
    try:
        np.array([one for one, gone in zip(values, missing, strict=True) if not gone], float)
    except (TypeError, ValueError):
        return True
    return False


def _with_unit(table: Table, name: str) -> np.ndarray:
    unit = getattr(table[name], "unit", None)
    if unit in (units.hour, units.hourangle):
        plainly = table[[name]]
        plainly[name] = np.asarray(plain(table[name])[0])
        return 15 * numbers(plainly, name)
    return numbers(table, name, units.deg)


def _could_be_hours(column) -> bool:
    """Return whether a column of text can be hours: by letters, the unit, or its numbers."""
    each = [word for word in words(column) if word]
    if any("d" in word.lower() or "°" in word for word in each):
        return False
    if any("h" in word.lower() for word in each):
        return True
    if not any(re.search(r"\d[:\s]\s*\d", word) for word in each):
        return False
    unit = str(getattr(column, "unit", None) or "")
    if unit and not _HOURS.search(unit) and unit not in ("hourangle", "h"):
        return False
    leading = [re.match(r"[+-]?\s*(\d+)", word) for word in each]
    return all(one is not None and int(one.group(1)) < 25 for one in leading)


def _from_text(table: Table, name: str, unit: str) -> np.ndarray:
    out = np.full(len(table), np.nan)
    for row, word in enumerate(words(table[name])):
        if not word or word.lower() in ("nan", "--"):
            continue
        try:
            # Minus signs of typesetting, and degrees as ASCII letters.
            clean = word.replace("\u2212", "-").replace("\u2013", "-").replace("°", "d")
            out[row] = Angle(clean, unit=unit).deg
        except Exception as error:  # astropy's parser raises what its grammar does
            raise InputError(
                f"the column {name!r} holds {word!r}, which is no angle; give degrees, or "
                "10:02:30.5 and -02:12:00."
            ) from error
    return out
